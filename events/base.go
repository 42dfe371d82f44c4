package events

import (
	"context"
	"errors"
	"iter"
)

// ErrRebased tells that another process has made a newer base: begin anew with it.
var ErrRebased = errors.New("the log has a newer base")

// A Base is what folds of control facts begin with in a log that was compacted:
// of the facts up to a position those that still say something, each at its own
// position, with its own id and arrival. The zero Base is that of a log that never
// was: a fold begins at the log's beginning.
//
// It is no part of the history. Whoever tells what happened, or makes rows of it,
// reads the log and its archive; a base is for folds alone.
type Base struct {
	UpTo     Position // what comes after it is in the log
	Facts    uint64   // how many there are
	Revision uint64   // tells it apart from those before it

	// Read yields the facts of one stream (nil: of all) in the order of their
	// positions. It is nil in the zero Base.
	Read func(ctx context.Context, of *Stream) iter.Seq2[Event, error]
}

// Facts yields what a fold of the control partition is made of, and goes on with
// what comes as Log.Follow does. A fold that begins, with the zero cursor, gets the
// base first; any other has had it.
func Facts(ctx context.Context, l Log, after Cursor) iter.Seq2[Event, error] {
	return func(yield func(Event, error) bool) {
		if after == (Cursor{}) {
			base, err := l.Base(ctx)
			if err != nil {
				if ctx.Err() == nil {
					yield(Event{}, err)
				}
				return
			}
			if base.UpTo.Seq > 0 {
				for e, err := range base.Read(ctx, nil) {
					if err != nil && ctx.Err() != nil || !yield(e, err) || err != nil {
						return
					}
				}
				after.Position = base.UpTo
			}
		}
		for e, err := range l.Follow(ctx, ControlPartition, after) {
			if !yield(e, err) {
				return
			}
		}
	}
}

// FactsOf yields what a fold of one stream of control facts is made of, up to what
// there is now. Errors are those of Log.ReadAfter and of the base.
func FactsOf(ctx context.Context, l Log, s Stream) iter.Seq2[Event, error] {
	return func(yield func(Event, error) bool) {
		base, err := l.Base(ctx)
		if err != nil {
			yield(Event{}, err)
			return
		}
		if base.UpTo.Seq > 0 {
			for e, err := range base.Read(ctx, &s) {
				if !yield(e, err) || err != nil {
					return
				}
			}
		}
		for e, err := range l.ReadAfter(ctx, s, base.UpTo, Latest) {
			if !yield(e, err) {
				return
			}
		}
	}
}
