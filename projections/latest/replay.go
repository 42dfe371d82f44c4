package latest

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/tachograph/tachograph/events"
	"github.com/tachograph/tachograph/projections"
)

// The buckets beside the serving one.
const (
	replayBucket = Bucket + "_replay" // what a replay builds
	beforeBucket = Bucket + "_before" // the documents that a replay has replaced, for Undo
)

// phaseKey is where these say what they are. No device has it, see positionKey.
const phaseKey = "=replay.phase"

const (
	phaseDry    = "dry"    // to be compared and thrown away
	phaseWhole  = "whole"  // to take over
	phaseTaking = "taking" // a replay replaces documents: those that are here are the ones of before
	phaseBefore = "before" // it has
)

// A Replay folds the view anew in a bucket beside the serving one, from the log's
// beginning to its live end, compares the two document by document and replaces
// those that differ. The serving projections go on but for the moment of
// comparing and replacing, which they stand still for at equal positions. What
// is interrupted goes on where it was, the replacing as well: each document is
// a fold of its device's events, whichever of the two it is. Readers see a
// device's old document or its new one, never a mixture.
type Replay struct {
	JS         jetstream.JetStream
	Serving    Config // of a serving projection; Partition is not used
	Partitions []uint16
	Replicas   int                                              // of the buckets
	Pause      func(context.Context) (resume func(), err error) // stops the serving projections where they can go on

	// Fault, for tests, is asked before each document is replaced; its error is the step's.
	Fault func(step string) error
}

// Build folds the view anew, compares it with the one that serves and, unless
// dry, replaces what differs. rate bounds the events a second over all
// partitions, 0 not; progress hears about five times a second.
//
// Errors: *events.TruncatedError when the log was purged, and those of the
// buckets and of the log.
func (r *Replay) Build(ctx context.Context, dry bool, rate float64, progress func(projections.Progress)) ([]projections.TableReport, error) {
	if err := r.Check(ctx); err != nil {
		return nil, err
	}
	kv, err := r.begin(ctx, dry)
	if err != nil {
		return nil, err
	}
	fence := projections.NewFence(projections.Throttle(r.Serving.Log, rate))
	building, err := r.start(ctx, kv, fence, dry)
	if err != nil {
		return nil, err
	}
	defer func() { _ = building.Stop() }() // its error was told already
	if err := r.approach(ctx, building, fence, progress); err != nil {
		return nil, err
	}
	resume, err := r.Pause(ctx)
	if err != nil {
		return nil, err
	}
	defer resume()
	progress(building.Done(projections.Progress{Phase: "comparing"}))
	stood, err := r.cursors(ctx)
	if err != nil {
		return nil, err
	}
	for p, c := range stood {
		fence.Move(p, c.Position.Seq)
	}
	if err := building.CatchUp(ctx, "comparing", fence.Reached, progress); err != nil {
		return nil, err
	}
	if err := building.Stop(); err != nil {
		return nil, err
	}
	report, differing, err := r.compare(ctx, kv)
	if err == nil && !dry {
		progress(building.Done(projections.Progress{Phase: "swapping"}))
		err = r.take(ctx, kv, differing, stood)
	}
	if err != nil {
		return []projections.TableReport{report}, err
	}
	return []projections.TableReport{report}, r.drop(ctx, replayBucket)
}

// near is how many events may have come in during a look at the live end for the
// serving projections to be stopped.
const near = 1000

