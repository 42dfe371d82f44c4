package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"text/tabwriter"
	"time"
)

// ReplayCommand is tacho replay.
type ReplayCommand struct {
	Place
	Projection string `arg:"" enum:"columnar,latest,shadow" help:"What to build anew: columnar, all tables of ClickHouse; latest, the state of every device; shadow, the bucket of shadows' documents."`
	DryRun     bool   `help:"Build and compare, swap nothing." xor:"what"`
	Undo       bool   `help:"Swap back what served before the last replay." xor:"what"`
	Discard    bool   `help:"Remove what a replay that was ended has built, and its room on the disk; the next one begins anew." xor:"what"`
	OnPanic    string `help:"What to do at an event at which the code breaks down: stop, or park it and go on." enum:"stop,park" default:"stop" env:"TACHO_REPLAY_ON_PANIC"`
	Rate       uint   `help:"Most events a second, so that live traffic keeps its pace; 0 is no limit." env:"TACHO_REPLAY_RATE" placeholder:"N"`
}

type replayStatus struct {
	State    string
	Progress struct {
		Phase       string
		Done, Total uint64
		Rate        float64
		Trouble     string
		Parked      uint64
		Breakdowns  []struct {
			Position            struct{ Epoch, Partition, Seq uint64 }
			Device, Type, Panic string
		}
	}
	Tables []struct {
		Table    string
		Old, New uint64
		OnlyOld  uint64 `json:"only_old"`
		OnlyNew  uint64 `json:"only_new"`
		Changed  uint64
		Examples []string
	}
	Error string
}

// Run replays and shows how far it is. Interrupted, it ends the replay; the next
// one goes on where it was.
func (c *ReplayCommand) Run(ctx context.Context, out *output) error {
	cl, err := c.client()
	if err != nil {
		return err
	}
	path := pathOf("v1", "replays", c.Projection)
	if c.Undo {
		if _, err := cl.call(ctx, http.MethodPost, path+"/undo", nil, nil); err != nil {
			return err
		}
		out.note("what served before the last replay serves again, and catches up")
		return nil
	}
	if c.Discard {
		if _, err := cl.call(ctx, http.MethodPost, path+"/discard", nil, nil); err != nil {
			return err
		}
		out.note("what the replay had built is gone; the next one begins anew")
		return nil
	}
	query := url.Values{}
	if c.DryRun {
		query.Set("dry_run", "true")
	}
	if c.Rate > 0 {
		query.Set("rate", strconv.FormatUint(uint64(c.Rate), 10))
	}
	if c.OnPanic == "park" {
		query.Set("on_panic", "park")
	}
	start := path
	if len(query) > 0 {
		start += "?" + query.Encode()
	}
	var status replayStatus
	if _, err := cl.call(ctx, http.MethodPost, start, nil, &status); err != nil {
		return err
	}
	shown := ""
	for status.State == "running" {
		select {
		case <-time.After(300 * time.Millisecond):
		case <-ctx.Done():
			ending, cancel := context.WithTimeout(context.WithoutCancel(ctx), 30*time.Second)
			defer cancel()
			if _, err := cl.call(ending, http.MethodDelete, path, nil, nil); err != nil {
				return errors.Join(ctx.Err(), err)
			}
			out.note("replay is ended; tacho replay %s goes on where it was, with --discard what is built goes", c.Projection)
			return ctx.Err()
		}
		if _, err := cl.call(ctx, http.MethodGet, path, nil, &status); err != nil {
			return err
		}
		if line := status.line(); line != shown {
			out.note("%s", line)
			shown = line
		}
	}
	if status.State != "done" {
		return failed(exitFailed, "start it again: it goes on where it was", "replay %s: %s %s", c.Projection, status.State, status.Error)
	}
	return c.report(out, &status)
}

// line says where a replay is: phase, share, rate, time left.
func (s *replayStatus) line() string {
	p := s.Progress
	line := fmt.Sprintf("%-9s %d of %d", p.Phase, p.Done, p.Total)
	if p.Total > 0 {
		line += fmt.Sprintf(", %d %%", 100*p.Done/p.Total)
	}
	if p.Rate > 0 && p.Done < p.Total {
		left := time.Duration(float64(p.Total-p.Done)/p.Rate) * time.Second
		line += fmt.Sprintf(", %.0f/s, %s left", p.Rate, left)
	}
	if p.Trouble != "" {
		line += "; waits: " + printable(p.Trouble)
	}
	return line
}

func (c *ReplayCommand) report(out *output, s *replayStatus) error {
	table := tabwriter.NewWriter(out.w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(table, "TABLE\tROWS\tANEW\tGONE\tADDED\tCHANGED\tSUCH AS")
	differ := 0
	for _, t := range s.Tables {
		example := ""
		if len(t.Examples) > 0 {
			example = t.Examples[0]
		}
		if t.OnlyOld+t.OnlyNew+t.Changed > 0 {
			differ++
		}
		fmt.Fprintf(table, "%s\t%d\t%d\t%d\t%d\t%d\t%s\n", printable(t.Table), t.Old, t.New, t.OnlyOld, t.OnlyNew, t.Changed, printable(example))
	}
	if err := table.Flush(); err != nil {
		return err
	}
	for _, b := range s.Progress.Breakdowns {
		out.note("parked %d.%d.%d: %s of %s: the code broke: %s", b.Position.Epoch, b.Position.Partition, b.Position.Seq, printable(b.Type), printable(b.Device), printable(b.Panic))
	}
	if more := s.Progress.Parked - uint64(len(s.Progress.Breakdowns)); more > 0 {
		out.note("and %d more were parked", more)
	}
	switch {
	case c.DryRun:
		out.note("%d tables differ; nothing was swapped", differ)
	default:
		out.note("%d tables differed; the new ones serve. tacho replay %s --undo takes it back", differ, c.Projection)
	}
	return nil
}
