package latest

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/tachograph/tachograph/events"
	"github.com/tachograph/tachograph/projections"
)

// documents calls f with the present documents of a bucket.
func documents(ctx context.Context, kv jetstream.KeyValue, f func(key string, text []byte)) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	w, err := kv.Watch(ctx, "*", jetstream.IgnoreDeletes())
	if err != nil {
		return fmt.Errorf("read bucket %s: %w", kv.Bucket(), err)
	}
	defer func() { _ = w.Stop() }() // it is over, whatever the server says
	for {
		select {
		case <-ctx.Done():
			return fmt.Errorf("read bucket %s: %w", kv.Bucket(), ctx.Err())
		case e, open := <-w.Updates():
			switch {
			case !open:
				return fmt.Errorf("read bucket %s: the connection was closed", kv.Bucket())
			case e == nil:
				return nil
			case !strings.HasPrefix(e.Key(), "="): // ours, see positionKey
				f(e.Key(), e.Value())
			}
		}
	}
}

const examples = 10

// compare holds the serving documents against those that were built, both at the
// same positions, and returns the keys of those that differ. It keeps 32 bytes
// and the key of each.
func (r *Replay) compare(ctx context.Context, built jetstream.KeyValue) (projections.TableReport, []string, error) {
	report := projections.TableReport{Table: Bucket}
	sums := map[string][sha256.Size]byte{}
	err := documents(ctx, built, func(key string, text []byte) {
		sums[key] = sha256.Sum256(text)
	})
	if err != nil {
		return report, nil, err
	}
	report.New = uint64(len(sums))
	var differing []string
	err = documents(ctx, r.Serving.KV, func(key string, text []byte) {
		report.Old++
		anew, ok := sums[key]
		delete(sums, key)
		switch {
		case !ok:
			report.OnlyOld++
		case anew != sha256.Sum256(text):
			report.Changed++
		default:
			return
		}
		differing = append(differing, key)
	})
	for key := range sums {
		report.OnlyNew++
		differing = append(differing, key)
	}
	slices.Sort(differing)
	report.Examples = slices.Clone(differing[:min(examples, len(differing))])
	return report, differing, err
}

// take replaces the documents that differ by those that were built. What they
// were is kept first, with where the serving projections stood.
func (r *Replay) take(ctx context.Context, built jetstream.KeyValue, differing []string, stood map[uint16]events.Cursor) error {
	earlier, err := r.beginTaking(ctx, stood)
	if err != nil {
		return err
	}
	for _, key := range differing {
		if r.Fault != nil {
			if err := r.Fault(key); err != nil {
				return err
			}
		}
		old, err := valueOf(ctx, r.Serving.KV, key)
		if err != nil {
			return err
		}
		// One that is there was kept before a crash: what serves may be the new one.
		if _, err := earlier.Create(ctx, key, old); err != nil && !errors.Is(err, jetstream.ErrKeyExists) {
			return fmt.Errorf("keep document %s: %w", key, err)
		}
		anew, err := valueOf(ctx, built, key)
		if err != nil {
			return err
		}
		if err := restore(ctx, r.Serving.KV, key, anew); err != nil {
			return err
		}
	}
	if _, err := earlier.Put(ctx, phaseKey, []byte(phaseBefore)); err != nil {
		return fmt.Errorf("end replacing documents: %w", err)
	}
	return nil
}

// beginTaking makes the bucket of what was before, or finds the one of a replay
// that was interrupted while it replaced documents.
func (r *Replay) beginTaking(ctx context.Context, stood map[uint16]events.Cursor) (jetstream.KeyValue, error) {
	kv, err := r.bucket(ctx, beforeBucket)
	if err != nil {
		return nil, err
	}
	phase, err := valueOf(ctx, kv, phaseKey)
	if err != nil || string(phase) == phaseTaking {
		return kv, err
	}
	if err := r.drop(ctx, beforeBucket); err != nil {
		return nil, err
	}
	if kv, err = r.bucket(ctx, beforeBucket); err != nil {
		return nil, err
	}
	if err := putCursors(ctx, kv, stood); err != nil {
		return nil, err
	}
	if _, err := kv.Put(ctx, phaseKey, []byte(phaseTaking)); err != nil {
		return nil, fmt.Errorf("begin replacing documents: %w", err)
	}
	return kv, nil
}

func putCursors(ctx context.Context, kv jetstream.KeyValue, cursors map[uint16]events.Cursor) error {
	for p, c := range cursors {
		text, err := json.Marshal(c)
		if err == nil {
			_, err = kv.Put(ctx, positionKey(p), text)
		}
		if err != nil {
			return fmt.Errorf("write position of partition %d: %w", p, err)
		}
	}
	return nil
}

// valueOf is empty when there is none: no document is.
func valueOf(ctx context.Context, kv jetstream.KeyValue, key string) ([]byte, error) {
	e, err := kv.Get(ctx, key)
	if errors.Is(err, jetstream.ErrKeyNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read %s of bucket %s: %w", key, kv.Bucket(), err)
	}
	return e.Value(), nil
}

func restore(ctx context.Context, kv jetstream.KeyValue, key string, text []byte) (err error) {
	if len(text) == 0 {
		err = kv.Purge(ctx, key)
	} else {
		_, err = kv.Put(ctx, key, text)
	}
	if err != nil {
		return fmt.Errorf("replace document %s: %w", key, err)
	}
	return nil
}

// Undo puts the documents back that the last replay has replaced. The serving
// projections go on where they stood then; documents that are further along the
// log pass over what they have.
//
// Errors: projections.ErrNothingToUndo, *events.TruncatedError when what came
// since has been purged from the log.
func (r *Replay) Undo(ctx context.Context) error {
	earlier, err := r.JS.KeyValue(ctx, beforeBucket)
	if errors.Is(err, jetstream.ErrBucketNotFound) {
		return projections.ErrNothingToUndo
	}
	if err != nil {
		return fmt.Errorf("open bucket %s: %w", beforeBucket, err)
	}
	switch phase, err := valueOf(ctx, earlier, phaseKey); {
	case err != nil:
		return err
	case len(phase) == 0:
		return projections.ErrNothingToUndo
	}
	stood, err := cursorsOf(ctx, earlier, r.Partitions)
	if err != nil {
		return err
	}
	for p, c := range stood {
		bounds, err := r.Serving.Log.Bounds(ctx, p)
		if err != nil {
			return fmt.Errorf("look whether the replay can be undone: %w", err)
		}
		if c.Position.Seq+1 < bounds.Oldest.Seq {
			return fmt.Errorf("the documents of before cannot be brought up to date: %w", &events.TruncatedError{Asked: c.Position, Oldest: bounds.Oldest})
		}
	}
	resume, err := r.Pause(ctx)
	if err != nil {
		return err
	}
	defer resume()
	// The positions first: a document that is put back lacks what came since.
	if err := putCursors(ctx, r.Serving.KV, stood); err != nil {
		return err
	}
	var put error
	err = documents(ctx, earlier, func(key string, text []byte) {
		if put == nil {
			put = restore(ctx, r.Serving.KV, key, text)
		}
	})
	if err := errors.Join(err, put); err != nil {
		return err
	}
	return r.drop(ctx, beforeBucket)
}
