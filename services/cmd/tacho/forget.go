package main

import (
	"context"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"text/tabwriter"
	"time"
)

// ForgetCommand is tacho forget.
type ForgetCommand struct {
	Place
	Device string `arg:"" help:"Id of the device; it need not be there any more."`
	From   string `help:"What arrived from then on: RFC 3339 or epoch milliseconds. Without it from the beginning." env:"TACHO_FORGET_FROM" placeholder:"TIME"`
	To     string `help:"What arrived before. Without it now." env:"TACHO_FORGET_TO" placeholder:"TIME"`
	NoWait bool   `help:"Ask only; it is carried out all the same." env:"TACHO_FORGET_NO_WAIT"`
}

type forgetStatus struct {
	ID, Device, State, Doing, Note string
	Counts                         map[string]uint64
	Done                           time.Time
}

// Run asks that what a device sent be forgotten, and shows how far it is until no
// byte of it is on the disk. Interrupted, it stops watching; the node goes on.
func (c *ForgetCommand) Run(ctx context.Context, out *output) error {
	cl, err := c.client()
	if err != nil {
		return err
	}
	var status forgetStatus
	ask := map[string]string{"device": c.Device, "from": c.From, "to": c.To}
	if _, err := cl.call(ctx, http.MethodPost, pathOf("v1", "forget"), ask, &status); err != nil {
		return err
	}
	if c.NoWait {
		out.note("asked; it is being carried out")
		_, err := fmt.Fprintln(out.w, printable(status.ID))
		return err
	}
	for shown := ""; status.State != "done"; {
		select {
		case <-time.After(300 * time.Millisecond):
		case <-ctx.Done():
			out.note("the node goes on with it; GET /v1/forget/%s tells how far it is", printable(status.ID))
			return ctx.Err()
		}
		status.Doing = ""
		if _, err := cl.call(ctx, http.MethodGet, pathOf("v1", "forget", status.ID), nil, &status); err != nil {
			return err
		}
		if status.Doing != "" && status.Doing != shown {
			shown = status.Doing
			out.note("%s", printable(shown))
		}
	}
	table := tabwriter.NewWriter(out.w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(table, "REMOVED FROM\tCOUNT")
	for _, what := range slices.Sorted(maps.Keys(status.Counts)) {
		fmt.Fprintf(table, "%s\t%d\n", printable(what), status.Counts[what])
	}
	if err := table.Flush(); err != nil {
		return err
	}
	out.note("its bytes have left the disk at %s; %s", status.Done.UTC().Format(time.RFC3339), printable(status.Note))
	return nil
}
