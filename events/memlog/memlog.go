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
	partitions map[uint16][]events.Event
	changed    chan struct{}              // closed and replaced when something is appended
	purged     map[uint16]uint64          // up to and with this sequence
	erased     map[uint16]map[uint64]bool // sequences
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
	l := &Log{opts: opts, partitions: map[uint16][]events.Event{}, purged: map[uint16]uint64{}, erased: map[uint16]map[uint64]bool{}, changed: make(chan struct{}), queue: make(chan func(), 4096)}
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
		if last := l.lastOf(evs[0].Stream); last != seq {
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
	p := e.Stream.PartitionIn(l.opts.Partitions)
	e.Position = events.Position{Epoch: 1, Partition: p, Seq: uint64(len(l.partitions[p]) + 1)}
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

func (l *Log) lastOf(s events.Stream) uint64 {
	evs := l.partitions[s.PartitionIn(l.opts.Partitions)]
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
		l.mu.Lock()
		partition := s.PartitionIn(l.opts.Partitions)
		evs, truncated := l.partitions[partition], l.truncated(partition, after.Seq)
		l.mu.Unlock()
		if truncated != nil {
			yield(events.Event{}, fmt.Errorf("read %s: %w", s, truncated))
			return
		}
		for _, e := range evs[min(after.Seq, uint64(len(evs))):] { // events are immutable and the slice only grows
			if e.Position.Seq > upTo.Seq || ctx.Err() != nil {
				return
			}
			if !l.holds(e.Position) {
				continue
			}
			all := s.Name == "" && (s.Kind == events.DeadLetter || s.Kind == events.Telemetry) && e.Stream.Kind == s.Kind && e.Stream.ID == s.ID
			if (e.Stream == s || all) && !yield(e, nil) {
				return
			}
		}
	}
}

// Follow implements events.Log.
func (l *Log) Follow(ctx context.Context, partition uint16, after events.Cursor) iter.Seq2[events.Event, error] {
	return l.Select(ctx, partition, after, events.Filter{})
}

// Select implements events.Log.
func (l *Log) Select(ctx context.Context, partition uint16, after events.Cursor, only events.Filter) iter.Seq2[events.Event, error] {
	return func(yield func(events.Event, error) bool) {
		next := after.Position.Seq
		l.mu.Lock()
		evs, truncated := l.partitions[partition], l.truncated(partition, next)
		gone := next > 0 && next <= uint64(len(evs)) && !l.has(evs[next-1].Position)
		l.mu.Unlock()
		if truncated != nil {
			yield(events.Event{}, fmt.Errorf("follow partition %d: %w", partition, truncated))
			return
		}
		if next > uint64(len(evs)) || next > 0 && (after.Position.Epoch != 1 || !gone && after.ID != "" && evs[next-1].ID != after.ID) {
			yield(events.Event{}, fmt.Errorf("follow partition %d after %s: %w", partition, after.Position, events.ErrDiverged))
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
	return events.Position{Epoch: 1, Partition: partition, Seq: uint64(len(l.partitions[partition]))}, nil
}

// Truncate forgets the events after seq, as a power failure may.
func (l *Log) Truncate(partition uint16, seq uint64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.partitions[partition] = slices.Clone(l.partitions[partition][:seq])
}

// Partitions implements events.Log.
func (l *Log) Partitions() []uint16 { return events.PartitionsOf(l.opts.Partitions) }

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
