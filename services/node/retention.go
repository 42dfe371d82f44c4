package node

import (
	"context"
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"github.com/tachograph/tachograph/events"
	"github.com/tachograph/tachograph/projections/columnar"
	"github.com/tachograph/tachograph/projections/latest"
	"github.com/tachograph/tachograph/services/replays"
	"github.com/tachograph/tachograph/services/retention"
)

// startRetention purges the log where projections run, and tells everywhere.
func (n *Node) startRetention(context.Context) error {
	cfg := retention.Config{Log: n.log, Keep: n.cfg.KeepLog, Logger: n.logger, Holders: n.holders()}
	if len(n.cfg.ClickHouse) == 0 || n.cfg.NATS == "" {
		cfg.Sync = n.syncData
	}
	n.compactor = retention.NewCompactor(retention.CompactConfig{
		Log: n.log, Keep: n.cfg.KeepControl, Least: n.cfg.least, Holders: cfg.Holders, Ledger: n.ledger, Room: n.room, Sync: cfg.Sync, Logger: n.logger,
	})
	cfg.Control = n.compactor
	n.janitor = retention.New(cfg)
	n.metrics.MustRegister(n.janitor)
	if n.cfg.Has("project") && (n.cfg.KeepLog > 0 || n.cfg.KeepControl > 0) {
		n.run("janitor", n.janitor.Run)
	}
	return n.startForgetting()
}

// room tells that the disk has none for what need not be written.
func (n *Node) room() error {
	if n.disk == nil || n.disk.free.Load() >= n.disk.reserve {
		return nil
	}
	return fmt.Errorf("less than %d bytes of the disk are free (remedy: make room, or a smaller --log-reserve)", n.disk.reserve)
}

// holders are all that read telemetry from the log and may have to again. A replay
// is none of them: it reads on in the archive.
func (n *Node) holders() []retention.Holder {
	if !n.cfg.Has("project") {
		return nil
	}
	return []retention.Holder{
		{Name: "archive", Reached: func(ctx context.Context, p uint16) (events.Position, error) {
			return columnar.Reached(ctx, n.shards.Of(p), p)
		}},
		{Name: "latest", Reached: func(ctx context.Context, p uint16) (events.Position, error) {
			if p >= events.ControlPartition {
				return retention.Everything(p), nil
			}
			return latest.Reached(ctx, n.views, p)
		}},
	}
}

// readers are all that must have read what is removed for good: a replay could
// bring it back.
func (n *Node) readers() []retention.Holder {
	return append(n.holders(), retention.Holder{Name: "replay", Reached: func(_ context.Context, p uint16) (events.Position, error) {
		for _, r := range n.replays {
			if r.Status().State == replays.Running {
				return events.Position{Partition: p}, nil
			}
		}
		return retention.Everything(p), nil
	}})
}

// syncData brings to disk what the embedded servers have written. Neither syncs
// its views and tables by itself, as the log can make them again.
func (n *Node) syncData() error {
	dir, err := os.Open(n.cfg.Data)
	if err != nil {
		return fmt.Errorf("sync %s: %w", n.cfg.Data, err)
	}
	defer dir.Close()
	if err := unix.Syncfs(int(dir.Fd())); err != nil {
		return fmt.Errorf("sync %s: %w", n.cfg.Data, err)
	}
	return nil
}
