package node

import (
	"context"
	"log/slog"
	"time"

	"github.com/tachograph/tachograph/projections"
	"github.com/tachograph/tachograph/projections/columnar"
)

// A swapping writer finishes, each time before it starts, a swap of tables that was
// interrupted: by a crash, or by a ClickHouse that went away in the midst of it. On
// tables of which some are exchanged it would believe what the others don't have.
type swapping struct {
	*columnar.Writer
	finish func(context.Context) error
	logger *slog.Logger
}

// Run implements projections.Runner.
func (s swapping) Run(ctx context.Context) error {
	for pause := 100 * time.Millisecond; ; pause = min(2*pause, 5*time.Second) {
		err := s.finish(ctx)
		if err == nil {
			return s.Writer.Run(ctx)
		}
		if ctx.Err() != nil {
			return nil
		}
		s.logger.Warn("ClickHouse cannot be asked for an unfinished swap yet", "error", err)
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return nil
		}
	}
}

// newWriter makes a writer for a server's tables.
func (n *Node) newWriter(cfg columnar.Config) (projections.Runner, error) {
	w, err := columnar.New(cfg)
	if err != nil {
		return nil, err
	}
	return swapping{w, func(ctx context.Context) error {
		n.swaps.Lock() // of the writers that start at once one does it
		defer n.swaps.Unlock()
		return columnar.Recover(ctx, n.shards, cfg.Server)
	}, n.logger}, nil
}
