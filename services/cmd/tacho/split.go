package main

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	"github.com/alecthomas/kong"

	"github.com/tachograph/tachograph/services/node"
)

// SplitCommand is tacho split. It takes the flags of tacho serve: they say which
// log is split, and --partitions into how many.
type SplitCommand struct {
	Node nodeFlags `embed:""`
}

// Run splits the log. Interrupted or killed, it goes on when it is run again, or
// when a node starts with as many partitions.
func (c *SplitCommand) Run(ctx context.Context, out *output, parsed *kong.Context, limits choices) error {
	if err := c.Node.validate(limits, parsed); err != nil {
		return failed(exitUsage, "tacho check shows the configuration", "%w", err)
	}
	logger := slog.New(slog.NewTextHandler(out.notes, &slog.HandlerOptions{Level: slog.LevelWarn}))
	began := time.Now()
	had, err := node.Split(ctx, c.Node.config(), logger)
	n := c.Node.config().Partitions
	switch {
	case ctx.Err() != nil:
		return ctx.Err()
	case err != nil:
		return failed(exitFailed, "", "%w", err)
	case had == n:
		return out.line(fmt.Sprintf("the log has %d telemetry partitions already; nothing was done", n))
	}
	return out.line(fmt.Sprintf("%d telemetry partitions became %d in %s, and nothing was moved; every start from now on needs --partitions %d", had, n, time.Since(began).Round(time.Millisecond), n))
}
