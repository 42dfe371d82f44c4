package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"text/tabwriter"
	"time"
)

// StateCommand is tacho state.
type StateCommand struct {
	Place
	Device string `arg:"" help:"Id of the device."`
	JSON   bool   `help:"Print the API's answer." name:"json"`
}

// Run prints the newest value of every signal of the device.
func (c *StateCommand) Run(ctx context.Context, out *output) error {
	cl, err := c.client()
	if err != nil {
		return err
	}
	var state struct {
		Device   string
		Received time.Time
		Messages map[string]map[string]struct {
			Value json.RawMessage
			Time  time.Time
			Flag  string
		}
	}
	answer, err := cl.call(ctx, http.MethodGet, pathOf("v1", "devices", c.Device, "state"), nil, &state)
	if err != nil {
		return err
	}
	if c.JSON {
		return out.raw(answer)
	}
	out.note("%s, last heard of at %s", printable(state.Device), state.Received.UTC().Format(time.RFC3339))
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
