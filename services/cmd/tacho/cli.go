package main

import (
	"context"
	"errors"
	"io"
	"slices"
	"strings"

	"github.com/alecthomas/kong"
)

// commands is the whole command line.
type commands struct {
	Config kong.ConfigFlag `help:"YAML file whose keys are names of flags; flags and variables are stronger." placeholder:"FILE"`

	Serve   ServeCommand   `cmd:"" help:"Run a node until interrupted."`
	Device  DeviceCommand  `cmd:"" aliases:"devices" help:"Add, list, watch and remove devices."`
	Schema  SchemaCommand  `cmd:"" help:"Register and show schemas."`
	Shadow  ShadowCommand  `cmd:"" help:"Show and change what devices should be."`
	Command CommandCommand `cmd:"" help:"Tell devices what to do, and see what came of it."`
	State   StateCommand   `cmd:"" help:"Print the newest value of every signal of a device."`
	Diff    DiffCommand    `cmd:"" help:"Print what changed in a device's state between two moments."`
	Tail    TailCommand    `cmd:"" help:"Print events as they are stored."`
	Replay  ReplayCommand  `cmd:"" help:"Build the tables of ClickHouse anew from the log, compare, swap."`
	Export  ExportCommand  `cmd:"" help:"Write the raw events into Parquet files, which import and any other tool can read."`
	Import  ImportCommand  `cmd:"" help:"Refill an empty log from an export: same ids, arrival times and positions."`
	Forget  ForgetCommand  `cmd:"" help:"Remove what a device sent in a stretch of time, everywhere, for good."`
	Log     LogCommand     `cmd:"" help:"Print what the log holds, how far it was purged, and who holds the rest."`
	Split   SplitCommand   `cmd:"" help:"Make --partitions telemetry partitions of the log of a stopped node, a multiple of what it has. There is no way back."`
	Letters LettersCommand `cmd:"" name:"dead-letters" help:"Messages that could not be read: list, show, replay, drop."`
	Verify  VerifyCommand  `cmd:"" help:"Hold the log against the tables of ClickHouse and name every difference."`
	SQL     SQLCommand     `cmd:"" name:"sql" help:"Ask ClickHouse, as a user that can only read."`
	Check   CheckCommand   `cmd:"" help:"Print the effective configuration and every problem in it."`
	Version VersionCommand `cmd:"" help:"Print what this binary is made of."`
}

const description = `Tachograph: the telemetry backend for fleets. Every message an immutable event, every device's latest state, all of it in ClickHouse.

Every flag is also an environment variable: --data is TACHO_DATA. Exit codes: 1 failed, 2 wrong usage, 3 no node answers, 4 not found, 5 denied, 6 exists already, 7 differs.`

// exitRequest is how kong's --help ends a parse.
type exitRequest int

// run is the command line: it returns the exit code and touches nothing of the
// process but what it is given and the environment.
func run(ctx context.Context, args []string, stdin io.Reader, stdout, stderr io.Writer) (code int) {
	defer func() {
		if caught := recover(); caught != nil {
			requested, ok := caught.(exitRequest)
			if !ok {
				panic(caught)
			}
			code = int(requested)
		}
	}()
	var c commands
	limits := choices{}
	parser, err := newParser(&c, limits, stdout, stderr)
	if err != nil {
		return report(stderr, err)
	}
	selected, err := parser.Parse(args)
	if err != nil {
		var wrong *kong.ParseError
		hint := "tacho --help"
		if errors.As(err, &wrong) && wrong.Context != nil && wrong.Context.Selected() != nil {
			hint = helpOf(wrong.Context.Selected())
			err = c.everyProblem(err, limits, wrong.Context)
		}
		return report(stderr, &fault{err: err, hint: hint, exit: exitUsage})
	}
	selected.BindTo(ctx, (*context.Context)(nil))
	selected.BindTo(stdin, (*io.Reader)(nil))
	selected.Bind(&output{w: stdout, notes: stderr}, selected, limits)
	if chosen := selected.Selected(); chosen.Path() != "serve" && chosen.Path() != "check" { // those tell it with all else that is wrong
		if err := limits.check(chosen.Flags); err != nil {
			return report(stderr, &fault{err: err, hint: helpOf(chosen), exit: exitUsage})
		}
	}
	if err := selected.Run(); err != nil {
		return report(stderr, err)
	}
	return exitOK
}

// helpOf says how to ask for a command's help, without the other names that
// kong puts into its path.
func helpOf(command *kong.Node) string {
	words := slices.DeleteFunc(strings.Fields(command.Path()), func(word string) bool { return strings.HasPrefix(word, "(") })
	return "tacho " + strings.Join(words, " ") + " --help"
}

// everyProblem adds to what is wrong in the configuration file what else is
// wrong with a node's configuration.
func (c *commands) everyProblem(err error, limits choices, parsed *kong.Context) error {
	var inFile fileProblems
	if errors.As(err, &inFile) {
		switch parsed.Selected().Path() {
		case "serve":
			return errors.Join(err, c.Serve.Node.validate(limits, parsed))
		case "check":
			return errors.Join(err, c.Check.Node.validate(limits, parsed))
		}
	}
	return err
}

func newParser(c *commands, limits choices, stdout, stderr io.Writer) (*kong.Kong, error) {
	return kong.New(c,
		kong.Name("tacho"),
		kong.Description(description),
		kong.Writers(stdout, stderr),
		kong.Exit(func(code int) { panic(exitRequest(code)) }),
		kong.PostBuild(limits.take),
		kong.DefaultEnvars("TACHO"),
		kong.Configuration(loadConfig),
		kong.ValueFormatter(withDefault),
		kong.ConfigureHelp(kong.HelpOptions{Compact: true, WrapUpperBound: 110}),
		kong.Vars{
			"sql_formats": terminalFormat.Name + " on a terminal, else " + pipeFormat.Name,
		},
	)
}

// withDefault adds to a flag's help what it is when nothing is said, where its
// placeholder has taken the default's place. Zero mostly means something else,
// which the help says.
func withDefault(value *kong.Value) string {
	help := kong.DefaultHelpValueFormatter(value)
	if f := value.Flag; f == nil || f.PlaceHolder == "" || !value.HasDefault || value.Default == "" || value.Default == "0" || strings.Contains(value.Help, value.Default) {
		return help
	}
	return strings.TrimSuffix(help, ".") + ", default " + value.Default + "."
}
