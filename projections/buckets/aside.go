package buckets

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/tachograph/tachograph/events"
)

// The buckets beside the serving one: what a replay builds, and the documents that
// a replay has replaced, for Undo.
func (r *Replay) replayBucket() string { return r.Serving.Bucket() + "_replay" }
func (r *Replay) beforeBucket() string { return r.Serving.Bucket() + "_before" }

// phaseKey is where these say what they are.
const phaseKey = "=replay.phase"

const (
	phaseDry    = "dry"    // to be compared and thrown away
	phaseWhole  = "whole"  // to take over
	phaseTaking = "taking" // a replay replaces documents: those that are here are the ones of before
	phaseBefore = "before" // it has
)

// bucket opens one of the buckets beside the serving one, or makes it. A server
// that still removes one of that name refuses for a moment.
func (r *Replay) bucket(ctx context.Context, name string) (jetstream.KeyValue, error) {
	cfg := r.Bucket
	cfg.Bucket, cfg.Description = name, "of a replay of the view "+r.Serving.Bucket()
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

// phase is what a bucket says of itself; "" when there is none.
func (r *Replay) phase(ctx context.Context, name string) (string, error) {
	kv, err := r.JS.KeyValue(ctx, name)
	if errors.Is(err, jetstream.ErrBucketNotFound) {
		return "", nil
	}
	if err != nil {
		return "", fmt.Errorf("open bucket %s: %w", name, err)
	}
	text, _, err := entryOf(ctx, kv, phaseKey)
	return string(text), err
}

// begin makes the bucket to build in, or finds the one of a replay of this kind
// that was interrupted: a dry one may have folded less.
func (r *Replay) begin(ctx context.Context, dry bool) (jetstream.KeyValue, error) {
	kind := phaseWhole
	if dry {
		kind = phaseDry
	}
	kv, err := r.bucket(ctx, r.replayBucket())
	if err != nil {
		return nil, err
	}
	switch there, _, err := entryOf(ctx, kv, phaseKey); {
	case err != nil:
		return nil, err
	case string(there) == kind:
		return kv, nil
	case len(there) > 0:
		if err := r.drop(ctx, r.replayBucket()); err != nil {
			return nil, err
		}
		if kv, err = r.bucket(ctx, r.replayBucket()); err != nil {
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

// A standing is where the projection of a partition stands, as its bucket has it.
type standing struct {
	events.Cursor
	text []byte
}

// stood leaves out the partitions of which a bucket has nothing.
func (r *Replay) stood(ctx context.Context, kv jetstream.KeyValue) (map[uint16]standing, error) {
	all := map[uint16]standing{}
	for _, p := range r.Partitions {
		text, _, err := entryOf(ctx, kv, r.PositionKey(p))
		if err != nil {
			return nil, err
		}
		if len(text) == 0 {
			continue
		}
		at, err := r.Cursor(text)
		if err != nil {
			return nil, fmt.Errorf("read position of partition %d in bucket %s: %w", p, kv.Bucket(), err)
		}
		all[p] = standing{at, text}
	}
	return all, nil
}

func (r *Replay) putStood(ctx context.Context, kv jetstream.KeyValue, stood map[uint16]standing) error {
	for p, at := range stood {
		if _, err := kv.Put(ctx, r.PositionKey(p), at.text); err != nil {
			return fmt.Errorf("write position of partition %d: %w", p, err)
		}
	}
	return nil
}

// entryOf is empty when there is none: no document is.
func entryOf(ctx context.Context, kv jetstream.KeyValue, key string) (text []byte, revision uint64, err error) {
	e, err := kv.Get(ctx, key)
	if errors.Is(err, jetstream.ErrKeyNotFound) {
		return nil, 0, nil
	}
	if err != nil {
		return nil, 0, fmt.Errorf("read %s of bucket %s: %w", key, kv.Bucket(), err)
	}
	return e.Value(), e.Revision(), nil
}
