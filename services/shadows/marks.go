package shadows

import (
	"time"

	"github.com/tachograph/tachograph/events"
	"github.com/tachograph/tachograph/projections/shadow"
)

// A mark is a shadow's document as it was after one of its facts. Looks at the
// past begin at one instead of at the first fact. Marks are folded anew with the
// shadows at each start.
type mark struct {
	position events.Position
	received time.Time // the latest arrival up to there
	doc      shadow.Document
}

// Marks lie so many facts apart; when there are too many of a shadow every second
// one goes, and they lie twice as far apart.
const (
	markEvery = 256
	maxMarks  = 128
)

type marks struct {
	all      []mark
	every    int
	since    int       // facts folded since the last mark
	received time.Time // the latest arrival so far
}

// note takes the shadow's next fact and the document after it, which is not known
// when whoever appended the fact is further already.
func (m *marks) note(ev events.Event, doc shadow.Document, known bool) {
	if ev.Received.After(m.received) {
		m.received = ev.Received
	}
	m.since++
	m.every = max(m.every, markEvery)
	if m.since < m.every && ev.Type != shadow.TypeRestated || !known { // what comes before that one is not in the log
		return
	}
	m.since = 0
	m.all = append(m.all, mark{ev.Position, m.received, doc})
	if len(m.all) > maxMarks {
		kept := m.all[:0]
		for i, one := range m.all {
			if i%2 == 1 {
				kept = append(kept, one)
			}
		}
		clear(m.all[len(kept):])
		m.all, m.every = kept, 2*m.every
	}
}

// last returns the newest mark that fits, where each one before it does, too.
func (m *marks) last(fits func(mark) bool) (found mark, ok bool) {
	for _, one := range m.all {
		if !fits(one) {
			break
		}
		found, ok = one, true
	}
	return found, ok
}

// from returns where a look at a shadow's past begins.
func (s *Shadows) from(device, name string, fits func(mark) bool) mark {
	if e := s.find(device, name); e != nil {
		e.mu.Lock()
		defer e.mu.Unlock()
		if m, ok := e.marks.last(fits); ok {
			return m
		}
	}
	return mark{doc: shadow.Document{Name: name}}
}
