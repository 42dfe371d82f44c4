package events

import "context"

// Bounds are what a partition holds.
type Bounds struct {
	// Oldest is the first position that was not purged; Seq is 1 in a partition
	// that never was. From there on everything is kept but what was forgotten:
	// a reader that stands right before it, or later, misses nothing.
	Oldest Position

	// Newest is the newest event that is there; Seq 0 when there is none. It may
	// lie before Tail, where the event at the tail was forgotten.
	Newest Position
}

// Before is the position right before the oldest, after which reading finds
// all that is kept.
func (b Bounds) Before() Position {
	p := b.Oldest
	p.Seq--
	return p
}

// Newest is the newest event of a partition that is there: who reads up to it
// reads to the end. Up to Tail would be to wait for an event that may be erased.
func Newest(ctx context.Context, l Log, partition uint16) (Position, error) {
	b, err := l.Bounds(ctx, partition)
	return b.Newest, err
}
