package events

import (
	"context"
	"errors"
	"fmt"
	"iter"
)

// alongSeams returns what is to be read of each partition that a filter follows
// after the cursors. In a log that was split, a partition begins once the one that
// its devices were in before has handed over what it has of them.
func (c Cursors) alongSeams(ctx context.Context, l Log, only Filter) []iter.Seq2[Event, error] {
	layout := l.Layout()
	upTo, passed := map[uint16]uint64{}, map[uint16]chan struct{}{}
	for p := range c {
		seam, ok := layout.Seam(p)
		if from, followed := c[seam.From]; ok && followed && from.Position.Seq < seam.Seq {
			upTo[seam.From] = max(upTo[seam.From], seam.Seq)
			passed[seam.From] = make(chan struct{})
		}
	}
	var all []iter.Seq2[Event, error]
	for p, after := range c {
		seam, _ := layout.Seam(p)
		before := passed[seam.From]
		if _, ok := layout.Seam(p); !ok {
			before = nil
		}
		all = append(all, func(yield func(Event, error) bool) {
			if before != nil {
				select {
				case <-before:
				case <-ctx.Done():
					return
				}
			}
			if done := passed[p]; done != nil {
				at, ok := scanned(ctx, l, p, after, upTo[p], only, yield)
				if !ok {
					return
				}
				close(done)
				after = at
			}
			for e, err := range guarded(ctx, l, p, after, only) {
				if !yield(e, err) || err != nil {
					return
				}
			}
		})
	}
	return all
}

// scanned yields what is wanted of a partition up to a sequence, and returns where
// a reader is then.
func scanned(ctx context.Context, l Log, partition uint16, after Cursor, upTo uint64, only Filter, yield func(Event, error) bool) (at Cursor, ok bool) {
	fail := func(err error) (Cursor, bool) {
		if ctx.Err() == nil {
			yield(Event{}, err)
		}
		return Cursor{}, false
	}
	_, whole := l.(Whole)
	g := gap{log: l, verified: after.Position, last: after.Position}
	at = after
	for e, err := range l.Scan(ctx, partition, after, upTo, only) {
		if err == nil && !whole {
			err = g.check(ctx, &e)
		}
		if err != nil {
			return fail(err)
		}
		if at = e.Cursor(); !yield(e, nil) {
			return Cursor{}, false
		}
	}
	if ctx.Err() != nil {
		return Cursor{}, false
	}
	b, err := l.Bounds(ctx, partition)
	switch {
	case err != nil && errors.Is(err, ErrClosed):
		return fail(err)
	case err != nil:
		return fail(fmt.Errorf("read on after partition %d has been split: %w", partition, err))
	case !whole && b.Oldest.Seq > g.verified.Seq+1 && b.Oldest.Seq > at.Position.Seq+1:
		return fail(fmt.Errorf("purged while it was read: %w", &TruncatedError{Asked: at.Position, Oldest: b.Oldest}))
	}
	if at.Position.Seq < upTo { // what lies between is not wanted, or was removed
		at = Cursor{Position: Position{Epoch: b.Oldest.Epoch, Partition: partition, Seq: upTo}}
	}
	return at, true
}