// approach builds up to the live end, which the serving projections have reached
// as well. It looks again as long as each look halves what is left.
func (r *Replay) approach(ctx context.Context, building *projections.Rebuild, fence *projections.Fence, progress func(projections.Progress)) error {
	at := map[uint16]events.Position{}
	for left := uint64(math.MaxUint64); ; {
		grown := uint64(0)
		for _, p := range r.Partitions {
			bounds, err := r.Serving.Log.Bounds(ctx, p)
			if err != nil {
				return fmt.Errorf("look for the live end: %w", err)
			}
			grown += bounds.Newest.Seq - min(bounds.Newest.Seq, at[p].Seq)
			at[p] = bounds.Newest
			fence.Move(p, bounds.Newest.Seq)
		}
		if err := building.CatchUp(ctx, "building", fence.Reached, progress); err != nil {
			return err
		}
		if grown < near || grown > left/2 {
			break
		}
		left = grown
	}
	// What is built must not be ahead of what serves once that stands still.
	patience := time.Now().Add(servingPatience)
	for {
		err := r.reached(ctx, at)
		if err == nil || time.Now().After(patience) {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// servingPatience is how long a replay waits for the serving projections to be
// where it is.
const servingPatience = 30 * time.Second

// reached tells whether the serving projections have.
func (r *Replay) reached(ctx context.Context, at map[uint16]events.Position) error {
	for _, p := range r.Partitions {
		stands, err := Reached(ctx, r.Serving.KV, p)
		if err != nil {
			return err
		}
		if at[p].Seq > 0 && before(stands, at[p]) {
			return fmt.Errorf("compare: the serving view stands at %s and does not reach %s (remedy: see why in /v1/status, then replay again)", stands, at[p])
		}
	}
	return nil
}

// Check tells whether a replay could read all that it needs.
//
// Errors: *events.TruncatedError when the log was purged beyond.
func (r *Replay) Check(ctx context.Context) error {
	for _, p := range r.Partitions {
		bounds, err := r.Serving.Log.Bounds(ctx, p)
		if err != nil {
			return fmt.Errorf("look whether the log can be replayed: %w", err)
		}
		if bounds.Oldest.Seq > 1 {
			return fmt.Errorf("the view cannot be built from a log that was purged (remedy: refill a log from the archive and replay that): %w",
				&events.TruncatedError{Asked: events.Position{Epoch: bounds.Oldest.Epoch, Partition: p}, Oldest: bounds.Oldest})
		}
	}
	return nil
}

// bucket opens one of the buckets beside the serving one, or makes it. A server
// that still removes one of that name refuses for a moment.
func (r *Replay) bucket(ctx context.Context, name string) (jetstream.KeyValue, error) {
	cfg := BucketConfig(r.Replicas)
	cfg.Bucket, cfg.Description = name, "of a replay of the view "+Bucket
	for patience := time.Now().Add(bucketPatience); ; {
		kv, err := r.JS.CreateOrUpdateKeyValue(ctx, cfg)
		if err == nil {
			return kv, nil
		}
		if ctx.Err() != nil || time.Now().After(patience) {
			return nil, fmt.Errorf("open bucket %s: %w", name, err)
		}
		select {
		case <-ctx.Done():
		case <-time.After(20 * time.Millisecond):
		}
	}
}

const bucketPatience = 10 * time.Second

// begin makes the bucket to build in, or finds the one of a replay of this kind
// that was interrupted: a dry one has made no snapshots.
func (r *Replay) begin(ctx context.Context, dry bool) (jetstream.KeyValue, error) {
	kind := phaseWhole
	if dry {
		kind = phaseDry
	}
	kv, err := r.bucket(ctx, replayBucket)
	if err != nil {
		return nil, err
	}
	switch there, err := valueOf(ctx, kv, phaseKey); {
	case err != nil:
		return nil, err
	case string(there) == kind:
		return kv, nil
	case len(there) > 0:
		if err := r.drop(ctx, replayBucket); err != nil {
			return nil, err
		}
		if kv, err = r.bucket(ctx, replayBucket); err != nil {
			return nil, err
		}
	}
	if _, err := kv.Put(ctx, phaseKey, []byte(kind)); err != nil {
		return nil, fmt.Errorf("begin replay: %w", err)
	}
	return kv, nil
}

func (r *Replay) drop(ctx context.Context, name string) error {
	if err := r.JS.DeleteKeyValue(ctx, name); err != nil && !errors.Is(err, jetstream.ErrBucketNotFound) {
		return fmt.Errorf("remove bucket %s: %w", name, err)
	}
	return nil
}

// Discard removes what replays have put aside or not finished: the next one
// begins anew, and what was replaced cannot come back. None may run.
func (r *Replay) Discard(ctx context.Context) error {
	return errors.Join(r.drop(ctx, replayBucket), r.drop(ctx, beforeBucket))
}

func (r *Replay) start(ctx context.Context, kv jetstream.KeyValue, log events.Log, dry bool) (*projections.Rebuild, error) {
	var runners []projections.Runner
	for _, p := range r.Partitions {
		cfg := r.Serving
		cfg.Partition, cfg.Log, cfg.KV = p, log, kv
		if dry {
			cfg.Snapshots = nil // looks at the past stay what they were
		}
		one, err := New(cfg)
		if err != nil {
			return nil, err
		}
		runners = append(runners, one)
	}
	return projections.StartRebuild(ctx, runners), nil
}

// cursors returns where the serving projections stand.
func (r *Replay) cursors(ctx context.Context) (map[uint16]events.Cursor, error) {
	return cursorsOf(ctx, r.Serving.KV, r.Partitions)
}

// cursorsOf leaves out the partitions of which a bucket has nothing.
func cursorsOf(ctx context.Context, kv jetstream.KeyValue, partitions []uint16) (map[uint16]events.Cursor, error) {
	all := map[uint16]events.Cursor{}
	for _, p := range partitions {
		text, err := valueOf(ctx, kv, positionKey(p))
		if err != nil {
			return nil, err
		}
		if len(text) == 0 {
			continue
		}
		var c events.Cursor
		if err := json.Unmarshal(text, &c); err != nil {
			return nil, fmt.Errorf("read position of partition %d: %w", p, err)
		}
		all[p] = c
	}
	return all, nil
}
