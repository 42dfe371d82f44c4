package events

import (
	"context"
	"iter"
)

// A Log keeps events for good and in order. jetlog keeps them in NATS
// JetStream, memlog in memory; both pass the suite of logtest.
//
// All methods may be called from several goroutines. Errors wrap one of the
// sentinels of this package where a caller can act on them.
type Log interface {
	// Append stores control facts of one stream, all or none, and returns the
	// position of the last once they are as durable as the log promises.
	//
	// Errors: *ConflictError when expect does not hold; ErrInvalid, ErrTooLarge,
	// ErrFull, ErrClosed. ErrUnknown means that the outcome could not be learned:
	// read the stream before trying again.
	Append(ctx context.Context, expect Expect, evs ...Event) (Position, error)

	// Enqueue hands one telemetry event to the group commit and returns; done
	// is called exactly once, from a goroutine of the log, when the event is as
	// durable as the log promises (nil) or was not stored. The calls of one
	// partition come in the order of their Enqueue. done must not block.
	//
	// Enqueue itself blocks while the log's window is full (back-pressure), until
	// ctx ends. When it returns an error, done is not called. The log keeps
	// e.Payload until done.
	Enqueue(ctx context.Context, e Event, done func(error)) error

	// Read yields the events of one stream up to and including upTo (Latest:
	// all there are now; EndOf: those of a partition), oldest first, in a log that
	// was split along all its partitions. It yields *TruncatedError when one of
	// these was purged: what is left of the stream may not be all of it.
	Read(ctx context.Context, s Stream, upTo Position) iter.Seq2[Event, error]

	// ReadAfter yields what Read does, but only what comes after a position:
	// *TruncatedError when events after that were purged.
	ReadAfter(ctx context.Context, s Stream, after, upTo Position) iter.Seq2[Event, error]

	// Follow yields every event of a partition after the cursor, oldest first,
	// and goes on with new ones until ctx ends (then the sequence just ends). It
	// yields an error once and stops: ErrDiverged when the event at the cursor is
	// not the one it names or the log is shorter, *TruncatedError when events
	// after the cursor were already purged; the zero Cursor asks for all that
	// ever was. Lost connections are mended inside.
	Follow(ctx context.Context, partition uint16, after Cursor) iter.Seq2[Event, error]

	// Select yields of what Follow does the events that a filter wants. It is
	// cheaper than Follow where those are few.
	Select(ctx context.Context, partition uint16, after Cursor, only Filter) iter.Seq2[Event, error]

	// Scan yields of what Select does the events up to and including a sequence,
	// and ends there, or where the partition ends now.
	Scan(ctx context.Context, partition uint16, after Cursor, upTo uint64, only Filter) iter.Seq2[Event, error]

	// Locate returns the cursor after which a reader that begins there goes on.
	//
	// Errors, both of After: *TruncatedError when events after it were already
	// purged; *PositionError when the log ends before it or the event there is
	// not the one it names.
	Locate(ctx context.Context, partition uint16, from From) (Cursor, error)

	// Tail returns the newest event's position; Seq 0 when there is none yet.
	Tail(ctx context.Context, partition uint16) (Position, error)

	// Bounds returns what a partition holds.
	Bounds(ctx context.Context, partition uint16) (Bounds, error)

	// Base returns what folds of control facts begin with; the zero Base in a log that
	// was never compacted.
	Base(ctx context.Context) (Base, error)

	// Partitions lists all partitions of the log, ascending: telemetry first,
	// then control, then dead letters.
	Partitions() []uint16

	// Layout tells which of them have which devices, and had them before. A reader
	// of all of a device's events reads them in that order.
	Layout() Layout

	// Close stores what was enqueued, then stops. It is idempotent.
	Close() error
}
