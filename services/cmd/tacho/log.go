package main

import (
	"context"
	"fmt"
	"net/http"
	"text/tabwriter"
	"time"

	"github.com/tachograph/tachograph/events"
)

// LogCommand is tacho log.
type LogCommand struct{ Place }

type logStatus struct {
	KeepSeconds float64 `json:"keep_seconds"`
	Partitions  []struct {
		Partition      uint16
		Oldest, Newest struct{ Seq uint64 }
		Due            uint64
		HeldBy         string `json:"held_by"`
		Why            string
	}
	Layout events.Layout
}

// Run prints what the log holds of each partition, and who keeps it from being
// purged further.
func (c *LogCommand) Run(ctx context.Context, out *output) error {
	cl, err := c.client()
	if err != nil {
		return err
	}
	var status logStatus
	if _, err := cl.call(ctx, http.MethodGet, pathOf("v1", "log"), nil, &status); err != nil {
		return err
	}
	table := tabwriter.NewWriter(out.w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(table, "PARTITION\tOLDEST\tNEWEST\tDUE\tHELD BY\tWHY")
	for _, p := range status.Partitions {
		fmt.Fprintf(table, "%d\t%d\t%d\t%d\t%s\t%s\n", p.Partition, p.Oldest.Seq, p.Newest.Seq, p.Due, printable(p.HeldBy), printable(p.Why))
	}
	if err := table.Flush(); err != nil {
		return err
	}
	if counts := status.Layout.Counts(); len(counts) > 1 {
		out.note("the log was made with %d telemetry partitions and split since: %s", counts[0], status.Layout)
	}
	if status.KeepSeconds == 0 {
		out.note("telemetry is kept for ever; serve --keep-log purges it")
	} else {
		out.note("what is older than %s is purged, up to DUE, unless it is held", time.Duration(status.KeepSeconds*float64(time.Second)))
	}
	return nil
}
