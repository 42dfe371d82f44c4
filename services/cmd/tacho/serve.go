package main

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"github.com/alecthomas/kong"

	"github.com/tachograph/tachograph/services/node"
)

// ServeCommand is tacho serve.
type ServeCommand struct {
	Node nodeFlags `embed:""`
}

// stopTime is how long a node may take to stop in order; what it could not
// finish by then is in the log and goes on at the next start.
const stopTime = 30 * time.Second

// Run runs a node until interrupted.
func (c *ServeCommand) Run(ctx context.Context, out *output, parsed *kong.Context, limits choices) error {
	if err := c.Node.validate(limits, parsed); err != nil {
		return failed(exitUsage, "tacho check shows the configuration", "%w", err)
	}
	logger := slog.New(slog.NewTextHandler(out.notes, nil))
	n, err := node.Start(ctx, c.Node.config(), logger)
	if err != nil {
		if ctx.Err() != nil && errors.Is(err, ctx.Err()) {
			return ctx.Err()
		}
		return failed(exitFailed, "", "start node: %w", err)
	}
	<-ctx.Done()
	out.note("stopping; interrupt again to end at once")
	stopping, cancel := context.WithTimeout(context.WithoutCancel(ctx), stopTime)
	defer cancel()
	if err := n.Stop(stopping); err != nil {
		return failed(exitFailed, "nothing acknowledged is lost; the next start goes on where this one was", "stop node: %w", err)
	}
	return nil
}
