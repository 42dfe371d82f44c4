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
// beginning of the control partition, one after the other; what the first of them
// has read the others get from memory.
type opening struct {
	events.Log

	mu    sync.Mutex
	facts []events.Event // of the control partition, from its beginning on, all of them up to the last; only ever appended to
	room  int            // bytes that they may still take; 0 and below: no more are kept
}

func newOpening(log events.Log) *opening { return &opening{Log: log, room: openingBytes} }

// over forgets the facts; who reads them now goes on reading them.
func (o *opening) over() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.facts, o.room = nil, 0
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

// since returns the facts after a cursor that names one of them.
func (o *opening) since(after events.Cursor) []events.Event {
	o.mu.Lock()
	defer o.mu.Unlock()
	next := sort.Search(len(o.facts), func(i int) bool { return o.facts[i].Position.Seq > after.Position.Seq })
	if after.Position.Seq > 0 && (next == 0 || o.facts[next-1].Cursor() != after) {
		return nil // what it is to be told of that, the log knows
	}
	return o.facts[next:]
}

// keep remembers the fact after a cursor, if it is the next one.
func (o *opening) keep(e events.Event, after events.Cursor) {
	o.mu.Lock()
	defer o.mu.Unlock()
	var newest events.Cursor
	if n := len(o.facts); n > 0 {
		newest = o.facts[n-1].Cursor()
	}
	if o.room <= 0 || newest != after {
		return
	}
	o.room -= len(e.Payload) + len(e.ID) + len(e.Stream.ID) + len(e.Stream.Name) + 256
	o.facts = append(o.facts, e)
}
