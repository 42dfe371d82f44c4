// Package memlog keeps a log in memory, for tests and simulations: the same
// promises as jetlog, no I/O, and time that a test may hold in its hands.
package memlog

import (
	"context"
	"fmt"
	"iter"
	"slices"
	"sync"
	"time"

	"github.com/tachograph/tachograph/events"
)

// Options of a log. The zero value is a log of one partition with the clock of
// the machine and no faults.
type Options struct {
	Partitions int              // of telemetry; 0 is 1
	Now        func() time.Time // arrival times
	MaxPayload int              // bytes; 0 is 1 MiB

	// Fault is asked before each step, "append", "enqueue", "read" or
	// "follow"; its error is the step's. An error that wraps events.ErrUnknown
	// makes an append happen and fail all the same.
	Fault func(op string) error
}

// Log is an events.Log in memory.
type Log struct {
	opts Options

	mu         sync.Mutex
	layout     events.Layout
	partitions map[uint16][]events.Event
	changed    chan struct{}              // closed and replaced when something is appended
	purged     map[uint16]uint64          // up to and with this sequence
	erased     map[uint16]map[uint64]bool // sequences
	base       []events.Event             // see Rebase
	based      events.Base                // without Read
	closed     bool
	callbacks  sync.WaitGroup
	queue      chan func()
}

var _ events.Log = (*Log)(nil)

// New returns an empty log.
func New(opts Options) *Log {
	if opts.Partitions == 0 {
		opts.Partitions = 1
	}
	if opts.Now == nil {
		opts.Now = time.Now
	}
	if opts.MaxPayload == 0 {
		opts.MaxPayload = 1 << 20
	}
	if opts.Fault == nil {
		opts.Fault = func(string) error { return nil }
	}
	l := &Log{opts: opts, layout: events.NewLayout(opts.Partitions), partitions: map[uint16][]events.Event{}, purged: map[uint16]uint64{}, erased: map[uint16]map[uint64]bool{}, changed: make(chan struct{}), queue: make(chan func(), 4096)}
	l.callbacks.Add(1)
	go func() {
		defer l.callbacks.Done()
		for f := range l.queue {
			f()
		}
	}()
	return l
}

// Append implements events.Log.
func (l *Log) Append(ctx context.Context, expect events.Expect, evs ...events.Event) (events.Position, error) {
	if err := ctx.Err(); err != nil {
		return events.Position{}, fmt.Errorf("append: %w", err)
	}
	if err := l.check(evs); err != nil {
		return events.Position{}, err
	}
	fault := l.opts.Fault("append")
	if fault != nil && !isUnknown(fault) {
		return events.Position{}, fmt.Errorf("append %s: %w", evs[0].Stream, fault)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return events.Position{}, fmt.Errorf("append %s: %w", evs[0].Stream, events.ErrClosed)
	}
	if seq, expected := expect.Seq(); expected {
		way := l.layout.Way(l.layout.Of(evs[0].Stream))
		for _, before := range way[:len(way)-1] {
			if last := l.lastIn(before.Partition, evs[0].Stream); last > 0 {
				return events.Position{}, &events.ConflictError{Stream: evs[0].Stream, Expected: expect, Actual: last}
			}
		}
		last := l.lastIn(l.layout.Of(evs[0].Stream), evs[0].Stream)
		if known, based := l.lastKnown(evs[0].Stream, last); last != seq && !(based && known == seq) || based && seq == 0 && known > 0 {
			last = max(last, known)
			return events.Position{}, &events.ConflictError{Stream: evs[0].Stream, Expected: expect, Actual: last}
		}
	}
	var pos events.Position
	for _, e := range evs {
		pos = l.store(e)
	}
	if fault != nil {
		return events.Position{}, fmt.Errorf("append %s: %w", evs[0].Stream, fault)
	}
	return pos, nil
}

