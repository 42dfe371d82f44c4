package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"text/tabwriter"

	"github.com/tachograph/tachograph/services/api/problem"
)

// DiffCommand is tacho diff.
type DiffCommand struct {
	Place
	Device string `arg:"" help:"Id of the device."`
	From   string `help:"The earlier moment: RFC 3339 or epoch milliseconds." required:"" env:"TACHO_DIFF_FROM" placeholder:"TIME"`
	To     string `help:"The later moment; without it now." env:"TACHO_DIFF_TO" placeholder:"TIME"`
	By     string `help:"Whose clock is meant: arrival or device." enum:"arrival,device" default:"arrival" env:"TACHO_DIFF_BY" placeholder:"CLOCK"`
}

// Run prints the signals whose values differ between two moments.
func (c *DiffCommand) Run(ctx context.Context, out *output) error {
	cl, err := c.client()
	if err != nil {
		return err
	}
	from, _, err := stateOf(ctx, cl, c.Device, c.From, c.By)
	var none *problem.Problem
	if errors.As(err, &none) && none.Code == problem.StateNotFound {
		err = nil // all that there is came later
	}
	if err != nil {
		return err
	}
	to, _, err := stateOf(ctx, cl, c.Device, c.To, c.By)
	if err != nil {
		return err
	}
	out.note("%s between positions %s and %s", printable(c.Device), from.Position, to.Position)
	table := tabwriter.NewWriter(out.w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(table, "MESSAGE\tSIGNAL\tFROM\tTO")
	for _, message := range slices.Sorted(maps.Keys(to.Messages)) {
		for _, signal := range slices.Sorted(maps.Keys(to.Messages[message])) {
			before, was := from.Messages[message][signal]
			after := to.Messages[message][signal]
			if was && bytes.Equal(before.Value, after.Value) {
				continue
			}
			old := "-"
			if was {
				old = compact(before.Value)
			}
			fmt.Fprintf(table, "%s\t%s\t%s\t%s\n", printable(message), printable(signal), old, compact(after.Value))
		}
	}
	return table.Flush()
}
