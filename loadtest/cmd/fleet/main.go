// Command fleet plays devices against a running Tachograph and judges it from
// outside.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/alecthomas/kong"

	"github.com/tachograph/tachograph/loadtest/fault"
)

type commands struct {
	Run       runCommand       `cmd:"" help:"Start a node, play the demo fleet, stop all in order on Ctrl-C."`
	Demo      demoCommand      `cmd:"" help:"Play the recorded drives against a running node."`
	Load      loadCommand      `cmd:"" help:"Simulated cars at a rate that does not wait for answers: losses, then latencies."`
	Verify    verifyCommand    `cmd:"" help:"Judge: what was acknowledged against the log and ClickHouse."`
	Fault     faultCommand     `cmd:"" help:"Kill a node with -9 again and again, then judge."`
	Trials    trialsCommand    `cmd:"" help:"A cluster of processes that are killed, paused, doubled and cut off by seed; every table and roll-up is judged."`
	Commands  commandsCommand  `cmd:"" help:"Cars that come and go obey a node that is killed again and again, then judge."`
	Replays   replaysCommand   `cmd:"" help:"Make histories, and everything of them anew in every way, with kills in the middle; each row and document must be the same."`
	Bench     benchCommand     `cmd:"" help:"Ratios of this machine: the gateway and ClickHouse beside their peers."`
	Parts     partsCommand     `cmd:"" help:"A steady load of 1, 10 and 100 message types: active parts of each table, inserts and merges over time."`
	Delay     delayCommand     `cmd:"" help:"How long after its acknowledgement a message can be queried, at 10, 50 and 90 % of the sustained rate."`
	CheckData checkDataCommand `cmd:"" help:"Hold the recorded drives to their known facts."`
}

func main() {
	fault.MaybeNATS()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	var c commands
	k := kong.Parse(&c, kong.Name("fleet"), kong.Description("Plays devices and judges what became of their messages."), kong.UsageOnError(),
		kong.BindTo(ctx, (*context.Context)(nil)))
	if err := k.Run(); err != nil && !(ctx.Err() != nil && errors.Is(err, context.Canceled)) {
		fmt.Fprintln(os.Stderr, "fleet:", err)
		os.Exit(1)
	}
}
