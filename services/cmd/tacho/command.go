package main

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"text/tabwriter"
	"time"
)

// CommandCommand is tacho command.
type CommandCommand struct {
	Send   CommandSend   `cmd:"" help:"Tell one or more devices to do something."`
	Show   CommandShow   `cmd:"" help:"Print where a command stands, or stood at a moment, and its steps until then."`
	Watch  CommandWatch  `cmd:"" help:"Print a command's steps as they happen, until its final state."`
	Cancel CommandCancel `cmd:"" help:"Cancel a command; one that was sent is only asked for."`
	List   CommandList   `cmd:"" help:"List a device's commands, newest first, as they are or were at a moment."`
}

// A told is a command as the API shows it.
type told struct {
	ID, Device, Name, State string
	Deadline                time.Time
	DryRun                  bool `json:"dry_run"`
	Final, Late             bool
	CancelRequested         bool `json:"cancel_requested"`
	Attempts                int
	Result                  json.RawMessage
	History                 []toldStep
}

// standing is the state, with what one should know beside it.
func (t *told) standing() string {
	state := t.State
	if t.Late {
		state += " (late)"
	}
	if t.DryRun {
		state += " (dry run)"
	}
	if t.CancelRequested && !t.Final {
		state += " (cancel requested)"
	}
	return state
}

type toldStep struct {
	Type, By, Reason, Code string
	At                     time.Time
	Late                   bool
	Result                 json.RawMessage
}

func (s toldStep) line() string {
	text := fmt.Sprintf("%s  %s  by %s", s.At.UTC().Format(time.RFC3339Nano), printable(s.Type), printable(s.By))
	for _, more := range []string{s.Code, s.Reason} {
		if more != "" {
			text += "  " + printable(more)
		}
	}
	if s.Result != nil {
		text += "  " + compact(s.Result)
	}
	if s.Late {
		text += "  (late)"
	}
	return text
}

// CommandSend is tacho command send.
type CommandSend struct {
	Place
	Device     []string `help:"Id of a further device." short:"d" placeholder:"ID" env:"TACHO_COMMAND_DEVICES"`
	To         string   `arg:"" name:"device" help:"Id of the device."`
	Name       string   `arg:"" help:"What to do, such as unlock."`
	Parameters []string `arg:"" optional:"" help:"One JSON object, or KEY=VALUE with a JSON value (or text) each."`
	Policy     string   `help:"now_or_never is written at most once, until_deadline until the device has acknowledged it." enum:"now_or_never,until_deadline" default:"now_or_never" placeholder:"POLICY"`
	Deadline   string   `help:"Nothing is sent after it: a duration from now, RFC 3339 or epoch milliseconds." default:"30s" placeholder:"TIME"`
	AnswerBy   string   `help:"Without a final answer by then it is timed out; a minute after the deadline by default." placeholder:"TIME"`
	Priority   int      `help:"Higher goes first." default:"0" placeholder:"N"`
	DryRun     bool     `help:"Have the device answer what it would have done."`
	Key        string   `help:"Idempotency key: the same key sends the same command only once." placeholder:"KEY"`
	Wait       bool     `help:"Print the steps and wait for the final state; fail unless it is succeeded." short:"w"`
	JSON       bool     `help:"Print the API's answer." name:"json"`
}

// Run queues the command and prints its id.
func (c *CommandSend) Run(ctx context.Context, out *output) error {
	request := map[string]any{"name": c.Name, "policy": c.Policy, "deadline": c.Deadline, "priority": c.Priority, "dry_run": c.DryRun}
	if c.AnswerBy != "" {
		request["answer_by"] = c.AnswerBy
	}
	if len(c.Parameters) > 0 {
		parameters, err := changeOf("send command", c.Parameters)
		if err != nil {
			return err
		}
		request["parameters"] = parameters
	}
	cl, err := c.client()
	if err != nil {
		return err
	}
	if c.Key != "" {
		cl.header = http.Header{"Idempotency-Key": {c.Key}}
	}
	if len(c.Device) > 0 {
		return c.many(ctx, cl, out, request)
	}
	var t told
	answer, err := cl.call(ctx, http.MethodPost, pathOf("v1", "devices", c.To, "commands"), request, &t)
	if err != nil {
		return err
	}
	switch {
	case c.JSON:
		err = out.raw(answer)
	default:
		err = out.line(t.ID)
	}
	if err != nil || !c.Wait {
		return err
	}
	return (&CommandWatch{Place: c.Place, Device: c.To, ID: t.ID, JSON: c.JSON, must: true}).Run(ctx, out)
}

