package memlog

import (
	"context"
	"fmt"
	"iter"

	"github.com/tachograph/tachograph/events"
)

var _ events.Inspector = (*Log)(nil)

// Extent implements events.Inspector.
func (l *Log) Extent(ctx context.Context, partition uint16) (first, last events.Position, err error) {
	if last, err = l.Tail(ctx, partition); err != nil {
		return first, last, err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if first = last; last.Seq > 0 {
		first.Seq = l.purged[partition] + 1
	}
	return first, last, nil
}

// Inspect implements events.Inspector. A log in memory has lost nothing.
func (l *Log) Inspect(ctx context.Context, partition uint16, from, to uint64) iter.Seq2[events.Event, error] {
	return func(yield func(events.Event, error) bool) {
		if err := l.opts.Fault("inspect"); err != nil {
			yield(events.Event{}, fmt.Errorf("inspect partition %d: %w", partition, err))
			return
		}
		l.mu.Lock()
		evs := l.partitions[partition]
		l.mu.Unlock()
		for next := max(from, 1); next <= min(to, uint64(len(evs))); next++ { // events are immutable and the slice only grows
			if err := ctx.Err(); err != nil {
				yield(events.Event{}, fmt.Errorf("inspect partition %d: %w", partition, err))
				return
			}
			if e := evs[next-1]; l.holds(e.Position) && !yield(e, nil) {
				return
			}
		}
	}
}
