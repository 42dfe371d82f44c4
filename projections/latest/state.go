package latest

import (
	"cmp"
	"encoding/json"
	"slices"
	"strings"
	"time"

	"github.com/tachograph/tachograph/events"
)

// A State is what is known of one device: its document in the bucket.
type State struct {
	Device   string
	Position events.Position // of the device's newest event; all up to it are in here
	ID       string          // of that event
	Received time.Time       // newest arrival among its events, UTC
	Events   uint64          // how many the device has sent, repeats included
	Messages []Message       // sorted by type

	stretches [stretchLevels]span
}

// A Message holds the signals of one message type.
type Message struct {
	Type    string
	Signals []Signal // sorted by name
}

// A Signal is the newest value of one field.
type Signal struct {
	Name     string          // the column's name in ClickHouse; Raw or schemas.UnknownColumn
	Value    json.RawMessage // null when it was omitted
	Time     time.Time       // the device's own, as it sent it; Received if it sent none
	Received time.Time       // arrival of the message, UTC
	Flag     Flag
	Omitted  int // bytes of a value that is too large to stand here

	at place
}

// A Flag says why a value is ordered by its arrival and not by its own time.
type Flag string

// The flags.
const (
	Future  Flag = "future"  // further ahead of its arrival than the tolerance
	Ancient Flag = "ancient" // before any device can have measured it
)

// Raw is the name of the one signal of a message without a schema: the message.
const Raw = "_raw"

// Signal returns one signal of one message type.
func (s *State) Signal(messageType, name string) (Signal, bool) {
	i, ok := findMessage(s.Messages, messageType)
	if !ok {
		return Signal{}, false
	}
	m := &s.Messages[i]
	j, ok := findSignal(m.Signals, name)
	if !ok {
		return Signal{}, false
	}
	return m.Signals[j], true
}

// clone returns a state that shares nothing with s.
func (s *State) clone() State {
	c := *s
	for i := range c.stretches {
		c.stretches[i].late = slices.Clone(c.stretches[i].late)
	}
	c.Messages = slices.Clone(s.Messages)
	for i := range c.Messages {
		m := &c.Messages[i]
		m.Signals = slices.Clone(m.Signals)
		for j := range m.Signals {
			m.Signals[j].Value = slices.Clone(m.Signals[j].Value)
		}
	}
	return c
}

// A place is where in the log a value comes from; the zero place is before all.
type place struct {
	epoch, sample uint32
	seq           uint64
}

func (p place) compare(q place) int {
	return cmp.Or(cmp.Compare(p.epoch, q.epoch), cmp.Compare(p.seq, q.seq), cmp.Compare(p.sample, q.sample))
}

// order is the time that a signal is ordered by, in microseconds.
func (s *Signal) order() int64 {
	if s.Flag != "" {
		return s.Received.UnixMicro()
	}
	return s.Time.UnixMicro()
}

func findMessage(all []Message, typ string) (int, bool) {
	return slices.BinarySearchFunc(all, typ, func(m Message, t string) int { return strings.Compare(m.Type, t) })
}

func findSignal(all []Signal, name string) (int, bool) {
	return slices.BinarySearchFunc(all, name, func(s Signal, n string) int { return strings.Compare(s.Name, n) })
}

// message returns the signals of a type, which it makes if need be. The pointer
// is good until the next call.
func (s *State) message(typ string) *Message {
	i, ok := findMessage(s.Messages, typ)
	if !ok {
		s.Messages = slices.Insert(s.Messages, i, Message{Type: typ})
	}
	return &s.Messages[i]
}

// newest returns the signal to fill with a value of that order and place, or
// nil if what is there is newer. The pointer is good until the next call.
func (m *Message) newest(name string, order int64, at place) *Signal {
	i, ok := findSignal(m.Signals, name)
	if !ok {
		m.Signals = slices.Insert(m.Signals, i, Signal{Name: name})
		return &m.Signals[i]
	}
	sig := &m.Signals[i]
	if old := sig.order(); old > order || old == order && sig.at.compare(at) > 0 {
		return nil
	}
	return sig
}

// before tells whether p is an earlier place in the log than q.
func before(p, q events.Position) bool {
	return p.Epoch < q.Epoch || p.Epoch == q.Epoch && p.Seq < q.Seq
}
