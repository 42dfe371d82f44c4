package latest

import (
	"context"
	"encoding/json"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/tachograph/tachograph/events"
	"github.com/tachograph/tachograph/projections"
	"github.com/tachograph/tachograph/projections/buckets"
)

// A Replay folds the view anew beside the serving one and replaces the documents
// that differ, see buckets.Replay.
type Replay struct {
	JS         jetstream.JetStream
	Serving    Config // of a serving projection; Partition is not used
	Partitions []uint16
	Replicas   int                                              // of the buckets
	Pause      func(context.Context) (resume func(), err error) // stops the serving projections where they can go on

	// Fault, for tests, is asked before each document is replaced; its error is the step's.
	Fault func(step string) error
}

func (r *Replay) replay() *buckets.Replay {
	return &buckets.Replay{Fault: r.Fault, View: buckets.View{
		JS: r.JS, Log: r.Serving.Log, Serving: r.Serving.KV, Bucket: BucketConfig(r.Replicas), Partitions: r.Partitions, Pause: r.Pause,
		PositionKey: positionKey,
		Cursor: func(text []byte) (c events.Cursor, err error) {
			err = json.Unmarshal(text, &c)
			return c, err
		},
		Start: r.start,
	}}
}

func (r *Replay) start(kv jetstream.KeyValue, log events.Log, order projections.Order, parked *projections.Casualties) (runners []projections.Runner, err error) {
	for _, p := range r.Partitions {
		cfg := r.Serving
		cfg.Partition, cfg.Log, cfg.KV = p, log, kv
		cfg.OnPanic = projections.OnPanic{Park: order.Park, Tell: parked.Add}
		if order.Dry {
			cfg.Snapshots = nil // looks at the past stay what they were
		}
		one, err := New(cfg)
		if err != nil {
			return nil, err
		}
		runners = append(runners, one)
	}
	return runners, nil
}

// Build, Check, Undo and Discard are those of buckets.Replay.
func (r *Replay) Build(ctx context.Context, order projections.Order, progress func(projections.Progress)) ([]projections.TableReport, error) {
	return r.replay().Build(ctx, order, progress)
}

// Check tells whether a replay could read all that it needs.
func (r *Replay) Check(ctx context.Context) error { return r.replay().Check(ctx) }

// Undo puts the documents back that the last replay has replaced.
func (r *Replay) Undo(ctx context.Context) error { return r.replay().Undo(ctx) }

// Discard removes what a replay has built that did not come to its end.
func (r *Replay) Discard(ctx context.Context) error { return r.replay().Discard(ctx) }

// Clear removes all that replays have put aside or not finished.
func (r *Replay) Clear(ctx context.Context) error { return r.replay().Clear(ctx) }