// Enqueue implements events.Log; the event is stored at once and done called
// from the log's goroutine.
func (l *Log) Enqueue(ctx context.Context, e events.Event, done func(error)) error {
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("enqueue: %w", err)
	}
	if err := l.check([]events.Event{e}); err != nil {
		return err
	}
	if e.Stream.Kind != events.Telemetry || e.Stream.Name != "" {
		return fmt.Errorf("enqueue %s: only telemetry is enqueued, and no replays: %w", e.Stream, events.ErrInvalid)
	}
	fault := l.opts.Fault("enqueue")
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return fmt.Errorf("enqueue %s: %w", e.Stream, events.ErrClosed)
	}
	if fault == nil || isUnknown(fault) {
		l.store(e)
	}
	l.queue <- func() { done(fault) }
	return nil
}

func (l *Log) check(evs []events.Event) error {
	if len(evs) == 0 {
		return fmt.Errorf("append: no events: %w", events.ErrInvalid)
	}
	for i := range evs {
		if err := evs[i].Validate(); err != nil {
			return err
		}
		if evs[i].Stream != evs[0].Stream {
			return fmt.Errorf("append: events of %s and %s together: %w", evs[0].Stream, evs[i].Stream, events.ErrInvalid)
		}
		if n := len(evs[i].Payload); n > l.opts.MaxPayload {
			return fmt.Errorf("append %s: %d bytes, at most %d: %w", evs[i].Stream, n, l.opts.MaxPayload, events.ErrTooLarge)
		}
	}
	return nil
}

func (l *Log) store(e events.Event) events.Position {
	p := l.layout.Of(e.Stream)
	e.Position = l.at(p, uint64(len(l.partitions[p])+1))
	if _, replay := e.Replayed(); !replay {
		e.Received = l.opts.Now()
	}
	e.Received = e.Received.UTC()
	e.Payload = slices.Clone(e.Payload)
	l.partitions[p] = append(l.partitions[p], e)
	close(l.changed)
	l.changed = make(chan struct{})
	return e.Position
}

// at needs the lock, as it knows the epoch.
func (l *Log) at(partition uint16, seq uint64) events.Position {
	return events.Position{Epoch: uint32(len(l.layout.Way(partition))), Partition: partition, Seq: seq}
}

func (l *Log) lastIn(partition uint16, s events.Stream) uint64 {
	evs := l.partitions[partition]
	for i := len(evs) - 1; i >= 0; i-- {
		if evs[i].Stream == s && l.has(evs[i].Position) {
			return evs[i].Position.Seq
		}
	}
	return 0
}

// Read implements events.Log.
func (l *Log) Read(ctx context.Context, s events.Stream, upTo events.Position) iter.Seq2[events.Event, error] {
	return l.ReadAfter(ctx, s, events.Position{}, upTo)
}

// ReadAfter implements events.Log.
func (l *Log) ReadAfter(ctx context.Context, s events.Stream, after, upTo events.Position) iter.Seq2[events.Event, error] {
	return func(yield func(events.Event, error) bool) {
		if err := l.opts.Fault("read"); err != nil {
			yield(events.Event{}, fmt.Errorf("read %s: %w", s, err))
			return
		}
		read := func(partition uint16, after, upTo uint64) iter.Seq2[events.Event, error] {
			return l.read(ctx, partition, after, upTo, func(e *events.Event) bool { return s.Covers(e.Stream) })
		}
		for e, err := range l.Layout().ReadAlong(s, after, upTo, read) {
			if err != nil {
				err = fmt.Errorf("read %s: %w", s, err)
			}
			if !yield(e, err) || err != nil {
				return
			}
		}
	}
}

// Scan implements events.Log.
func (l *Log) Scan(ctx context.Context, partition uint16, after events.Cursor, upTo uint64, only events.Filter) iter.Seq2[events.Event, error] {
	return func(yield func(events.Event, error) bool) {
		err := l.opts.Fault("read")
		if err == nil {
			err = l.verify(partition, after)
		}
		if err != nil {
			yield(events.Event{}, fmt.Errorf("scan partition %d: %w", partition, err))
			return
		}
		for e, err := range l.read(ctx, partition, after.Position.Seq, upTo, only.Matches) {
			if err != nil {
				err = fmt.Errorf("scan partition %d: %w", partition, err)
			}
			if !yield(e, err) || err != nil {
				return
			}
		}
	}
}

