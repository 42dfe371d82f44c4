package events

import (
	"context"
	"iter"
	"sync/atomic"
	"time"
)

// What an Ahead holds at the most; an event that is larger is held alone. Beyond
// that and what the log's client holds (some MiB), nothing is read before
// somebody has taken what there is.
const (
	AheadEvents = 64
	AheadBytes  = 1 << 20 // of payloads
)

// An Ahead reads a sequence ahead of whoever takes from it, so that he can wait
// for other things as well and see whether there is more.
type Ahead struct {
	C <-chan Item // closed when the sequence has ended, or ctx

	held atomic.Int64  // bytes in C
	room chan struct{} // some were taken
}

// An Item is what a sequence has yielded.
type Item struct {
	Event Event
	Err   error
	Read  time.Time // when it was
}

// ReadAhead begins to read. Who ends before C is closed ends ctx, and empties C
// if he has to know that the reader has ended.
func ReadAhead(ctx context.Context, from iter.Seq2[Event, error]) *Ahead {
	out := make(chan Item, AheadEvents)
	a := &Ahead{C: out, room: make(chan struct{}, 1)}
	go func() {
		defer close(out)
		for e, err := range from {
			n := int64(len(e.Payload))
			for held := a.held.Load(); held > 0 && held+n > AheadBytes; held = a.held.Load() {
				select {
				case <-a.room:
				case <-ctx.Done():
					return
				}
			}
			a.held.Add(n)
			select {
			case out <- Item{e, err, time.Now()}:
			case <-ctx.Done():
				return
			}
		}
	}()
	return a
}

// Done makes room for others in place of an item of C.
func (a *Ahead) Done(i *Item) {
	a.held.Add(-int64(len(i.Event.Payload)))
	select {
	case a.room <- struct{}{}:
	default:
	}
}
