package events

import (
	"context"
	"fmt"
	"iter"
)

// An Inspector is a log that can be read for an audit, past what it has lost.
type Inspector interface {
	Log

	// Extent returns from where to where a partition shall have events: from the
	// first that was not purged to the last one, whether they can be read or not.
	// The Seq of both is 0 when there never was one.
	Extent(ctx context.Context, partition uint16) (first, last Position, err error)

	// Inspect yields a partition's events from one sequence to another, both
	// inclusive, oldest first, and ends at the log's present end at the latest. A
	// position that the log does not have is left out: the caller sees it by the
	// next event's position. One that it has and cannot read comes as an
	// *UnreadableError and the sequence goes on; any other error ends it.
	Inspect(ctx context.Context, partition uint16, from, to uint64) iter.Seq2[Event, error]
}

// An UnreadableError tells that the log has an event at a position and cannot
// read it: restore the log from a replica or a backup.
type UnreadableError struct {
	Position Position
	Cause    string // in the log's own words
}

func (e *UnreadableError) Error() string {
	return fmt.Sprintf("read the event at %s: %s", e.Position, e.Cause)
}
