package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/alecthomas/kong"

	"github.com/tachograph/tachograph/events/jetlog"
	"github.com/tachograph/tachograph/services/archive"
	"github.com/tachograph/tachograph/services/node"
)

// ImportCommand is tacho import. It takes the flags of tacho serve: they say which
// log is refilled.
type ImportCommand struct {
	Dir  string    `arg:"" type:"path" help:"Folder that tacho export has written, without filters."`
	Obey []string  `help:"Folder of a later export (--kind forgotten is enough): what was asked to be forgotten by then is left out, too." type:"path" env:"TACHO_IMPORT_OBEY" placeholder:"DIR"`
	Node nodeFlags `embed:""`
}

const importEvery = time.Second // how often it says how far it is

// Run refills the log. Interrupted or killed, it goes on where it was when it is
// run again.
func (c *ImportCommand) Run(ctx context.Context, out *output, parsed *kong.Context, limits choices) error {
	if err := c.Node.validate(limits, parsed); err != nil {
		return failed(exitUsage, "tacho check shows the configuration", "%w", err)
	}
	var all []*archive.Archive
	for _, dir := range append([]string{c.Dir}, c.Obey...) {
		a, err := archive.Open(dir)
		if err != nil {
			return failed(exitFailed, "", "%w", err)
		}
		all = append(all, a)
	}
	phase, began, said := "", time.Time{}, time.Time{}
	tell := func(now string, done, total uint64) {
		if now != phase {
			phase, began, said = now, time.Now(), time.Time{}
		}
		if done == total || time.Since(said) >= importEvery {
			said = time.Now()
			out.note("%s", progressLine(now, done, total, began))
		}
	}
	logger := slog.New(slog.NewTextHandler(out.notes, &slog.HandlerOptions{Level: slog.LevelWarn}))
	report, err := node.Import(ctx, c.Node.config(), all[0], all[1:], logger, tell)
	switch {
	case ctx.Err() != nil:
		return ctx.Err()
	case errors.Is(err, jetlog.ErrNotEmpty):
		return failed(exitConflict, "name another --data folder, in which no node has run yet", "%w", err)
	case err != nil:
		return failed(exitFailed, "", "%w", err)
	}
	return out.line(fmt.Sprintf("%d events imported, %d left out as they were forgotten, %d positions empty; tacho serve --data %s folds them anew",
		report.Events, report.Forgotten, report.Empty, c.Node.Data))
}
