package history

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"time"

	"github.com/tachograph/tachograph/events"
)

// An Archive keeps what the log has let go; columnar has one in ClickHouse.
//
// Errors of all methods: *events.TruncatedError when the oldest events that are
// asked for are not kept any more, *MissingError when others are not there. Any
// other may be mended by asking again.
type Archive interface {
	// Events yields the events after a position up to and with a sequence of its
	// partition, oldest first, each once. It ends without an error only when it
	// has yielded all but those that were removed on purpose.
	Events(ctx context.Context, after events.Position, upTo uint64) iter.Seq2[events.Event, error]

	// Stream yields of those the ones of a stream; see events.Log.Read.
	Stream(ctx context.Context, s events.Stream, after events.Position, upTo uint64) iter.Seq2[events.Event, error]

	// Whole tells whether Events could yield all of them.
	Whole(ctx context.Context, after events.Position, upTo uint64) error

	// First returns the first sequence in front of a position at which an event is
	// kept that arrived at a moment or later; the zero moment asks for the oldest.
	First(ctx context.Context, before events.Position, since time.Time) (seq uint64, ok bool, err error)

	// ID returns the id of the event at a position; "" when there is none.
	ID(ctx context.Context, at events.Position) (string, error)
}

// ErrArchive tells that the archive cannot be asked now. Try again.
var ErrArchive = errors.New("the archive of the log cannot be read now")

// A MissingError tells that neither the log nor its archive has some events, and
// that nobody has removed them: restore a backup of the archive.
type MissingError struct {
	First events.Position
	Last  uint64 // the sequence at which the stretch ends that begins at First
	Count uint64 // of all that are missing of what was asked for, there or elsewhere
	Where string // the archive
}

func (e *MissingError) Error() string {
	more := ""
	if e.Count > e.Last-e.First.Seq+1 {
		more = fmt.Sprintf(", nor %d others", e.Count-(e.Last-e.First.Seq+1))
	}
	return fmt.Sprintf("read history: the log was purged, and %s does not have the events %s to %d%s (remedy: restore it from a backup)", e.Where, e.First, e.Last, more)
}
