package buckets

import (
	"context"
	"errors"
	"fmt"
	"math"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/tachograph/tachograph/events"
	"github.com/tachograph/tachograph/projections"
)

// A View is what there is to know of one to replay it.
type View struct {
	JS         jetstream.JetStream
	Log        events.Log
	Serving    jetstream.KeyValue
	Bucket     jetstream.KeyValueConfig // how the serving one is made
	Partitions []uint16                 // of the log, from which it is folded

	// Pause lets the serving projections stand still where they can go on, with all
	// that they have folded in the bucket.
	Pause func(context.Context) (resume func(), err error)

	// PositionKey is where a partition's position stands, Cursor reads it.
	PositionKey func(partition uint16) string
	Cursor      func(text []byte) (events.Cursor, error)

	// Start makes the projections that fold log into an empty bucket, or go on there.
	Start func(kv jetstream.KeyValue, log events.Log, order projections.Order, parked *projections.Casualties) ([]projections.Runner, error)

	// Truth returns what a key must have: of a document that is further along the log
	// than upTo, where the serving projections stood and up to where the view was
	// built, at its own position; of one that is not there, at any position from upTo
	// on. nil is none. A view without Truth has no such documents, but those of
	// another process.
	Truth func(ctx context.Context, key string, there, built []byte, upTo events.Position) ([]byte, error)
}

// A Replay folds a view anew in a bucket beside the serving one, from the log's
// beginning to its live end, compares the two document by document and replaces
// those that differ. The serving projections go on but for the moment of
// comparing and replacing, which they stand still for. What is interrupted goes on
// where it was, the replacing as well: each document is a fold of its own events,
// whichever of the two it is. Readers see an old document or its new one, never a
// mixture.
type Replay struct {
	View

	// Fault, for tests, is asked before each document is replaced; its error is the step's.
	Fault func(step string) error
}

// Build folds the view anew, compares it with the one that serves and, unless
// dry, replaces what differs; progress hears about five times a second.
//
// Errors: *events.TruncatedError when the log was purged, and those of the
// buckets and of the log.
func (r *Replay) Build(ctx context.Context, order projections.Order, progress func(projections.Progress)) ([]projections.TableReport, error) {
	parked, tell := &projections.Casualties{}, progress
	progress = func(p projections.Progress) { tell(parked.In(p)) }
	if err := r.Check(ctx); err != nil {
		return nil, err
	}
	kv, err := r.begin(ctx, order.Dry)
	if err != nil {
		return nil, err
	}
	fence := projections.NewFence(projections.Throttle(r.Log, order.Rate))
	runners, err := r.Start(kv, fence, order, parked)
	if err != nil {
		return nil, err
	}
	building := projections.StartRebuild(ctx, runners)
	defer func() { _ = building.Stop() }() // its error was told already
	upTo, err := r.approach(ctx, building, fence, progress)
	if err != nil {
		return nil, err
	}
	resume, err := r.Pause(ctx)
	if err != nil {
		return nil, err
	}
	defer resume()
	progress(building.Done(projections.Progress{Phase: "comparing"}))
	stood, err := r.stood(ctx, r.Serving)
	if err != nil {
		return nil, err
	}
	for p, at := range stood {
		if fence.Move(p, at.Position.Seq); before(upTo[p], at.Position) {
			upTo[p] = at.Position
		}
	}
	if err := building.CatchUp(ctx, "comparing", fence.Reached, progress); err != nil {
		return nil, err
	}
	if err := building.Stop(); err != nil {
		return nil, err
	}
	c := comparison{Replay: r, built: kv, upTo: upTo}
	report, err := c.run(ctx)
	if err == nil && !order.Dry {
		progress(building.Done(projections.Progress{Phase: "swapping"}))
		err = c.take(ctx, stood)
	}
	if err != nil {
		return []projections.TableReport{report}, err
	}
	return []projections.TableReport{report}, r.drop(ctx, r.replayBucket())
}

// near is how many events may have come in during a look at the live end for the
// serving projections to be stopped.
const near = 1000

