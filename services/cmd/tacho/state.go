package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"text/tabwriter"
	"time"

	"github.com/tachograph/tachograph/events"
)

// StateCommand is tacho state.
type StateCommand struct {
	Place
	Device string `arg:"" help:"Id of the device."`
	At     string `help:"As it was then: RFC 3339 or epoch milliseconds." env:"TACHO_STATE_AT" placeholder:"TIME"`
	By     string `help:"Whose clock --at means: arrival (what was known then) or device (what it had measured by then)." enum:"arrival,device" default:"arrival" env:"TACHO_STATE_BY" placeholder:"CLOCK"`
	JSON   bool   `help:"Print the API's answer." name:"json"`
}

// A deviceState is the answer to GET /v1/devices/{id}/state.
type deviceState struct {
	Device   string
	Received time.Time
	Position events.Position
	Messages map[string]map[string]struct {
		Value json.RawMessage
		Time  time.Time
		Flag  string
	}
}

// stateOf asks for a device's state; at may be empty.
func stateOf(ctx context.Context, cl *client, device, at, by string) (state deviceState, answer []byte, err error) {
	path := pathOf("v1", "devices", device, "state")
	if at != "" {
		path += "?" + url.Values{"at": {at}, "by": {by}}.Encode()
	}
	answer, err = cl.call(ctx, http.MethodGet, path, nil, &state)
	return state, answer, err
}

// Run prints the newest value of every signal of the device.
func (c *StateCommand) Run(ctx context.Context, out *output) error {
	cl, err := c.client()
	if err != nil {
		return err
	}
	state, answer, err := stateOf(ctx, cl, c.Device, c.At, c.By)
	if err != nil {
		return err
	}
	if c.JSON {
		return out.raw(answer)
	}
	out.note("%s, last heard of at %s, position %s", printable(state.Device), state.Received.UTC().Format(time.RFC3339), state.Position)
	table := tabwriter.NewWriter(out.w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(table, "MESSAGE\tSIGNAL\tVALUE\tTIME\tFLAG")
	for _, message := range slices.Sorted(maps.Keys(state.Messages)) {
		signals := state.Messages[message]
		for _, signal := range slices.Sorted(maps.Keys(signals)) {
			s := signals[signal]
			fmt.Fprintf(table, "%s\t%s\t%s\t%s\t%s\n", printable(message), printable(signal), compact(s.Value),
				s.Time.UTC().Format(time.RFC3339Nano), printable(s.Flag))
		}
	}
	return table.Flush()
}

// compact prints a JSON value on one line, safe for a terminal.
func compact(value json.RawMessage) string {
	var b bytes.Buffer
	if json.Compact(&b, value) != nil {
		return printable(string(value))
	}
	return printable(b.String())
}
