package shadows

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/tachograph/tachograph/events"
	"github.com/tachograph/tachograph/projections"
)

// Bucket is the name of the KV bucket of current documents.
const Bucket = "shadow"

// BucketConfig is how the bucket is made. It can be thrown away and folded again.
func BucketConfig(replicas int) jetstream.KeyValueConfig {
	return jetstream.KeyValueConfig{
		Bucket: Bucket, Description: "current document of each shadow; a fold of the log",
		History: 1, Storage: jetstream.FileStorage, Replicas: max(1, replicas),
	}
}

// Key returns where a shadow's document stands in the bucket.
func Key(device, name string) string {
	if name == "" {
		return events.Escape(device)
	}
	return events.Escape(device) + "." + events.Escape(name)
}

// positionKey is where the view's position stands. No device has it: Escape
// makes no "=p".
const positionKey = "=position"

// A Document is a value of the bucket:
//
//	{"device":"car-1","name":"doors","position":{…},"document":{"state":…,"metadata":…,"version":7,"timestamp":…}}
//
// A deleted shadow has no value.
type Document struct {
	Device   string          `json:"device"`
	Name     string          `json:"name,omitempty"`
	Position events.Position `json:"position"`
	Document json.RawMessage `json:"document"`
}

// flushEvery bounds how often a shadow's document is written: one that changes
// faster costs a few writes a second.
const flushEvery = 100 * time.Millisecond

// A view keeps the bucket in step with the shadows.
type view struct {
	s  *Shadows
	kv jetstream.KeyValue

	mu        sync.Mutex
	dirty     map[*entry]bool
	revisions map[*entry]uint64
	status    projections.Status
}

// View returns the projection that keeps the bucket in step. It is called
// before Run.
func (s *Shadows) View(kv jetstream.KeyValue) projections.Runner {
	s.view = &view{s: s, kv: kv, dirty: map[*entry]bool{}, revisions: map[*entry]uint64{}}
	s.view.status = projections.Status{Name: "shadow", Partition: events.ControlPartition}
	return s.view
}

func (v *view) Name() string { return "shadow" }

// Status is how far the bucket is.
func (v *view) Status() projections.Status {
	v.s.mu.RLock()
	tail := v.s.cursor.Position.Seq
	v.s.mu.RUnlock()
	v.mu.Lock()
	defer v.mu.Unlock()
	st := v.status
	st.Tail, st.Lag = tail, tail-min(tail, st.Position.Seq)
	return st
}

// touch marks a shadow whose document has changed. The caller holds e.mu.
func (v *view) touch(e *entry) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.dirty[e] = true
	v.status.Events++
}

// Run writes what has changed until ctx ends.
func (v *view) Run(ctx context.Context) error {
	t := time.NewTicker(flushEvery)
	defer t.Stop()
	for resumed := false; ; {
		var err error
		if !resumed {
			err = v.resume(ctx)
			resumed = err == nil
		}
		if resumed {
			err = v.flush(ctx)
		}
		if ctx.Err() != nil {
			return nil
		}
		v.mu.Lock()
		v.status.Resumed = resumed
		v.status.CaughtUp, v.status.LastError = err == nil, ""
		if err != nil {
			v.status.Errors++
			v.status.LastError = err.Error()
		}
		v.mu.Unlock()
		select {
		case <-t.C:
		case <-ctx.Done():
			return nil
		}
	}
}

// resume marks what the bucket does not have. A bucket that is ahead of the log
// holds what never happened here, and is emptied.
func (v *view) resume(ctx context.Context) error {
	var have events.Position
	kve, err := v.kv.Get(ctx, positionKey)
	switch {
	case errors.Is(err, jetstream.ErrKeyNotFound):
	case err != nil:
		return err
	default:
		if err := json.Unmarshal(kve.Value(), &have); err != nil {
			return fmt.Errorf("view of shadows: position is damaged (remedy: delete the key %q of bucket %q): %w", positionKey, Bucket, err)
		}
	}
	v.s.mu.RLock()
	now := v.s.cursor.Position
	v.s.mu.RUnlock()
	if have.Seq > now.Seq || have.Epoch != now.Epoch {
		if err := v.empty(ctx); err != nil {
			return err
		}
		have = events.Position{}
	}
	for _, e := range v.s.all() {
		e.mu.Lock()
		if e.position.Seq > have.Seq {
			v.touch(e)
		}
		e.mu.Unlock()
	}
	return nil
}

func (v *view) empty(ctx context.Context) error {
	keys, err := v.kv.ListKeys(ctx)
	if err != nil {
		return err
	}
	for key := range keys.Keys() {
		if err := v.kv.Purge(ctx, key); err != nil {
			return err
		}
	}
	return nil
}

// flush writes the changed documents, then the position up to which the bucket
// is complete.
func (v *view) flush(ctx context.Context) error {
	v.s.mu.RLock()
	upTo := v.s.cursor.Position
	v.s.mu.RUnlock()
	v.mu.Lock()
	dirty := v.dirty
	v.dirty = map[*entry]bool{}
	done := v.status.Position == upTo
	v.mu.Unlock()
	for e := range dirty {
		if err := v.write(ctx, e); err != nil {
			v.mu.Lock()
			for e := range dirty {
				v.dirty[e] = true
			}
			v.mu.Unlock()
			return err
		}
		delete(dirty, e)
	}
	if done {
		return nil
	}
	text, err := json.Marshal(upTo)
	if err == nil {
		_, err = v.kv.Put(ctx, positionKey, text)
	}
	if err != nil {
		return err
	}
	v.mu.Lock()
	v.status.Position = upTo
	v.mu.Unlock()
	return nil
}

// write brings one document into the bucket, unless a newer one is there.
func (v *view) write(ctx context.Context, e *entry) error {
	e.mu.Lock()
	doc, position := e.doc, e.position
	e.mu.Unlock()
	key := Key(e.device, e.name)
	if !doc.Exists {
		if err := v.kv.Delete(ctx, key); err != nil {
			return fmt.Errorf("delete %s: %w", key, err)
		}
		delete(v.revisions, e)
		return nil
	}
	value, err := json.Marshal(Document{Device: e.device, Name: e.name, Position: position, Document: doc.Get(doc.At/1000, "")})
	if err != nil {
		return fmt.Errorf("write %s: %w", key, err)
	}
	for {
		revision, err := v.kv.Update(ctx, key, value, v.revisions[e])
		if err == nil {
			v.revisions[e] = revision
			v.mu.Lock()
			v.status.Rows++
			v.mu.Unlock()
			return nil
		}
		if !errors.Is(err, jetstream.ErrKeyExists) {
			return fmt.Errorf("write %s: %w", key, err)
		}
		// It is there from an earlier run, or another process writes the view too.
		kve, err := v.kv.Get(ctx, key)
		if errors.Is(err, jetstream.ErrKeyNotFound) { // deleted: a revision of its own
			delete(v.revisions, e)
			if _, err := v.kv.Put(ctx, key, value); err != nil {
				return fmt.Errorf("write %s: %w", key, err)
			}
			return nil
		}
		if err != nil {
			return fmt.Errorf("write %s: %w", key, err)
		}
		var there Document
		if json.Unmarshal(kve.Value(), &there) == nil && there.Position.Epoch == position.Epoch && there.Position.Seq > position.Seq {
			return nil
		}
		v.revisions[e] = kve.Revision()
	}
}
