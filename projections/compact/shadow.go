package compact

import (
	"fmt"
	"time"

	"github.com/tachograph/tachograph/events"
	"github.com/tachograph/tachograph/projections/shadow"
)

// document keeps one fact that says what all of a shadow's came to, at the position
// of the newest. It bears the latest arrival of them, as it stands for whatever had
// arrived by then. Of a shadow that was deleted the deletion is that fact, which has
// the version that is remembered.
type document struct {
	unread   []events.Event // the fold passes over them
	last     events.Event
	n        int
	track    shadow.Track
	received time.Time
}

func (k *document) add(e events.Event) {
	f, err := shadow.ParseFact(e.Type, e.Payload)
	if err != nil {
		k.unread = append(k.unread, e)
		return
	}
	if k.n == 0 {
		k.track.Document.Name = e.Stream.Name
	}
	k.n++
	k.last, k.track = e, k.track.Evolve(f)
	if e.Received.After(k.received) {
		k.received = e.Received
	}
}

func (k *document) facts() ([]events.Event, error) {
	if k.n == 0 {
		return k.unread, nil
	}
	e := k.last
	if k.n > 1 && e.Type != shadow.TypeDeleted {
		payload, err := k.track.Restate()
		if err != nil {
			return nil, fmt.Errorf("compact %s at %s: %w", e.Stream, e.Position, err)
		}
		e.Type, e.Payload, e.Received = shadow.TypeRestated, payload, k.received
	}
	return append(k.unread[:len(k.unread):len(k.unread)], e), nil
}

func (k *document) over() bool { return false }
