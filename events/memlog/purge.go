package memlog

import (
	"context"
	"fmt"

	"github.com/tachograph/tachograph/events"
)

// Bounds implements events.Log.
func (l *Log) Bounds(_ context.Context, partition uint16) (events.Bounds, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	at := l.at(partition, 0)
	b := events.Bounds{Oldest: at, Newest: at}
	b.Oldest.Seq = l.purged[partition] + 1
	evs := l.partitions[partition]
	for i := len(evs) - 1; i >= 0; i-- {
		if l.has(evs[i].Position) {
			b.Newest = evs[i].Position
			break
		}
	}
	return b, nil
}

// Purge removes a partition's events up to a position; control facts only as far
// as there is a base for them.
func (l *Log) Purge(ctx context.Context, upTo events.Position) (events.Bounds, error) {
	l.mu.Lock()
	if upTo.Partition == events.ControlPartition && upTo.Seq > l.based.UpTo.Seq {
		l.mu.Unlock()
		return events.Bounds{}, fmt.Errorf("purge up to %s: folds begin at %s: %w", upTo, l.based.UpTo, events.ErrInvalid)
	}
	l.purged[upTo.Partition] = max(l.purged[upTo.Partition], min(upTo.Seq, uint64(len(l.partitions[upTo.Partition]))))
	l.mu.Unlock()
	return l.Bounds(ctx, upTo.Partition)
}

// Erase removes single events.
func (l *Log) Erase(_ context.Context, all ...events.Position) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, p := range all {
		if l.erased[p.Partition] == nil {
			l.erased[p.Partition] = map[uint64]bool{}
		}
		l.erased[p.Partition][p.Seq] = true
	}
	return nil
}

// has needs the lock.
func (l *Log) has(p events.Position) bool {
	return p.Seq > l.purged[p.Partition] && !l.erased[p.Partition][p.Seq]
}

func (l *Log) holds(p events.Position) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.has(p)
}

// truncated needs the lock; it tells whether events after a sequence were purged.
func (l *Log) truncated(partition uint16, after uint64) error {
	if after >= l.purged[partition] {
		return nil
	}
	at := l.at(partition, 0)
	asked := at
	asked.Seq, at.Seq = after, l.purged[partition]+1
	return &events.TruncatedError{Asked: asked, Oldest: at}
}
