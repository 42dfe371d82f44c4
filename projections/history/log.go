package history

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"log/slog"
	"time"

	"github.com/tachograph/tachograph/events"
	"github.com/tachograph/tachograph/projections/forgotten"
)

// A Log is a log whose Follow, Select, Read, ReadAfter and Locate reach back into
// an archive. Everything else is the log's own; so Bounds tells of the stream.
//
// Events from the archive have their arrival in whole microseconds. What was
// asked to be forgotten is left out of them, even where a backup has brought it
// back.
type Log struct {
	events.Log
	archive Archive
	ledger  *forgotten.Ledger
	logger  *slog.Logger
}

var _ events.Log = (*Log)(nil)

// New joins a log and its archive. ledger may be nil: nothing was forgotten.
func New(log events.Log, archive Archive, ledger *forgotten.Ledger, logger *slog.Logger) *Log {
	return &Log{Log: log, archive: archive, ledger: ledger, logger: logger}
}

// permanent tells errors that asking again does not mend.
func permanent(err error) bool {
	var truncated *events.TruncatedError
	var missing *MissingError
	return errors.As(err, &truncated) || errors.As(err, &missing) || errors.Is(err, events.ErrDiverged) || errors.Is(err, events.ErrClosed) || errors.Is(err, events.ErrInvalid)
}

// unreached marks errors that asking again may mend.
func unreached(err error) error {
	if permanent(err) || errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return err
	}
	return fmt.Errorf("%w: %w", ErrArchive, err)
}

// Follow implements events.Log. An archive that cannot be reached is waited for.
//
// The seam: a purge is written down before it happens, and Bounds tells it. So
// whenever the next event of the stream is not the one after the last, Bounds is
// asked: unless it says that the stream was purged beyond the last one, the
// positions in between are empty; else they are read from the archive first.
func (l *Log) Follow(ctx context.Context, partition uint16, after events.Cursor) iter.Seq2[events.Event, error] {
	return func(yield func(events.Event, error) bool) {
		last := after
		for {
			purged, ok := l.live(ctx, partition, &last, yield)
			if !ok {
				return
			}
			if !l.past(ctx, partition, &last, purged, events.Filter{}, yield) {
				return
			}
		}
	}
}

// live follows the stream. It returns the first position that was not purged when
// what comes after last was, and ok false when there is nothing more to do.
func (l *Log) live(ctx context.Context, partition uint16, last *events.Cursor, yield func(events.Event, error) bool) (oldest events.Position, ok bool) {
	for e, err := range l.Log.Follow(ctx, partition, *last) {
		var truncated *events.TruncatedError
		switch {
		case errors.As(err, &truncated):
			return truncated.Oldest, true
		case err != nil:
			yield(events.Event{}, err)
			return oldest, false
		case e.Position.Seq > last.Position.Seq+1:
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
		if !yield(e, nil) {
			return oldest, false
		}
		*last = events.Cursor{Position: e.Position, ID: e.ID}
	}
	return oldest, false
}

// oldest asks for the first position that was not purged, until it is told.
func (l *Log) oldest(ctx context.Context, partition uint16) (events.Position, error) {
	for pause := 50 * time.Millisecond; ; pause = min(2*pause, 5*time.Second) {
		b, err := l.Bounds(ctx, partition)
		if err == nil || ctx.Err() != nil || permanent(err) {
			return b.Oldest, err
		}
		rest(ctx, pause)
	}
}

func rest(ctx context.Context, pause time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(pause):
	}
}

