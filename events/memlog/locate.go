package memlog

import (
	"context"
	"fmt"
	"time"

	"github.com/tachograph/tachograph/events"
)

// Locate implements events.Log.
func (l *Log) Locate(_ context.Context, partition uint16, from events.From) (events.Cursor, error) {
	if err := l.opts.Fault("locate"); err != nil {
		return events.Cursor{}, fmt.Errorf("locate %s in partition %d: %w", from, partition, err)
	}
	l.mu.Lock()
	evs, purged, epoch := l.partitions[partition], l.purged[partition], l.at(partition, 0).Epoch
	l.mu.Unlock()
	c, err := from.Locate(locator{partition, epoch, evs, purged})
	if err != nil {
		return events.Cursor{}, fmt.Errorf("locate %s in partition %d: %w", from, partition, err)
	}
	return c, nil
}

type locator struct {
	partition uint16
	epoch     uint32
	evs       []events.Event // immutable, as far as it goes
	purged    uint64
}

// Bounds implements events.Locator.
func (l locator) Bounds() (oldest, newest events.Position, err error) {
	at := func(seq uint64) events.Position {
		return events.Position{Epoch: l.epoch, Partition: l.partition, Seq: seq}
	}
	return at(l.purged + 1), at(uint64(len(l.evs))), nil
}

// Since implements events.Locator.
func (l locator) Since(at time.Time) (seq uint64, ok bool, err error) {
	for i := range l.evs {
		if !l.evs[i].Received.Before(at) {
			return uint64(i + 1), true, nil
		}
	}
	return 0, false, nil
}

// ID implements events.Locator.
func (l locator) ID(seq uint64) (string, error) { return l.evs[seq-1].ID, nil }
