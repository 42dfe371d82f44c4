package events

import (
	"fmt"
	"time"
)

// From is where in a partition a reader begins. The zero value is Beginning.
type From struct {
	mode fromMode
	at   time.Time
	last Cursor
}

type fromMode uint8

const (
	fromBeginning fromMode = iota
	fromNow
	fromSince
	fromAfter
)

// Beginning begins with the oldest event that is kept.
var Beginning = From{}

// Now begins with the first event that is stored after the reader has begun.
var Now = From{mode: fromNow}

// Since begins with the first event that arrived at a moment or later. Between
// events that arrived later there may be imported ones that arrived earlier;
// who minds leaves them out by their Received.
func Since(at time.Time) From { return From{mode: fromSince, at: at.UTC()} }

// After goes on exactly after an event. An empty ID is not held against the
// log: better give the one that was read.
func After(last Cursor) From { return From{mode: fromAfter, last: last} }

// Last returns the event after which From begins; false when it is not After.
func (f From) Last() (Cursor, bool) { return f.last, f.mode == fromAfter }

// Start returns the moment since which From begins, the zero time for Beginning;
// false when it is neither.
func (f From) Start() (since time.Time, ok bool) {
	return f.at, f.mode == fromBeginning || f.mode == fromSince
}

// Locator is the part of a log that From needs; logs call Locate with it.
type Locator interface {
	// Bounds returns the first position that was not purged and the newest that
	// was given out.
	Bounds() (oldest, newest Position, err error)

	// Since returns the first event that arrived at a moment or later; false
	// when there is none up to newest.
	Since(at time.Time) (seq uint64, ok bool, err error)

	// ID returns the id of the event at a sequence; "" when it was removed.
	ID(seq uint64) (string, error)
}

// Locate is what all logs answer to Log.Locate.
func (f From) Locate(l Locator) (Cursor, error) {
	oldest, newest, err := l.Bounds()
	if err != nil {
		return Cursor{}, err
	}
	nowhere := func(why string) error {
		return &PositionError{Asked: f.last.Position, Oldest: oldest, Newest: newest, Why: why}
	}
	last := newest.Seq
	switch f.mode {
	case fromBeginning:
		last = 0
	case fromSince:
		seq, ok, err := l.Since(f.at)
		if err != nil {
			return Cursor{}, err
		}
		if ok {
			last = seq - 1
		}
	case fromAfter:
		switch at := f.last.Position; {
		case at.Epoch != newest.Epoch:
			return Cursor{}, nowhere(fmt.Sprintf("the log is of epoch %d", newest.Epoch))
		case at.Seq > newest.Seq:
			return Cursor{}, nowhere("it is beyond the end")
		case at.Seq+1 < oldest.Seq:
			return Cursor{}, &TruncatedError{Asked: at, Oldest: oldest}
		default:
			last = at.Seq
		}
	}
	last = max(last, oldest.Seq-min(oldest.Seq, 1)) // what was purged cannot be begun with
	c := Cursor{Position: Position{Epoch: newest.Epoch, Partition: newest.Partition, Seq: last}}
	if last == 0 || last < oldest.Seq {
		return c, nil
	}
	if c.ID, err = l.ID(last); err != nil {
		return Cursor{}, err
	}
	if f.mode == fromAfter && f.last.ID != "" && c.ID != "" && f.last.ID != c.ID {
		return Cursor{}, nowhere(fmt.Sprintf("the event there is %s, not %s", c.ID, f.last.ID))
	}
	return c, nil
}

func (f From) String() string {
	switch f.mode {
	case fromNow:
		return "now"
	case fromSince:
		return f.at.Format(time.RFC3339Nano)
	case fromAfter:
		return "after " + f.last.Position.String()
	default:
		return "beginning"
	}
}
