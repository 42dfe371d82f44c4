package latest

import (
	"context"
	"iter"
	"sync"

	"github.com/tachograph/tachograph/events"
)

// What is read ahead: of so many pieces at a time, and so much of each.
const (
	aheadPieces = 8
	aheadEvents = 2 * snapshotEvery
	aheadBytes  = 4 << 20
)

// A reading reads pieces of a device's history side by side, while those before are
// folded: most of the time that a short one takes is waiting.
type reading struct {
	sync.WaitGroup
	pieces []*part
	room   chan struct{} // of those that are read and were not taken
}

// A part of the history is what comes after a position up to another.
type part struct {
	read        func(ctx context.Context, after, upTo events.Position) iter.Seq2[events.Event, error]
	after, upTo events.Position
	done        chan struct{} // closed when these are read
	all         []events.Event
	err         error
	more        bool // and what comes after them is not
}

// of adds a piece, before begin.
func (r *reading) of(read func(ctx context.Context, after, upTo events.Position) iter.Seq2[events.Event, error], after, upTo events.Position) {
	r.pieces = append(r.pieces, &part{read: read, after: after, upTo: upTo, done: make(chan struct{})})
}

// begin reads until all is read or ctx ends.
func (r *reading) begin(ctx context.Context) {
	r.room = make(chan struct{}, aheadPieces)
	pieces := r.pieces
	r.Go(func() {
		for _, p := range pieces {
			select {
			case r.room <- struct{}{}:
				r.Go(func() { p.ahead(ctx) })
			case <-ctx.Done():
				p.err = ctx.Err()
				close(p.done)
			}
		}
	})
}

func (p *part) ahead(ctx context.Context) {
	defer close(p.done)
	bytes := 0
	for e, err := range p.read(ctx, p.after, p.upTo) {
		if err != nil {
			p.err = err
			return
		}
		p.all, bytes = append(p.all, e), bytes+len(e.Payload)
		if p.more = len(p.all) >= aheadEvents || bytes >= aheadBytes; p.more {
			return
		}
	}
}

// take yields the events of the next n pieces.
func (r *reading) take(ctx context.Context, n int) iter.Seq2[events.Event, error] {
	return func(yield func(events.Event, error) bool) {
		for range n {
			p := r.pieces[0]
			r.pieces = r.pieces[1:]
			<-p.done
			for _, e := range p.all {
				if !yield(e, nil) {
					return
				}
			}
			if p.err != nil {
				yield(events.Event{}, p.err)
				return
			}
			if p.more {
				last := p.all[len(p.all)-1].Position
				p.all = nil
				for e, err := range p.read(ctx, last, p.upTo) {
					if !yield(e, err) {
						return
					}
				}
			}
			<-r.room
		}
	}
}