// past yields what the archive has, and is wanted, between last and the stream's
// oldest position.
func (l *Log) past(ctx context.Context, partition uint16, last *events.Cursor, oldest events.Position, only events.Filter, yield func(events.Event, error) bool) bool {
	fail := func(err error) bool {
		if ctx.Err() == nil {
			yield(events.Event{}, fmt.Errorf("follow partition %d in its archive: %w", partition, err))
		}
		return false
	}
	if last.Position.Seq > 0 && last.Position.Epoch != oldest.Epoch {
		return fail(&events.PositionError{Asked: last.Position, Oldest: oldest, Newest: oldest, Why: fmt.Sprintf("the log is of epoch %d", oldest.Epoch)})
	}
	at := events.Position{Epoch: oldest.Epoch, Partition: partition, Seq: last.Position.Seq}
	upTo := oldest.Seq - 1
	tried := func(err error, pause *time.Duration) {
		l.logger.Warn("the archive cannot be read; trying again", "partition", partition, "position", at.String(), "error", err)
		rest(ctx, *pause)
		*pause = min(2**pause, 5*time.Second)
	}
	pause := 100 * time.Millisecond
	for guarded := last.ID == "" || at.Seq == 0; !guarded; {
		id, err := l.archive.ID(ctx, at)
		switch {
		case err == nil && (id == "" || id == last.ID):
			guarded = true
		case err == nil:
			return fail(&events.PositionError{Asked: at, Oldest: oldest, Newest: oldest, Why: fmt.Sprintf("the event there was %s, not %s", id, last.ID)})
		case permanent(err), ctx.Err() != nil:
			return fail(err)
		default:
			tried(err, &pause)
		}
	}
	left := l.remaining()
	for at.Seq < upTo {
		err := error(nil)
		for e, failed := range l.wanted(ctx, at, upTo, only) {
			if err = failed; err != nil {
				break
			}
			at, pause = e.Position, 100*time.Millisecond
			if left(&e) && only.Matches(&e) && !yield(e, nil) {
				return false
			}
		}
		switch {
		case ctx.Err() != nil:
			return false
		case err == nil:
			at.Seq = upTo
		case permanent(err):
			return fail(err)
		default:
			tried(err, &pause)
		}
	}
	*last = events.Cursor{Position: at} // it is purged, so there is nothing to hold an id against
	return true
}

// remaining returns what tells, of events in their order, those that were not
// forgotten: not the ones that arrived in such a stretch, nor the same message
// when it came again.
func (l *Log) remaining() func(*events.Event) bool {
	if l.ledger == nil {
		return func(*events.Event) bool { return true }
	}
	type message struct{ device, id string }
	gone := map[message]bool{}
	return func(e *events.Event) bool {
		if e.Stream.Kind != events.Telemetry && e.Stream.Kind != events.Presence {
			return true
		}
		m := message{e.Stream.ID, e.ID}
		if l.ledger.Covers(e.Stream.ID, e.Received) {
			if e.Stream.Kind == events.Telemetry {
				gone[m] = true
			}
			return false
		}
		return e.Stream.Kind != events.Telemetry || !gone[m]
	}
}

// Read implements events.Log.
func (l *Log) Read(ctx context.Context, s events.Stream, upTo events.Position) iter.Seq2[events.Event, error] {
	return l.ReadAfter(ctx, s, events.Position{}, upTo)
}

// What is held back of a stream until it is sure that nothing before it was purged
// unread.
const (
	heldEvents = 1000
	heldBytes  = 4 << 20
)

// ReadAfter implements events.Log.
func (l *Log) ReadAfter(ctx context.Context, s events.Stream, after, upTo events.Position) iter.Seq2[events.Event, error] {
	left := l.remaining()
	return l.Layout().ReadAlong(s, after, upTo, func(partition uint16, after, upTo uint64) iter.Seq2[events.Event, error] {
		end := events.Position{Partition: partition, Seq: upTo}
		return l.bounded(ctx, bounded{
			partition: partition, upTo: upTo, left: left, what: s.String(),
			live: func(at events.Position) iter.Seq2[events.Event, error] { return l.Log.ReadAfter(ctx, s, at, end) },
			past: func(at events.Position, upTo uint64) iter.Seq2[events.Event, error] {
				return l.archive.Stream(ctx, s, at, upTo)
			},
		}, after)
	})
}

// Scan implements events.Log.
func (l *Log) Scan(ctx context.Context, partition uint16, after events.Cursor, upTo uint64, only events.Filter) iter.Seq2[events.Event, error] {
	last := after
	return l.bounded(ctx, bounded{
		partition: partition, upTo: upTo, left: l.remaining(), what: fmt.Sprintf("partition %d", partition),
		live: func(at events.Position) iter.Seq2[events.Event, error] {
			if at.Seq != last.Position.Seq {
				last = events.Cursor{Position: at}
			}
			return l.Log.Scan(ctx, partition, last, upTo, only)
		},
		past: func(at events.Position, upTo uint64) iter.Seq2[events.Event, error] {
			return func(yield func(events.Event, error) bool) {
				for e, err := range l.wanted(ctx, at, upTo, only) {
					if (err != nil || only.Matches(&e)) && !yield(e, err) {
						return
					}
				}
			}
		},
	}, after.Position.Seq)
}

// A bounded read is one of some of a partition's events, up to a sequence.
type bounded struct {
	partition uint16
	upTo      uint64
	left      func(*events.Event) bool
	what      string

	live func(after events.Position) iter.Seq2[events.Event, error]              // what the log has
	past func(after events.Position, upTo uint64) iter.Seq2[events.Event, error] // what the archive has
}