// approach builds up to the live end, which the serving projections have reached
// as well, and returns it. It looks again as long as each look halves what is left.
func (r *Replay) approach(ctx context.Context, building *projections.Rebuild, fence *projections.Fence, progress func(projections.Progress)) (at map[uint16]events.Position, err error) {
	at = map[uint16]events.Position{}
	for left := uint64(math.MaxUint64); ; {
		grown := uint64(0)
		for _, p := range r.Partitions {
			bounds, err := r.Log.Bounds(ctx, p)
			if err != nil {
				return nil, fmt.Errorf("look for the live end: %w", err)
			}
			grown += bounds.Newest.Seq - min(bounds.Newest.Seq, at[p].Seq)
			at[p] = bounds.Newest
			fence.Move(p, bounds.Newest.Seq)
		}
		if err := building.CatchUp(ctx, "building", fence.Reached, progress); err != nil {
			return nil, err
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
			return at, err
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// servingPatience is how long a replay waits for the serving projections to be
// where it is.
const servingPatience = 30 * time.Second

// reached tells whether the serving projections have.
func (r *Replay) reached(ctx context.Context, at map[uint16]events.Position) error {
	stood, err := r.stood(ctx, r.Serving)
	if err != nil {
		return err
	}
	for _, p := range r.Partitions {
		stands := stood[p].Position
		if stands.Partition = p; at[p].Seq > 0 && before(stands, at[p]) {
			return fmt.Errorf("compare: the serving view stands at %s and does not reach %s (remedy: see why in /v1/projections, then replay again)", stands, at[p])
		}
	}
	return nil
}

// Check tells whether a replay could read all that it needs.
//
// Errors: *events.TruncatedError when the log was purged beyond.
func (r *Replay) Check(ctx context.Context) error {
	for _, p := range r.Partitions {
		bounds, err := r.Log.Bounds(ctx, p)
		if err != nil {
			return fmt.Errorf("look whether the log can be replayed: %w", err)
		}
		if bounds.Oldest.Seq == 1 {
			continue
		}
		from := events.Cursor{Position: events.Position{Epoch: bounds.Oldest.Epoch, Partition: p}}
		if p == events.ControlPartition { // a fold of it begins with the base
			base, err := r.Log.Base(ctx)
			if err != nil {
				return fmt.Errorf("look whether the log can be replayed: %w", err)
			}
			from.Position.Seq = base.UpTo.Seq
		}
		if _, err := r.Log.Locate(ctx, p, events.After(from)); err != nil {
			return fmt.Errorf("the view cannot be built from the log (remedy: refill one from an archive of files and replay that): %w", err)
		}
	}
	return nil
}

// Discard removes what a replay has built that did not come to its end, and its
// room on the disk: the next one begins anew. None may run.
//
// Errors: projections.ErrNothingToDiscard; projections.ErrSwapUnfinished when a
// replay died while it replaced documents: the rest of them is only there.
func (r *Replay) Discard(ctx context.Context) error {
	there, err := r.phase(ctx, r.replayBucket())
	if err != nil {
		return err
	}
	taking, err := r.phase(ctx, r.beforeBucket())
	switch {
	case err != nil:
		return err
	case taking == phaseTaking:
		return fmt.Errorf("bucket %s has some of its documents already (remedy: replay again, which ends it; --undo takes it back then): %w", r.Serving.Bucket(), projections.ErrSwapUnfinished)
	case there == "":
		return projections.ErrNothingToDiscard
	}
	return r.drop(ctx, r.replayBucket())
}

// Clear removes all that replays have put aside or not finished: what was replaced
// cannot come back. None may run.
func (r *Replay) Clear(ctx context.Context) error {
	return errors.Join(r.drop(ctx, r.replayBucket()), r.drop(ctx, r.beforeBucket()))
}

func before(p, q events.Position) bool {
	return p.Epoch < q.Epoch || p.Epoch == q.Epoch && p.Seq < q.Seq
}
