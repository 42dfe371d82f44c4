package node

import (
	"context"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/tachograph/tachograph/events"
	"github.com/tachograph/tachograph/projections/columnar"
	"github.com/tachograph/tachograph/projections/forgotten"
	"github.com/tachograph/tachograph/projections/latest"
	"github.com/tachograph/tachograph/services/retention"
)

// startForgetting takes requests everywhere and carries them out where
// projections run.
func (n *Node) startForgetting() error {
	cfg := retention.ForgetConfig{Log: n.appends, Ledger: n.ledger, Logger: n.logger, Fault: n.cfg.fault}
	if !n.cfg.Has("project") {
		n.forgetter = retention.NewForgetter(cfg)
		return nil
	}
	js, err := jetstream.New(n.services)
	if err != nil {
		return err
	}
	cfg.Holders, cfg.Erase, cfg.Restate, cfg.Tables, cfg.View = n.holders(), n.log.Erase, n.roster.Restate, forgetTables{n}, n.forgetView
	cfg.Sweep = func(ctx context.Context, _ forgotten.Request) error {
		if err := retention.Sweep(ctx, js, latest.Bucket); err != nil {
			return err
		}
		return n.syncData()
	}
	n.forgetter = retention.NewForgetter(cfg)
	n.run("forgetting", n.forgetter.Run)
	return nil
}

// telemetryPartition is where the log keeps what a device measures.
func (n *Node) telemetryPartition(device string) uint16 {
	return events.Stream{Kind: events.Telemetry, ID: device}.PartitionIn(n.cfg.Partitions)
}

// forgetTables are those of ClickHouse.
type forgetTables struct{ *Node }

func (n forgetTables) erasure(r forgotten.Request) *columnar.Erasure {
	partition := n.telemetryPartition(r.Device)
	e := &columnar.Erasure{
		Server: n.server, Schemas: n.catalog.Schemas().All(), Partition: partition, Device: r.Device, From: r.From, To: r.To,
		Pause: n.restartable[partition][0].Pause, Tell: func(string) {},
	}
	if n.cfg.ClickHouse == "" {
		e.Sync = n.syncData
	}
	return e
}

// Count implements retention.Tables.
func (n forgetTables) Count(ctx context.Context, r forgotten.Request) (map[string]uint64, []events.Position, error) {
	return n.erasure(r).Count(ctx)
}

// Erase implements retention.Tables.
func (n forgetTables) Erase(ctx context.Context, r forgotten.Request, tell func(string)) error {
	e := n.erasure(r)
	e.Tell = tell
	_, err := e.Run(ctx)
	return err
}

// forgetView makes a device's state anew from what the log has, or, where that
// was purged, the archive, and removes the states of earlier that hold what goes,
// and all that a replay of the view has put aside.
func (n *Node) forgetView(ctx context.Context, r forgotten.Request) error {
	if err := n.replays["latest"].Stop(ctx); err != nil {
		return err
	}
	if err := n.viewReplay.Discard(ctx); err != nil {
		return err
	}
	partition := n.telemetryPartition(r.Device)
	resume, err := n.restartable[partition][1].Pause(ctx)
	if err != nil {
		return err
	}
	defer resume()
	upTo, err := latest.Reached(ctx, n.views, partition)
	if err != nil {
		return err
	}
	bounds, err := n.log.Bounds(ctx, partition)
	if err != nil {
		return err
	}
	refold := latest.Refold{
		KV: n.views, Registry: n.catalog.Schemas(), Device: r.Device, Removed: r.Covers, Whole: bounds.Oldest.Seq == 1,
		History: n.log.Read(ctx, events.Stream{Kind: events.Telemetry, ID: r.Device}, upTo),
	}
	if !refold.Whole {
		refold.History = columnar.History(ctx, n.server, r.Device, upTo)
	}
	if err := refold.Run(ctx); err != nil {
		return err
	}
	_, err = n.past.Snapshots.Forget(ctx, r.Device, r.From)
	return err
}
