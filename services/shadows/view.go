package shadows

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/tachograph/tachograph/events"
	"github.com/tachograph/tachograph/projections"
	"github.com/tachograph/tachograph/projections/shadow"
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
	s    *Shadows
	kv   jetstream.KeyValue
	wait bool // for shadows that are behind the bucket, see resume

	turn      chan struct{} // of who works at the bucket: Run, or who has paused it
	resumed   bool          // these two are theirs
	revisions map[*entry]uint64

	mu     sync.Mutex
	dirty  map[*entry]bool
	status projections.Status
}

// View returns the projection that keeps the bucket in step. It is called
// before Run.
func (s *Shadows) View(kv jetstream.KeyValue) projections.Runner {
	s.view = &view{s: s, kv: kv, turn: make(chan struct{}, 1), dirty: map[*entry]bool{}, revisions: map[*entry]uint64{}}
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

// mark is touch without news.
func (v *view) mark(e *entry) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.dirty[e] = true
}

// Run writes what has changed until ctx ends.
func (v *view) Run(ctx context.Context) error {
	t := time.NewTicker(flushEvery)
	defer t.Stop()
	for {
		err := v.take(ctx)
		if err == nil {
			err = v.step(ctx)
			v.leave()
		}
		if ctx.Err() != nil {
			return nil
		}
		v.mu.Lock()
		v.status.CaughtUp, v.status.LastError = err == nil && v.status.Resumed, ""
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

// take waits until nobody works at the bucket, leave is its inverse.
func (v *view) take(ctx context.Context) error {
	select {
	case v.turn <- struct{}{}:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (v *view) leave() { <-v.turn }

// step brings the bucket up to date, once it is known where it stands. It is
// called by whose turn it is.
func (v *view) step(ctx context.Context) (err error) {
	if !v.resumed {
		if v.resumed, err = v.resume(ctx); err != nil {
			return err
		}
		v.mu.Lock()
		v.status.Resumed = v.resumed
		v.mu.Unlock()
	}
	if !v.resumed {
		return nil
	}
	return v.flush(ctx)
}

// Pause lets the view stand still, with all that it has seen in the bucket, until
// resume is called. It looks anew then where the bucket stands.
func (v *view) Pause(ctx context.Context) (resume func(), err error) {
	if err := v.take(ctx); err != nil {
		return nil, fmt.Errorf("pause view of shadows: %w", err)
	}
	if err := v.step(ctx); err != nil {
		v.leave()
		return nil, fmt.Errorf("pause view of shadows: %w", err)
	}
	return sync.OnceFunc(func() {
		v.resumed = false
		v.leave()
	}), nil
}

// parsePosition reads the value of positionKey.
func parsePosition(text []byte) (at events.Position, err error) {
	if err = json.Unmarshal(text, &at); err != nil {
		err = fmt.Errorf("view of shadows: position is damaged (remedy: delete the key %q of bucket %q): %w", positionKey, Bucket, err)
	}
	return at, err
}

// reached is where the bucket stands, the zero position where it has not begun.
func (v *view) reached(ctx context.Context) (events.Position, error) {
	e, err := v.kv.Get(ctx, positionKey)
	if errors.Is(err, jetstream.ErrKeyNotFound) {
		return events.Position{}, nil
	}
	if err != nil {
		return events.Position{}, err
	}
	return parsePosition(e.Value())
}

// resume marks what the bucket does not have. A bucket that is ahead of the log
// holds what never happened here, and is emptied. Shadows that are folded from the
// log's beginning are behind the bucket that their fold has filled before: until
// they have reached it, it is not resumed.
func (v *view) resume(ctx context.Context) (ok bool, err error) {
	have, err := v.reached(ctx)
	if err != nil {
		return false, err
	}
	v.s.mu.RLock()
	now := v.s.cursor.Position
	v.s.mu.RUnlock()
	switch ahead := have.Seq > now.Seq; {
	case ahead && v.wait:
		return false, nil
	case ahead || have.Seq > 0 && have.Epoch != now.Epoch:
		if err := v.empty(ctx); err != nil {
			return false, err
		}
		have = events.Position{}
	}
	v.mu.Lock()
	clear(v.dirty) // what was touched until now is found again, what will be is marked
	v.status.Position = have
	v.mu.Unlock()
	for _, e := range v.s.all() {
		e.mu.Lock()
		if e.position.Seq > have.Seq {
			v.mark(e)
		}
		e.mu.Unlock()
	}
	return true, nil
}

func (v *view) empty(ctx context.Context) error {
	keys, err := v.kv.ListKeys(ctx)
	if err != nil {
		return err
	}
	for key := range keys.Keys() {
		if strings.HasPrefix(key, "=") && key != positionKey { // of a replay
			continue
		}
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
	value, err := valueOf(e.device, e.name, doc, position)
	if err != nil {
		return err
	}
	if value == nil {
		if err := v.kv.Delete(ctx, key); err != nil {
			return fmt.Errorf("delete %s: %w", key, err)
		}
		delete(v.revisions, e)
		return nil
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

// valueOf is what the bucket has of a shadow; nil where there is none.
func valueOf(device, name string, doc shadow.Document, position events.Position) ([]byte, error) {
	if !doc.Exists {
		return nil, nil
	}
	value, err := json.Marshal(Document{Device: device, Name: name, Position: position, Document: doc.Get(doc.At/1000, "")})
	if err != nil {
		return nil, fmt.Errorf("render %s: %w", Key(device, name), err)
	}
	return value, nil
}
