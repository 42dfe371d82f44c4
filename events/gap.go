package events

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"time"
)

// When a reader counts as behind, and how often it is then looked whether the
// log was purged of what it had not read yet.
const (
	behind   = 10 * time.Second
	gapCheck = 100 * time.Millisecond
)

// A Whole is a log that reaches back beyond what was purged, or says what is
// missing: nobody has to look for a gap in what it hands over.
type Whole interface {
	Log
	Whole()
}

// guarded is Log.Select for those whom retention does not wait for: a reader that
// is overtaken by a purge is told, at the latest with the event after the next.
// A log hands over what is left after a gap as if there had been none.
func guarded(ctx context.Context, l Log, partition uint16, after Cursor, only Filter) iter.Seq2[Event, error] {
	if whole, ok := l.(Whole); ok {
		return whole.Select(ctx, partition, after, only)
	}
	return func(yield func(Event, error) bool) {
		g := gap{log: l, verified: after.Position, last: after.Position}
		for e, err := range l.Select(ctx, partition, after, only) {
			if err == nil {
				err = g.check(ctx, &e)
			}
			if err != nil {
				e = Event{}
			}
			if !yield(e, err) || err != nil {
				return
			}
		}
	}
}

// A gap is what a reader may have missed. Events that come promptly show that
// nothing can have been purged in front of them: what is purged is old.
type gap struct {
	log      Log
	verified Position // nothing up to here was missed
	last     Position
	open     bool // after verified something may have been
	looked   time.Time
}

func (g *gap) check(ctx context.Context, e *Event) error {
	_, replay := e.Replayed() // it bears an old arrival and comes promptly
	if e.Position.Seq > g.last.Seq+1 && !replay && time.Since(e.Received) > behind {
		g.open = true
	}
	asked := g.last
	g.last = e.Position
	if !g.open {
		g.verified = e.Position
		return nil
	}
	if time.Since(g.looked) < gapCheck {
		return nil
	}
	b, err := g.log.Bounds(ctx, e.Position.Partition)
	if err != nil {
		if errors.Is(err, ErrClosed) {
			return err
		}
		return nil // a connection that is gone is mended; the next event looks again
	}
	g.looked = time.Now()
	if b.Oldest.Seq > g.verified.Seq+1 {
		return fmt.Errorf("purged while it was read: %w", &TruncatedError{Asked: asked, Oldest: b.Oldest})
	}
	g.open, g.verified = false, e.Position
	return nil
}
