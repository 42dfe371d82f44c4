package events

import (
	"errors"
	"fmt"
)

// What a caller of a Log can act on. Test with errors.Is.
var (
	ErrInvalid  = errors.New("invalid event")                        // mend the event; a repeat fails again
	ErrTooLarge = errors.New("event too large")                      // send less; a repeat fails again
	ErrFull     = errors.New("log is full")                          // free space or raise the limit, then repeat
	ErrUnknown  = errors.New("outcome unknown")                      // may or may not be stored: read before repeating
	ErrDiverged = errors.New("log differs from what the reader has") // repair or start a new epoch, never skip
	ErrClosed   = errors.New("log is closed")
)

// A ConflictError tells that another writer was first: read the stream again,
// decide again, append again.
type ConflictError struct {
	Stream   Stream
	Expected Expect
	Actual   uint64 // newest sequence of the stream; 0 when not known
}

func (e *ConflictError) Error() string {
	if e.Actual == 0 {
		return fmt.Sprintf("append %s: stream is not %s", e.Stream, e.Expected)
	}
	return fmt.Sprintf("append %s: stream is at %d, expected %s", e.Stream, e.Actual, e.Expected)
}

// A TruncatedError tells that history before Oldest is no longer in the log.
type TruncatedError struct {
	Asked, Oldest Position
}

func (e *TruncatedError) Error() string {
	return fmt.Sprintf("read after %s: oldest event kept is %s", e.Asked, e.Oldest)
}

// A PositionError tells that a position is none of this log: it lies beyond the
// end, is of another epoch, or another event stands there. It was made up, or
// the log is another one or came back shorter than it was. It wraps
// ErrDiverged.
type PositionError struct {
	Asked          Position
	Oldest, Newest Position // that the log has
	Why            string
}

func (e *PositionError) Error() string {
	return fmt.Sprintf("read after %s: %s; the log holds %s to %s", e.Asked, e.Why, e.Oldest, e.Newest)
}

func (e *PositionError) Unwrap() error { return ErrDiverged }
