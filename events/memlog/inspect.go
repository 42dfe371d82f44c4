package memlog

import (
	"context"
	"iter"

	"github.com/tachograph/tachograph/events"
)

var _ events.Inspector = (*Log)(nil)

// Extent implements events.Inspector.
func (l *Log) Extent(ctx context.Context, partition uint16) (first, last events.Position, err error) {
	if last, err = l.Tail(ctx, partition); err != nil {
		return first, last, err
	}
	first = last
	first.Seq = min(last.Seq, 1)
	return first, last, nil
}

// Inspect implements events.Inspector. A log in memory has lost nothing.
func (l *Log) Inspect(ctx context.Context, partition uint16, from, to uint64) iter.Seq2[events.Event, error] {
	return func(yield func(events.Event, error) bool) {
		tail, err := l.Tail(ctx, partition)
		if err != nil {
			yield(events.Event{}, err)
			return
		}
		to = min(to, tail.Seq)
		if from > to {
			return
		}
		for e, err := range l.Follow(ctx, partition, events.Cursor{}) {
			if err != nil {
				yield(events.Event{}, err)
				return
			}
			if e.Position.Seq >= from && !yield(e, nil) || e.Position.Seq >= to {
				return
			}
		}
	}
}
