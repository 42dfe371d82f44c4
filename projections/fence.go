package projections

import (
	"context"
	"iter"
	"sync"

	"github.com/tachograph/tachograph/events"
)

// A Fence is a log that is followed up to a bound in each partition, where
// followers wait until it is moved. So projections that are rebuilt stop exactly
// where others stand.
type Fence struct {
	events.Log

	mu     sync.Mutex
	moved  chan struct{}
	bounds map[uint16]uint64
	passed map[uint16]uint64 // the newest sequence that was let through
	waits  map[uint16]bool   // the next one lies beyond the bound
}

// NewFence puts a fence in front of a log's first events.
func NewFence(log events.Log) *Fence {
	return &Fence{Log: log, moved: make(chan struct{}), bounds: map[uint16]uint64{}, passed: map[uint16]uint64{}, waits: map[uint16]bool{}}
}

// Move lets followers read up to a sequence, and that one.
func (f *Fence) Move(partition uint16, seq uint64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.bounds[partition] = max(seq, f.bounds[partition])
	f.waits[partition] = false // until the follower has looked again
	close(f.moved)
	f.moved = make(chan struct{})
}

// Reached is a goal of CatchUp: everything up to the bound is in the result. The
// event there, and others before it, may have been forgotten.
func (f *Fence) Reached(s Status) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return s.Position.Seq >= f.bounds[s.Partition] || s.atEnd() || f.waits[s.Partition] && s.Position.Seq >= f.passed[s.Partition]
}

// Follow implements events.Log.
func (f *Fence) Follow(ctx context.Context, partition uint16, after events.Cursor) iter.Seq2[events.Event, error] {
	return func(yield func(events.Event, error) bool) {
		f.pass(partition, after.Position.Seq)
		for e, err := range f.Log.Follow(ctx, partition, after) {
			if err == nil && !f.wait(ctx, partition, e.Position.Seq) {
				return
			}
			if !yield(e, err) {
				return
			}
		}
	}
}

func (f *Fence) pass(partition uint16, seq uint64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.passed[partition], f.waits[partition] = seq, false
}

// wait tells whether an event may pass; it may not when ctx ended.
func (f *Fence) wait(ctx context.Context, partition uint16, seq uint64) bool {
	for {
		f.mu.Lock()
		bound, moved := f.bounds[partition], f.moved
		f.waits[partition] = seq > bound
		if seq <= bound {
			f.passed[partition] = seq
		}
		f.mu.Unlock()
		if seq <= bound {
			return true
		}
		select {
		case <-moved:
		case <-ctx.Done():
			return false
		}
	}
}
