package node

import (
	"context"
	"iter"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/tachograph/tachograph/events"
	"github.com/tachograph/tachograph/projections"
	"github.com/tachograph/tachograph/projections/columnar"
	"github.com/tachograph/tachograph/projections/forgotten"
	"github.com/tachograph/tachograph/projections/latest"
	"github.com/tachograph/tachograph/services/retention"
)

// startForgetting takes requests everywhere and carries them out where
// projections run.
func (n *Node) startForgetting() error {
	cfg := retention.ForgetConfig{Log: n.appends, Ledger: n.ledger, Bases: n.compactor, Logger: n.logger, Fault: n.cfg.fault}
	if !n.cfg.Has("project") {
		n.forgetter = retention.NewForgetter(cfg)
		return nil
	}
	js, err := jetstream.New(n.services)
	if err != nil {
		return err
	}
	cfg.Holders, cfg.Erase, cfg.Restate, cfg.Tables, cfg.View = n.readers(), n.log.Erase, n.roster.Restate, forgetTables{n}, n.forgetView
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

// telemetryPartitions are where the log keeps what a device measures, and kept it
// before it was split, oldest first.
func (n *Node) telemetryPartitions(device string) []uint16 {
	return events.Filter{Kinds: []events.Kind{events.Telemetry}, ID: device}.Partitions(n.log.Layout())
}

// forgetTables are those of ClickHouse.
type forgetTables struct{ *Node }

// erasures are one for each server that has rows of the device: what it measured,
// and when it was connected. The newest come first, as what they have may have to
// go because of what the others have.
func (n forgetTables) erasures(r forgotten.Request) (all []*columnar.Erasure) {
	var servers []columnar.Server
	has := map[columnar.Server][]uint16{}
	for _, p := range n.telemetryPartitions(r.Device) {
		s := n.shards.Of(p)
		if has[s] == nil {
			servers = append(servers, s)
		}
		has[s] = append(has[s], p)
	}
	for i := len(servers) - 1; i >= 0; i-- {
		e := n.erasure(r, servers[i], has[servers[i]])
		e.Earlier = servers[:i]
		all = append(all, e)
	}
	if control := n.shards.Of(events.ControlPartition); has[control] == nil {
		all = append(all, n.erasure(r, control, nil))
	}
	return all
}

func (n forgetTables) erasure(r forgotten.Request, server columnar.Server, partitions []uint16) *columnar.Erasure {
	var writers []*projections.Restartable
	for _, p := range partitions {
		writers = append(writers, n.restartable[p][0])
	}
	e := &columnar.Erasure{
		Server: server, Schemas: n.catalog.Schemas().All(), Partitions: partitions, Device: r.Device, From: r.From, To: r.To,
		Pause: pauseAll(writers), Tell: func(string) {},
	}
	if len(n.cfg.ClickHouse) == 0 {
		e.Sync = n.syncData
	}
	return e
}

// Count implements retention.Tables.
func (n forgetTables) Count(ctx context.Context, r forgotten.Request) (map[string]uint64, []events.Position, error) {
	counts, unread := map[string]uint64{}, []events.Position(nil)
	for _, e := range n.erasures(r) {
		some, positions, err := e.Count(ctx)
		if err != nil {
			return nil, nil, err
		}
		for table, rows := range some {
			counts[table] += rows
		}
		unread = append(unread, positions...)
	}
	return counts, unread, nil
}

// Erase implements retention.Tables.
func (n forgetTables) Erase(ctx context.Context, r forgotten.Request, tell func(string)) error {
	for _, e := range n.erasures(r) {
		e.Tell = tell
		if _, err := e.Run(ctx); err != nil {
			return err
		}
	}
	return nil
}

// forgetView makes a device's state anew from what the log has, or, where that
// was purged, the archive, and removes the states of earlier that hold what goes,
// and all that a replay of the view has put aside.
func (n *Node) forgetView(ctx context.Context, r forgotten.Request) error {
	if err := n.replays["latest"].Stop(ctx); err != nil {
		return err
	}
	if err := n.viewReplay.Clear(ctx); err != nil {
		return err
	}
	partitions := n.telemetryPartitions(r.Device)
	var folds []*projections.Restartable
	for _, p := range partitions {
		folds = append(folds, n.restartable[p][1])
	}
	resume, err := pauseAll(folds)(ctx)
	if err != nil {
		return err
	}
	defer resume()
	refold := latest.Refold{KV: n.views, Registry: n.catalog.Schemas(), Device: r.Device, Removed: r.Covers, Whole: true}
	var upTo []events.Position // of each
	for _, p := range partitions {
		at, err := latest.Reached(ctx, n.views, p)
		if err != nil {
			return err
		}
		bounds, err := n.log.Bounds(ctx, p)
		if err != nil {
			return err
		}
		upTo, refold.Whole = append(upTo, at), refold.Whole && bounds.Oldest.Seq == 1
	}
	refold.History = n.log.Read(ctx, events.Stream{Kind: events.Telemetry, ID: r.Device}, upTo[len(upTo)-1])
	if !refold.Whole {
		refold.History = n.archived(ctx, r.Device, upTo)
	}
	if err := refold.Run(ctx); err != nil {
		return err
	}
	_, err = n.past.Snapshots.Forget(ctx, r.Device, r.From)
	return err
}

// archived yields what the tables have of a device's telemetry up to positions, one
// in each of its partitions.
func (n *Node) archived(ctx context.Context, device string, upTo []events.Position) iter.Seq2[events.Event, error] {
	return func(yield func(events.Event, error) bool) {
		for _, at := range upTo {
			for e, err := range columnar.History(ctx, n.shards.Of(at.Partition), device, at) {
				if !yield(e, err) || err != nil {
					return
				}
			}
		}
	}
}
