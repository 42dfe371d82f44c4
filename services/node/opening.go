package node

import (
	"context"
	"iter"
	"sort"
	"sync"

	"github.com/tachograph/tachograph/events"
)

// openingBytes is what an opening keeps at the most. What is beyond is read from
// the log by each fold itself.
const openingBytes = 256 << 20

// An opening is the log while a node starts. Half a dozen folds begin at the
// beginning of the control partition, or with the base of a log that was compacted,
// one after the other; what the first of them has read the others get from memory.
type opening struct {
	events.Log

	mu    sync.Mutex
	base  *events.Base   // that folds begin with; nil: nobody has asked
	kept  []events.Event // of the base; nil: not all of them are
	facts []events.Event // of the control partition, from the base on, all of them up to the last; only ever appended to
	room  int            // bytes that they may still take; 0 and below: no more are kept
}

func newOpening(log events.Log) *opening { return &opening{Log: log, room: openingBytes} }

// over forgets the facts; who reads them now goes on reading them.
func (o *opening) over() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.base, o.kept, o.facts, o.room = nil, nil, nil, 0
}

// Base implements events.Log: while the node starts it is that of the first fold.
func (o *opening) Base(ctx context.Context) (events.Base, error) {
	o.mu.Lock()
	base, kept, room := o.base, o.kept, o.room
	o.mu.Unlock()
	if base == nil {
		b, err := o.Log.Base(ctx)
		if err != nil || room <= 0 {
			return b, err
		}
		o.mu.Lock()
		if o.base == nil && o.room > 0 {
			o.base = &b
		}
		if base = o.base; base == nil { // it has started meanwhile
			base = &b
		}
		o.mu.Unlock()
	}
	b := *base
	if b.UpTo.Seq == 0 {
		return b, nil
	}
	b.Read = func(ctx context.Context, of *events.Stream) iter.Seq2[events.Event, error] {
		if of != nil {
			return base.Read(ctx, of)
		}
		if kept == nil {
			return o.keeping(ctx, base)
		}
		return func(yield func(events.Event, error) bool) {
			for _, e := range kept {
				if !yield(e, nil) {
					return
				}
			}
		}
	}
	return b, nil
}

// keeping yields all facts of a base, and remembers them once they were read to the
// last, if there is room.
func (o *opening) keeping(ctx context.Context, base *events.Base) iter.Seq2[events.Event, error] {
	return func(yield func(events.Event, error) bool) {
		o.mu.Lock()
		room := o.room
		o.mu.Unlock()
		all := make([]events.Event, 0, min(base.Facts, 1<<16))
		for e, err := range base.Read(ctx, nil) {
			if !yield(e, err) || err != nil {
				return
			}
			if room -= size(e); room > 0 {
				all = append(all, e)
			}
		}
		o.mu.Lock()
		defer o.mu.Unlock()
		if room > 0 && o.base == base && o.kept == nil && len(o.facts) == 0 {
			o.kept, o.room = all, room
		}
	}
}

// size is about how many bytes an event takes.
func size(e events.Event) int {
	return len(e.Payload) + len(e.ID) + len(e.Stream.ID) + len(e.Stream.Name) + 256
}

// Follow implements events.Log.
func (o *opening) Follow(ctx context.Context, partition uint16, after events.Cursor) iter.Seq2[events.Event, error] {
	if partition != events.ControlPartition {
		return o.Log.Follow(ctx, partition, after)
	}
	return func(yield func(events.Event, error) bool) {
		for facts := o.since(after); len(facts) > 0; facts = o.since(after) {
			for _, e := range facts {
				if ctx.Err() != nil || !yield(e, nil) {
					return
				}
			}
			after = facts[len(facts)-1].Cursor()
		}
		for e, err := range o.Log.Follow(ctx, partition, after) {
			if err == nil {
				o.keep(e, after)
				after = e.Cursor()
			}
			if !yield(e, err) {
				return
			}
		}
	}
}

// begin is where the facts begin. It needs the lock.
func (o *opening) begin() events.Cursor {
	if o.base == nil {
		return events.Cursor{}
	}
	return events.Cursor{Position: o.base.UpTo}
}

// since returns the facts after a cursor that names one of them.
func (o *opening) since(after events.Cursor) []events.Event {
	o.mu.Lock()
	defer o.mu.Unlock()
	next := sort.Search(len(o.facts), func(i int) bool { return o.facts[i].Position.Seq > after.Position.Seq })
	if after != o.begin() && (next == 0 || o.facts[next-1].Cursor() != after) {
		return nil // what it is to be told of that, the log knows
	}
	return o.facts[next:]
}

// keep remembers the fact after a cursor, if it is the next one.
func (o *opening) keep(e events.Event, after events.Cursor) {
	o.mu.Lock()
	defer o.mu.Unlock()
	newest := o.begin()
	if n := len(o.facts); n > 0 {
		newest = o.facts[n-1].Cursor()
	}
	if o.room <= 0 || newest != after {
		return
	}
	o.room -= size(e)
	o.facts = append(o.facts, e)
}