// read yields what a partition has after a sequence, up to another or its present
// end.
func (l *Log) read(ctx context.Context, partition uint16, after, upTo uint64, wanted func(*events.Event) bool) iter.Seq2[events.Event, error] {
	return func(yield func(events.Event, error) bool) {
		l.mu.Lock()
		evs, truncated := l.partitions[partition], l.truncated(partition, after)
		l.mu.Unlock()
		if truncated != nil {
			yield(events.Event{}, truncated)
			return
		}
		for _, e := range evs[min(after, uint64(len(evs))):] { // events are immutable and the slice only grows
			if e.Position.Seq > upTo {
				return
			}
			if err := ctx.Err(); err != nil {
				yield(events.Event{}, err)
				return
			}
			if l.holds(e.Position) && wanted(&e) && !yield(e, nil) {
				return
			}
		}
	}
}

// verify holds a cursor against the log.
func (l *Log) verify(partition uint16, after events.Cursor) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	next, evs := after.Position.Seq, l.partitions[partition]
	if err := l.truncated(partition, next); err != nil {
		return err
	}
	if next == 0 {
		return nil
	}
	if next > uint64(len(evs)) || after.Position.Epoch != l.at(partition, 0).Epoch ||
		l.has(evs[next-1].Position) && after.ID != "" && evs[next-1].ID != after.ID {
		return fmt.Errorf("after %s: %w", after.Position, events.ErrDiverged)
	}
	return nil
}

// Follow implements events.Log.
func (l *Log) Follow(ctx context.Context, partition uint16, after events.Cursor) iter.Seq2[events.Event, error] {
	return l.Select(ctx, partition, after, events.Filter{})
}

// Select implements events.Log.
func (l *Log) Select(ctx context.Context, partition uint16, after events.Cursor, only events.Filter) iter.Seq2[events.Event, error] {
	return func(yield func(events.Event, error) bool) {
		next := after.Position.Seq
		if err := l.verify(partition, after); err != nil {
			yield(events.Event{}, fmt.Errorf("follow partition %d: %w", partition, err))
			return
		}
		for {
			l.mu.Lock()
			evs, changed, closed := l.partitions[partition], l.changed, l.closed
			l.mu.Unlock()
			for ; next < uint64(len(evs)); next++ {
				if ctx.Err() != nil {
					return
				}
				if err := l.opts.Fault("follow"); err != nil {
					yield(events.Event{}, fmt.Errorf("follow partition %d: %w", partition, err))
					return
				}
				if !l.holds(evs[next].Position) {
					continue
				}
				if only.Matches(&evs[next]) && !yield(evs[next], nil) {
					return
				}
			}
			if closed {
				yield(events.Event{}, fmt.Errorf("follow partition %d: %w", partition, events.ErrClosed))
				return
			}
			select {
			case <-ctx.Done():
				return
			case <-changed:
			}
		}
	}
}

// Tail implements events.Log.
func (l *Log) Tail(_ context.Context, partition uint16) (events.Position, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.at(partition, uint64(len(l.partitions[partition]))), nil
}

// Truncate forgets the events after seq, as a power failure may.
func (l *Log) Truncate(partition uint16, seq uint64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.partitions[partition] = slices.Clone(l.partitions[partition][:seq])
}

// Partitions implements events.Log.
func (l *Log) Partitions() []uint16 { return l.Layout().Partitions() }

// Layout implements events.Log.
func (l *Log) Layout() events.Layout {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.layout
}

// Split makes it a log of n telemetry partitions, in which readers that are at work
// do not look. Errors wrap events.ErrInvalid.
func (l *Log) Split(n int) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	layout, err := l.layout.Split(n, func(p uint16) uint64 { return uint64(len(l.partitions[p])) })
	if err == nil {
		l.layout = layout
	}
	return err
}

// Close implements events.Log.
func (l *Log) Close() error {
	l.mu.Lock()
	if !l.closed {
		l.closed = true
		close(l.changed)
		l.changed = make(chan struct{})
		close(l.queue)
	}
	l.mu.Unlock()
	l.callbacks.Wait()
	return nil
}