// many queues it for several devices and prints a line for each.
func (c *CommandSend) many(ctx context.Context, cl *client, out *output, request map[string]any) error {
	if c.Wait {
		return failed(exitUsage, "tacho command watch DEVICE ID", "send command: --wait is for one device")
	}
	request["devices"] = append([]string{c.To}, c.Device...)
	var bulk struct {
		Results []struct {
			Device  string
			Command *told
			Error   *struct{ Message, Hint string }
		}
	}
	answer, err := cl.call(ctx, http.MethodPost, "/v1/commands", request, &bulk)
	if err != nil {
		return err
	}
	if c.JSON {
		return out.raw(answer)
	}
	refused := 0
	for _, r := range bulk.Results {
		if r.Command == nil {
			refused++
			message := ""
			if r.Error != nil {
				message = r.Error.Message
			}
			out.note("%s: %s", printable(r.Device), printable(message))
			continue
		}
		if err := out.line(printable(r.Device) + "\t" + r.Command.ID); err != nil {
			return err
		}
	}
	if refused > 0 {
		return failed(exitFailed, "see the lines above", "send command %s: %d of %d devices refused", printable(c.Name), refused, len(bulk.Results))
	}
	return nil
}

// A commandPlace names one command of one device.
type commandPlace struct {
	Device string `arg:"" help:"Id of the device."`
	ID     string `arg:"" help:"Id of the command."`
}

func (p commandPlace) path(more ...string) string {
	return pathOf(append([]string{"v1", "devices", p.Device, "commands", p.ID}, more...)...)
}

// CommandShow is tacho command show.
type CommandShow struct {
	Place
	Device string `arg:"" help:"Id of the device."`
	ID     string `arg:"" help:"Id of the command."`
	At     string `help:"As it was then: RFC 3339 or epoch milliseconds, by arrival." env:"TACHO_COMMAND_AT" placeholder:"TIME"`
	JSON   bool   `help:"Print the API's answer." name:"json"`
}

// Run prints the state and the steps that led to it.
func (c *CommandShow) Run(ctx context.Context, out *output) error {
	cl, err := c.client()
	if err != nil {
		return err
	}
	path := commandPlace{c.Device, c.ID}.path()
	if c.At != "" {
		path += "?" + url.Values{"at": {c.At}}.Encode()
	}
	var t told
	answer, err := cl.call(ctx, http.MethodGet, path, nil, &t)
	if err != nil {
		return err
	}
	if c.JSON {
		return out.raw(answer)
	}
	out.note("command %s to %s: %s is %s", t.ID, printable(t.Device), printable(t.Name), t.standing())
	for _, s := range t.History {
		if err := out.line(s.line()); err != nil {
			return err
		}
	}
	return nil
}

// CommandWatch is tacho command watch.
type CommandWatch struct {
	Place
	Device string `arg:"" help:"Id of the device."`
	ID     string `arg:"" help:"Id of the command."`
	JSON   bool   `help:"Print one JSON object a line." name:"json"`

	must bool // fail unless it succeeds
}