// bounded reads. Positions of some events show no gap: so events are held back
// until Bounds has said, after they were read, that nothing after the last one that
// was yielded is purged.
func (l *Log) bounded(ctx context.Context, r bounded, after uint64) iter.Seq2[events.Event, error] {
	return func(yield func(events.Event, error) bool) {
		for at := (events.Position{Partition: r.partition, Seq: after}); ; {
			oldest, ok := l.held(ctx, r, &at, yield)
			if !ok {
				return
			}
			from := events.Position{Epoch: oldest.Epoch, Partition: r.partition, Seq: at.Seq}
			end := min(oldest.Seq-1, r.upTo)
			for e, err := range r.past(from, end) {
				if err != nil {
					yield(events.Event{}, fmt.Errorf("read %s in the archive: %w", r.what, unreached(err)))
					return
				}
				if r.left(&e) && !yield(e, nil) {
					return
				}
			}
			if at = from; end >= r.upTo || ctx.Err() != nil {
				return
			}
			at.Seq = end
		}
	}
}

// held yields what the stream has; see live.
func (l *Log) held(ctx context.Context, r bounded, at *events.Position, yield func(events.Event, error) bool) (oldest events.Position, ok bool) {
	var some []events.Event
	bytes := 0
	// release yields what was held back, and tells whether nothing was purged.
	release := func() (whole, more bool) {
		b, err := l.Bounds(ctx, r.partition)
		if err != nil {
			yield(events.Event{}, fmt.Errorf("read %s: %w", r.what, err))
			return false, false
		}
		if oldest = b.Oldest; oldest.Seq > at.Seq+1 {
			return false, true
		}
		for _, e := range some {
			if !yield(e, nil) {
				return true, false
			}
			*at = e.Position
		}
		some, bytes = some[:0], 0
		return true, true
	}
	for e, err := range r.live(*at) {
		var truncated *events.TruncatedError
		switch {
		case errors.As(err, &truncated):
			return truncated.Oldest, true
		case err != nil:
			yield(events.Event{}, err)
			return oldest, false
		}
		if some, bytes = append(some, e), bytes+len(e.Payload); len(some) < heldEvents && bytes < heldBytes {
			continue
		}
		if whole, more := release(); !more || !whole {
			return oldest, more
		}
	}
	if whole, more := release(); !more || whole {
		return oldest, false
	}
	return oldest, true
}

// Locate implements events.Log. The beginning, and a time, are those of the
// archive where that has more.
func (l *Log) Locate(ctx context.Context, partition uint16, from events.From) (events.Cursor, error) {
	c, err := l.Log.Locate(ctx, partition, from)
	asked, after := from.Last()
	var truncated *events.TruncatedError
	switch {
	case err == nil && !after:
		return l.earlier(ctx, partition, from, c)
	case !errors.As(err, &truncated):
		return c, err
	}
	fail := func(err error) (events.Cursor, error) {
		return events.Cursor{}, fmt.Errorf("locate %s in the archive of partition %d: %w", from, partition, unreached(err))
	}
	at := events.Position{Epoch: truncated.Oldest.Epoch, Partition: partition, Seq: asked.Position.Seq}
	if err := l.archive.Whole(ctx, at, truncated.Oldest.Seq-1); err != nil {
		return fail(err)
	}
	if at.Seq == 0 {
		return events.Cursor{Position: at}, nil
	}
	id, err := l.archive.ID(ctx, at)
	if err != nil {
		return fail(err)
	}
	if asked.ID != "" && id != "" && asked.ID != id {
		return fail(&events.PositionError{Asked: at, Oldest: truncated.Oldest, Newest: truncated.Oldest, Why: fmt.Sprintf("the event there was %s, not %s", id, asked.ID)})
	}
	return events.Cursor{Position: at, ID: id}, nil
}

// earlier returns where the archive has the beginning, or the first event since a
// time, if the stream has everything that it knows of it: its own beginning was purged.
func (l *Log) earlier(ctx context.Context, partition uint16, from events.From, c events.Cursor) (events.Cursor, error) {
	since, asked := from.Start()
	if !asked {
		return c, nil // from now on
	}
	b, err := l.Bounds(ctx, partition)
	if err != nil {
		return c, err
	}
	if b.Oldest.Seq <= 1 || c.Position.Seq >= b.Oldest.Seq {
		return c, nil
	}
	seq, ok, err := l.archive.First(ctx, b.Oldest, since)
	if err != nil {
		return c, fmt.Errorf("locate %s in the archive of partition %d: %w", from, partition, unreached(err))
	}
	if ok {
		c = events.Cursor{Position: events.Position{Epoch: b.Oldest.Epoch, Partition: partition, Seq: seq - 1}}
	}
	return c, nil
}
