package main

import (
	"context"
	"errors"
	"log/slog"
	"runtime"
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

const againPause = 2 * time.Second

// Run runs a node until interrupted.
func (c *ServeCommand) Run(ctx context.Context, out *output, parsed *kong.Context, limits choices) error {
	if err := c.Node.validate(limits, parsed); err != nil {
		return failed(exitUsage, "tacho check shows the configuration", "%w", err)
	}
	defer runtime.KeepAlive(ballast())
	logger := slog.New(slog.NewTextHandler(out.notes, nil))
	n, err := node.Start(ctx, c.Node.config(), logger)
	for err == nil {
		select {
		case <-ctx.Done():
			out.note("stopping; interrupt again to end at once")
			if err := stop(ctx, n); err != nil {
				return failed(exitFailed, "nothing acknowledged is lost; the next start goes on where this one was", "stop node: %w", err)
			}
			return nil
		case <-n.Broken():
			logger.Warn("the disk has room again; starting anew, because a write to the log had failed")
			n, err = startAgain(ctx, n, logger)
		}
	}
	if ctx.Err() != nil && errors.Is(err, ctx.Err()) {
		return ctx.Err()
	}
	return failed(exitFailed, "", "start node: %w", err)
}

func stop(ctx context.Context, n *node.Node) error {
	stopping, cancel := context.WithTimeout(context.WithoutCancel(ctx), stopTime)
	defer cancel()
	return n.Stop(stopping)
}

// startAgain stops a node that is broken and starts it on the same ports. What
// keeps it from that, such as a disk that is full again, is waited for.
func startAgain(ctx context.Context, n *node.Node, logger *slog.Logger) (*node.Node, error) {
	if err := stop(ctx, n); err != nil {
		logger.Error("the node did not stop in order; nothing acknowledged is lost", "error", err)
	}
	cfg := n.Again()
	for {
		n, err := node.Start(ctx, cfg, logger)
		if err == nil || ctx.Err() != nil {
			return n, err
		}
		logger.Error("the node does not start; trying again", "error", err, "again_in", againPause)
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(againPause):
		}
	}
}
