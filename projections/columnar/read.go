package columnar

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/tachograph/tachograph/events"
	"github.com/tachograph/tachograph/projections"
	"github.com/tachograph/tachograph/projections/history"
	"github.com/tachograph/tachograph/schemas"
)

// A reader follows the partition and decodes its events into the current batch.
type reader struct {
	*Writer
	cursor  events.Cursor // the last event in a batch
	seen    atomic.Uint64 // events; a watchdog's pulse
	at      atomic.Uint64 // sequence of the last event seen
	blocked atomic.Bool   // waiting for room in the batch or for a schema: not the log's fault
}

// read ends with ctx, or with an error that reading again does not mend.
func (w *Writer) read(ctx context.Context) error {
	r := &reader{Writer: w, cursor: w.checkpoint}
	r.at.Store(w.checkpoint.Position.Seq)
	pause := 100 * time.Millisecond
	for {
		before := r.seen.Load()
		err := r.follow(ctx)
		var truncated *events.TruncatedError
		var missing *history.MissingError
		switch {
		case isBroken(err):
			return err
		case ctx.Err() != nil:
			return nil
		case errors.Is(err, events.ErrDiverged), errors.Is(err, events.ErrClosed), errors.Is(err, events.ErrInvalid), errors.As(err, &truncated), errors.As(err, &missing):
			return err
		case err != nil:
			w.failed(readStep, err)
		}
		if r.seen.Load() != before {
			pause = 100 * time.Millisecond
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(pause):
		}
		pause = min(2*pause, 5*time.Second)
	}
}

func isBroken(err error) bool {
	_, broken := projections.Broken(err)
	return broken
}

// follow reads with one subscription, under a watchdog.
func (r *reader) follow(ctx context.Context) error {
	ctx, stop := context.WithCancel(ctx)
	watched := make(chan struct{})
	go func() {
		defer close(watched)
		r.watch(ctx, stop)
	}()
	defer func() {
		stop()
		<-watched
	}()
	for e, err := range r.cfg.Log.Follow(ctx, r.cfg.Partition, r.cursor) {
		if err != nil {
			return err
		}
		r.seen.Add(1)
		r.at.Store(e.Position.Seq)
		schema, err := r.schemaOf(ctx, &e)
		if err != nil {
			return err
		}
		repeat := e.Stream.Kind == events.Telemetry && r.repeats.fold(&e)
		if ok, err := r.add(ctx, &e, schema, repeat); !ok || err != nil {
			return err
		}
		r.cursor = cursorOf(&e)
	}
	return nil
}

// add waits until the event has room; it has not when ctx ended. After an error
// the batch is of no use.
func (r *reader) add(ctx context.Context, e *events.Event, schema *schemas.Schema, repeat bool) (ok bool, err error) {
	for {
		taken, ok, err := r.tryAdd(e, schema, repeat)
		if ok || err != nil {
			return ok, err
		}
		r.wake()
		r.blocked.Store(true)
		select {
		case <-taken:
		case <-ctx.Done():
		}
		r.blocked.Store(false)
		if ctx.Err() != nil {
			return false, nil
		}
	}
}

// tryAdd adds an event unless the batch has no room for it; taken is closed when
// there may be.
func (r *reader) tryAdd(e *events.Event, schema *schemas.Schema, repeat bool) (taken <-chan struct{}, ok bool, err error) {
	fact := r.facts[e.Stream.Kind]
	r.mu.Lock()
	defer r.mu.Unlock()
	taken = r.taken
	if !r.full {
		if broken := r.suspects[e.Position]; broken != nil {
			r.current.addBroken(e, broken, repeat)
			ok = true
		} else if ok, err = r.decode(r.current, e, schema, fact, repeat); err != nil {
			r.current = newBatch(r.mem)
			return taken, false, err
		}
	}
	if !ok {
		r.full = true
		return taken, false, nil
	}
	first := r.current.events == 1
	if at, seq := r.cursor.Position.Seq, e.Position.Seq; seq > at+1 {
		r.current.absent = append(r.current.absent, span{at + 1, seq - 1})
	}
	r.full = r.current.rows >= r.cfg.MaxRows || r.current.bytes >= r.cfg.MaxBytes
	if first || r.full {
		r.wake()
	}
	return taken, true, nil
}

// decode adds an event to a batch.
func (w *Writer) decode(b *batch, e *events.Event, schema *schemas.Schema, fact *FactTable, repeat bool) (ok bool, err error) {
	if w.cfg.Trip != nil {
		trip := *e // so that an event need not leave the stack for the sake of tests
		if err := projections.Guard(&trip, func() error { w.cfg.Trip(&trip); return nil }); err != nil {
			return false, err
		}
	}
	return b.tryAdd(e, schema, fact, repeat)
}

// watch ends a subscription that brings nothing though the log has more: a
// reader that is stuck must not look like a log that is quiet. It also gives
// back the memory that a load which is over has left.
func (r *reader) watch(ctx context.Context, stop context.CancelFunc) {
	tick := time.NewTicker(r.cfg.Stall)
	defer tick.Stop()
	before, owed := r.seen.Load(), false
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		r.mem.Trim()
		seen := r.seen.Load()
		bounds, err := r.cfg.Log.Bounds(ctx, r.cfg.Partition)
		at := r.at.Load()
		behind := err == nil && bounds.Newest.Seq > at && seen == before && !r.blocked.Load()
		if behind && owed {
			r.cfg.Logger.Warn("the log brings nothing though it has more; reading anew", "partition", r.cfg.Partition, "position", at, "tail", bounds.Newest.Seq)
			stop()
			return
		}
		before, owed = seen, behind
	}
}

// schemaOf returns by what an event's payload is read: the version that its
// gateway knew, so that reading it again, later, gives the same rows. An event
// that was accepted without a schema stays without.
func (r *reader) schemaOf(ctx context.Context, e *events.Event) (*schemas.Schema, error) {
	if e.Stream.Kind != events.Telemetry || e.Schema == 0 {
		return nil, nil
	}
	if s, ok := r.cfg.Catalog.Schemas().Version(e.Type, e.Schema); ok {
		return s, nil
	}
	r.blocked.Store(true)
	defer r.blocked.Store(false)
	told := false
	schema, err := r.cfg.Catalog.Await(ctx, e.Type, e.Schema, func(err error) {
		told = true
		r.failed(decodeStep, fmt.Errorf("event %s of %s waits: %w", e.Position, e.Stream.ID, err))
	})
	if told && err == nil {
		r.mended()
	}
	return schema, err
}
