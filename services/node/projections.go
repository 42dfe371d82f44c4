package node

import (
	"context"
	"fmt"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/tachograph/tachograph/events"
	"github.com/tachograph/tachograph/projections"
	"github.com/tachograph/tachograph/projections/columnar"
	"github.com/tachograph/tachograph/projections/history"
	"github.com/tachograph/tachograph/projections/latest"
	"github.com/tachograph/tachograph/services/letters"
)

func (n *Node) startProjections(context.Context) error {
	if !n.cfg.Has("project") {
		return nil
	}
	changes, err := shadowTable()
	if err != nil {
		return err
	}
	steps, err := commandTable()
	if err != nil {
		return err
	}
	connections, err := presenceTable()
	if err != nil {
		return err
	}
	// What the janitor has purged is read back from where the writers put it.
	var archives columnar.Archives
	for _, s := range n.shards.Servers {
		archives = append(archives, &columnar.Archive{Server: s, Keep: n.cfg.KeepEvents})
	}
	whole := history.New(n.appends, archives, n.ledger, n.logger)
	n.past.Log, n.history = whole, whole
	n.shadows.Past(whole)
	n.commands.Past(whole)
	base := columnar.Config{
		Tables: &columnar.Tables{},
		Log:    whole, Catalog: n.catalog, Server: n.shards.Servers[0], MaxAge: n.cfg.BatchAge, RollUpEvery: n.cfg.RollUpEvery, Logger: n.logger,
		OnPanic: projections.OnPanic{Park: n.cfg.OnPanic == "park"},
		Keep:    columnar.Keep{Samples: n.cfg.KeepSamples, Events: n.cfg.KeepEvents, Minutes: n.cfg.Keep1m, Hours: n.cfg.Keep1h},
		Facts:   []columnar.FactTable{changes, steps, connections}, Views: append(append(views(), columnar.LetterView), columnar.AnalystViews(n.catalog.Schemas().All())...),
	}
	var written []uint16
	var writers, states []*projections.Restartable
	var stated []uint16
	js, err := jetstream.New(n.services)
	if err != nil {
		return err
	}
	folding := latest.Config{Log: whole, Catalog: n.catalog, KV: n.views, Snapshots: n.past.Snapshots, OnPanic: base.OnPanic, Logger: n.logger}
	for _, p := range n.log.Partitions() {
		if p == events.DeadLetterPartition {
			continue // what is there came from the writer itself
		}
		cfg := base
		cfg.Partition, cfg.Server = p, n.shards.Of(p)
		if p != events.ControlPartition || n.shards.Several() { // then the front has them
			cfg.Views = nil
		}
		w, err := projections.NewRestartable(func() (projections.Runner, error) { return n.newWriter(cfg) })
		if err != nil {
			return err
		}
		written, writers = append(written, p), append(writers, w)
		n.startRunner(w, n.afterEngine(w.Run))
		if p == events.ControlPartition {
			continue
		}
		state := folding
		state.Partition = p
		l, err := projections.NewRestartable(func() (projections.Runner, error) { return latest.New(state) })
		if err != nil {
			return err
		}
		n.startRunner(l, l.Run)
		stated, states = append(stated, p), append(states, l)
		n.restartable[p] = [2]*projections.Restartable{w, l}
	}
	n.startFront(base)
	n.audit = &columnar.Audit{Writer: base, Shards: n.shards, Log: n.log}
	n.replayable("columnar", &columnar.Replay{Writer: base, Shards: n.shards, Partitions: written, Pause: pauseAll(writers)})
	n.viewReplay = &latest.Replay{JS: js, Serving: folding, Partitions: stated, Replicas: n.cfg.Replicas, Pause: pauseAll(states)}
	n.replayable("latest", n.viewReplay)
	tables, err := columnar.NewLetters(n.shards.Front())
	if err != nil {
		return err
	}
	n.onStop("dead letters", func(context.Context) error { return tables.Close() })
	n.letters = letters.New(n.appends, n.catalog, tables)
	n.metrics.MustRegister(lagCollector{n.runners})
	return nil
}

func (n *Node) startRunner(r projections.Runner, run func(context.Context) error) {
	n.runners = append(n.runners, r)
	n.run(fmt.Sprintf("%s of partition %d", r.Name(), r.Status().Partition), run)
}

// afterEngine spares a writer the vain attempts while ClickHouse starts.
func (n *Node) afterEngine(run func(context.Context) error) func(context.Context) error {
	if n.engineReady == nil {
		return run
	}
	return func(ctx context.Context) error {
		select {
		case <-n.engineReady:
			return run(ctx)
		case <-ctx.Done():
			return nil
		}
	}
}
