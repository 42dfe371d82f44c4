package history

import (
	"context"
	"errors"
	"iter"
	"time"

	"github.com/tachograph/tachograph/events"
)

// Whole says that no reader of this log has to look for what a purge has taken from it.
func (l *Log) Whole() {}

// Select implements events.Log. Positions of some of the events show no gap; so
// unless they come promptly, Bounds is asked after they were read and before they
// are handed on, once for all that wait.
func (l *Log) Select(ctx context.Context, partition uint16, after events.Cursor, only events.Filter) iter.Seq2[events.Event, error] {
	if only.Subjects(partition) == nil { // all are read, so gaps show
		return func(yield func(events.Event, error) bool) {
			for e, err := range l.Follow(ctx, partition, after) {
				if (err != nil || only.Matches(&e)) && !yield(e, err) {
					return
				}
			}
		}
	}
	return func(yield func(events.Event, error) bool) {
		last := after
		for {
			oldest, ok := l.selected(ctx, partition, &last, only, yield)
			if !ok || !l.past(ctx, partition, &last, oldest, only, yield) {
				return
			}
		}
	}
}

// prompt is the age of an event, when it is read, up to which nothing in front of
// it can have been purged unread, if the one before it was as young: the reader was waiting.
const prompt = 10 * time.Second

// selected follows the stream; see live.
func (l *Log) selected(ctx context.Context, partition uint16, last *events.Cursor, only events.Filter, yield func(events.Event, error) bool) (oldest events.Position, ok bool) {
	reading, stop := context.WithCancel(ctx)
	ahead := events.ReadAhead(reading, l.Log.Select(reading, partition, *last, only))
	defer func() {
		stop()
		for range ahead.C { // until the reader has ended
		}
	}()
	waiting := false // the last event came promptly
	var some []events.Item
	for i := range ahead.C {
		some = append(some[:0], i)
		for more := true; more && len(some) < events.AheadEvents; {
			select {
			case i, open := <-ahead.C:
				if more = open; open {
					some = append(some, i)
				}
			default:
				more = false
			}
		}
		sure, at := true, last.Position.Seq
		for _, i := range some {
			seq, promptly := i.Event.Position.Seq, i.Read.Sub(i.Event.Received) < prompt
			sure = sure && (i.Err != nil || seq == at+1 || promptly && waiting)
			at, waiting = seq, promptly
		}
		if !sure {
			var err error
			if oldest, err = l.oldest(ctx, partition); err != nil {
				if ctx.Err() == nil {
					yield(events.Event{}, err)
				}
				return oldest, false
			}
			if oldest.Seq > last.Position.Seq+1 {
				return oldest, true
			}
		}
		for _, i := range some {
			var truncated *events.TruncatedError
			switch {
			case errors.As(i.Err, &truncated):
				return truncated.Oldest, true
			case i.Err != nil:
				yield(events.Event{}, i.Err)
				return oldest, false
			}
			ahead.Done(&i)
			if !yield(i.Event, nil) {
				return oldest, false
			}
			*last = i.Event.Cursor()
		}
	}
	return oldest, false
}

// wanted yields what the archive has of a filter.
func (l *Log) wanted(ctx context.Context, after events.Position, upTo uint64, only events.Filter) iter.Seq2[events.Event, error] {
	if only.ID != "" && len(only.Kinds) == 1 && only.Kinds[0] == events.Telemetry {
		return l.archive.Stream(ctx, events.Stream{Kind: events.Telemetry, ID: only.ID}, after, upTo)
	}
	return l.archive.Events(ctx, after, upTo)
}