// Run prints the steps there are and each as it happens. A stream that breaks
// is taken up again where it ended.
func (c *CommandWatch) Run(ctx context.Context, out *output) error {
	cl, err := c.client()
	if err != nil {
		return err
	}
	cl.http.Timeout = 0 // it takes as long as the command
	place := commandPlace{c.Device, c.ID}
	for last := ""; ; {
		last, err = c.follow(ctx, cl, out, place.path("events"), last)
		if err != nil {
			return err
		}
		var t told
		if _, err := cl.call(ctx, http.MethodGet, place.path(), nil, &t); err != nil {
			return err
		}
		if t.Final && c.must && t.State != "succeeded" {
			return failed(exitFailed, "the steps above say why", "command %s to %s: %s", t.ID, printable(c.Device), t.State)
		}
		if t.Final {
			return nil
		}
		select { // the node stopped the stream: it is going down, or coming up
		case <-time.After(time.Second):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// follow prints one stream to its end and returns the last step's number.
func (c *CommandWatch) follow(ctx context.Context, cl *client, out *output, path, last string) (string, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, cl.base+path, nil)
	if err != nil {
		return last, err
	}
	if last != "" {
		req.Header.Set("Last-Event-ID", last)
	}
	resp, err := cl.open(req)
	if err != nil {
		return last, err
	}
	defer resp.Body.Close()
	lines := bufio.NewScanner(resp.Body)
	lines.Buffer(nil, 1<<20)
	id := last
	for lines.Scan() {
		switch field, value, _ := strings.Cut(lines.Text(), ": "); field {
		case "id":
			id = value
		case "data":
			var s toldStep
			if err := json.Unmarshal([]byte(value), &s); err != nil {
				return last, failed(exitFailed, "are tacho and the node of the same version?", "watch command: %w", err)
			}
			line := s.line()
			if c.JSON {
				line = value
			}
			if err := out.line(line); err != nil {
				return last, err
			}
			last = id
		}
	}
	return last, ctx.Err() // a broken stream is asked for again
}

// CommandCancel is tacho command cancel.
type CommandCancel struct {
	Place
	Device string `arg:"" help:"Id of the device."`
	ID     string `arg:"" help:"Id of the command."`
	Reason string `help:"Why, for the command's history." placeholder:"TEXT"`
	JSON   bool   `help:"Print the API's answer." name:"json"`
}

// Run cancels, and says whether it is an end or a request.
func (c *CommandCancel) Run(ctx context.Context, out *output) error {
	cl, err := c.client()
	if err != nil {
		return err
	}
	path := commandPlace{c.Device, c.ID}.path()
	if c.Reason != "" {
		path += "?" + url.Values{"reason": {c.Reason}}.Encode()
	}
	var t told
	answer, err := cl.call(ctx, http.MethodDelete, path, nil, &t)
	if err != nil {
		return err
	}
	if c.JSON {
		return out.raw(answer)
	}
	if t.State == "cancelled" {
		out.note("command %s is cancelled", t.ID)
	} else {
		out.note("command %s was sent already; the device is asked to give it up, tacho command watch shows whether it does", t.ID)
	}
	return nil
}

// CommandList is tacho command list.
type CommandList struct {
	Place
	Device string `arg:"" help:"Id of the device."`
	At     string `help:"All that there were then, as they were: RFC 3339 or epoch milliseconds, by arrival." env:"TACHO_COMMANDS_AT" placeholder:"TIME"`
	JSON   bool   `help:"Print one JSON object a line." name:"json"`
}

// Run lists what is open and what ended lately, or all that there was at a moment.
func (c *CommandList) Run(ctx context.Context, out *output) error {
	cl, err := c.client()
	if err != nil {
		return err
	}
	asked := url.Values{"limit": {"1000"}}
	if c.At != "" {
		asked.Set("at", c.At)
	}
	var list struct{ Commands []json.RawMessage }
	if _, err := cl.call(ctx, http.MethodGet, pathOf("v1", "devices", c.Device, "commands")+"?"+asked.Encode(), nil, &list); err != nil {
		return err
	}
	table := tabwriter.NewWriter(out.w, 0, 0, 2, ' ', 0)
	if !c.JSON {
		fmt.Fprintln(table, "ID\tCOMMAND\tSTATE\tATTEMPTS\tDEADLINE\tRESULT")
	}
	for _, raw := range list.Commands {
		if c.JSON {
			if err := out.raw(raw); err != nil {
				return err
			}
			continue
		}
		var t told
		if err := json.Unmarshal(raw, &t); err != nil {
			return failed(exitFailed, "are tacho and the node of the same version?", "list commands: %w", err)
		}
		fmt.Fprintf(table, "%s\t%s\t%s\t%d\t%s\t%s\n", t.ID, printable(t.Name), t.standing(), t.Attempts, t.Deadline.UTC().Format(time.RFC3339), compact(t.Result))
	}
	return table.Flush()
}
