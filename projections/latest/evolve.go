package latest

import (
	"bytes"
	"encoding/json"
	"time"
	"unicode/utf8"

	"github.com/tachograph/tachograph/events"
)

// Bounds of a document. They depend on single values and on the order of
// times alone, so that any batching of the same events gives the same document.
const (
	maxValue   = 4 << 10 // bytes of one value; a larger one is told by its size
	maxRawKeys = 64      // message types without a schema that are shown of a device
	maxDepth   = 64      // of a message without a schema
)

// Evolve applies the samples that events of one device brought, of one message
// type. It is the only way in which signals change: live, in a rebuild and in a
// look at the past. Which of several values wins depends on their times and
// positions alone, never on which call brought them.
func (s *State) Evolve(r Rows) {
	if r.count == 0 {
		return
	}
	b := r.of
	for row := r.first; row >= 0; row = b.next[row] {
		s.measured(b.order[row], b.events[b.event[row]].place.seq)
	}
	m := s.message(b.typ)
	for c := range b.cells {
		cells := &b.cells[c]
		best := int32(-1)
		for row := r.first; row >= 0; row = b.next[row] {
			if b.order[row] <= b.until && cells.has(int(row)) && (best < 0 || b.order[row] >= b.order[best]) {
				best = row
			}
		}
		if best < 0 {
			continue
		}
		sig := m.newest(cells.name, b.order[best], b.place(best))
		if sig == nil {
			continue
		}
		value := cells.append(sig.Value[:0], int(best))
		sig.Omitted = 0
		if len(value) > maxValue {
			value, sig.Omitted = null(), len(value)
		}
		sig.Value = value
		sig.Time, sig.Received = time.UnixMicro(b.times[best]).UTC(), b.events[b.event[best]].received
		sig.Flag, sig.at = b.flags[best], b.place(best)
	}
	if len(m.Signals) == 0 {
		s.drop(b.typ)
	}
}

// evolveRaw applies a message without a schema. sent is the time of its first
// sample, if it has one.
func (s *State) evolveRaw(typ string, payload []byte, sent time.Time, e received, rules bounds) {
	order, flag := rules.judge(sent.UnixMicro(), e.received.UnixMicro())
	s.measured(order, e.place.seq)
	if order > rules.until {
		return
	}
	m := s.message(typ)
	_, had := findSignal(m.Signals, Raw)
	sig := m.newest(Raw, order, e.place)
	if sig == nil {
		return
	}
	sig.Value, sig.Omitted = null(), max(1, len(payload))
	if presentable(payload) {
		var text bytes.Buffer
		if json.Compact(&text, payload) == nil { // so that it is read back as it was written
			sig.Value, sig.Omitted = text.Bytes(), 0
		}
	}
	sig.Time, sig.Received, sig.Flag, sig.at = time.UnixMicro(sent.UnixMicro()).UTC(), e.received, flag, e.place
	if !had {
		s.dropOldestRaw()
	}
}

// presentable tells whether a payload can stand in a document as it is.
func presentable(payload []byte) bool {
	if len(payload) > maxValue || !utf8.Valid(payload) || !json.Valid(payload) {
		return false
	}
	depth, quoted := 0, false
	for i := 0; i < len(payload); i++ {
		switch c := payload[i]; {
		case quoted && c == '\\':
			i++
		case c == '"':
			quoted = !quoted
		case quoted:
		case c == '{' || c == '[':
			if depth++; depth > maxDepth {
				return false
			}
		case c == '}' || c == ']':
			depth--
		}
	}
	return true
}

// dropOldestRaw keeps a device that invents message types from growing its
// document without end: the newest by time stay, the last by name among equals.
func (s *State) dropOldestRaw() {
	count, oldest := 0, -1
	var order int64
	for i := range s.Messages {
		m := &s.Messages[i]
		j, ok := findSignal(m.Signals, Raw)
		if !ok {
			continue
		}
		count++
		if o := m.Signals[j].order(); oldest < 0 || o < order {
			oldest, order = i, o
		}
	}
	if count <= maxRawKeys {
		return
	}
	m := &s.Messages[oldest]
	j, _ := findSignal(m.Signals, Raw)
	m.Signals = append(m.Signals[:j], m.Signals[j+1:]...)
	if len(m.Signals) == 0 {
		s.drop(m.Type)
	}
}

func (s *State) drop(typ string) {
	if i, ok := findMessage(s.Messages, typ); ok {
		s.Messages = append(s.Messages[:i], s.Messages[i+1:]...)
	}
}

// arrive notes an event, whatever its payload is worth.
func (s *State) arrive(e *events.Event) {
	s.Position, s.ID = e.Position, e.ID
	s.Events++
	if at := time.UnixMicro(e.Received.UnixMicro()).UTC(); at.After(s.Received) {
		s.Received = at // the replay of a dead letter arrived long before
	}
}
