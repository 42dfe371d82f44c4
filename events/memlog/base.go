package memlog

import (
	"context"
	"fmt"
	"iter"

	"github.com/tachograph/tachograph/events"
)

// Base implements events.Log.
func (l *Log) Base(context.Context) (events.Base, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	base, facts := l.based, l.base
	if base.UpTo.Seq > 0 {
		base.Read = func(_ context.Context, of *events.Stream) iter.Seq2[events.Event, error] {
			return func(yield func(events.Event, error) bool) {
				for _, e := range facts {
					if (of == nil || e.Stream == *of) && !yield(e, nil) {
						return
					}
				}
			}
		}
	}
	return base, nil
}

// Rebase makes facts up to a position the base, in the place of another. Errors:
// events.ErrRebased, and that of facts.
func (l *Log) Rebase(_ context.Context, over events.Base, upTo events.Position, facts iter.Seq2[events.Event, error]) error {
	var all []events.Event
	for e, err := range facts {
		if err != nil {
			return err
		}
		all = append(all, e)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.based.Revision != over.Revision {
		return fmt.Errorf("rebase: %w", events.ErrRebased)
	}
	l.base, l.based = all, events.Base{UpTo: upTo, Facts: uint64(len(all)), Revision: over.Revision + 1}
	return nil
}

// DropBases removes all bases but the present one, of which there is no other here.
func (l *Log) DropBases(context.Context) error { return nil }

// Purgeable returns up to where Purge could go of what it is asked for.
func (l *Log) Purgeable(_ context.Context, upTo events.Position) (events.Position, error) {
	return upTo, nil
}

// lastKnown is what folds take for the newest fact of a stream, if they have it from
// the base: the log, in which it is at last, has none after that. It needs the lock.
func (l *Log) lastKnown(s events.Stream, last uint64) (seq uint64, based bool) {
	if l.based.UpTo.Seq == 0 || last > l.based.UpTo.Seq || l.layout.Of(s) != events.ControlPartition {
		return 0, false
	}
	for i := range l.base {
		if l.base[i].Stream == s {
			seq = l.base[i].Position.Seq
		}
	}
	return seq, true
}
