package latest

import (
	"bytes"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/tachograph/tachograph/events"
)

// MarshalJSON writes the document of DESIGN.md. Equal states are equal bytes.
func (s State) MarshalJSON() ([]byte, error) { return s.AppendJSON(nil), nil }

// AppendJSON appends the document to b, without the stretches, which are of no
// use outside.
func (s *State) AppendJSON(b []byte) []byte { return append(s.appendOpen(b), '}') }

// appendKept appends the document as it is kept.
func (s *State) appendKept(b []byte) []byte {
	return append(s.appendStretches(append(s.appendOpen(b), `,"stretches":`...)), '}')
}

func (s *State) appendOpen(b []byte) []byte {
	b = appendString(append(b, `{"device":`...), s.Device)
	b = strconv.AppendUint(append(b, `,"position":{"epoch":`...), uint64(s.Position.Epoch), 10)
	b = strconv.AppendUint(append(b, `,"partition":`...), uint64(s.Position.Partition), 10)
	b = strconv.AppendUint(append(b, `,"seq":`...), s.Position.Seq, 10)
	b = appendString(append(b, `},"id":`...), s.ID)
	b = appendTime(append(b, `,"received":`...), s.Received)
	b = strconv.AppendUint(append(b, `,"events":`...), s.Events, 10)
	b = append(b, `,"messages":{`...)
	for i := range s.Messages {
		m := &s.Messages[i]
		if i > 0 {
			b = append(b, ',')
		}
		b = append(appendString(b, m.Type), ':', '{')
		for j := range m.Signals {
			if j > 0 {
				b = append(b, ',')
			}
			b = append(appendString(b, m.Signals[j].Name), ':')
			b = m.Signals[j].append(b)
		}
		b = append(b, '}')
	}
	return append(b, '}')
}

func (s *Signal) append(b []byte) []byte {
	b = append(append(b, `{"value":`...), s.Value...)
	b = appendTime(append(b, `,"time":`...), s.Time)
	b = appendTime(append(b, `,"received":`...), s.Received)
	if s.Flag != "" {
		b = append(append(append(b, `,"flag":"`...), s.Flag...), '"')
	}
	if s.Omitted > 0 {
		b = strconv.AppendInt(append(b, `,"omitted":`...), int64(s.Omitted), 10)
	}
	return append(b, '}')
}

func appendTime(b []byte, t time.Time) []byte {
	return append(t.UTC().AppendFormat(append(b, '"'), time.RFC3339Nano), '"')
}

// appendString appends a JSON string.
func appendString(b []byte, s string) []byte {
	for i := 0; i < len(s); i++ {
		if c := s[i]; c < ' ' || c > '~' || c == '"' || c == '\\' {
			return appendValue(b, s)
		}
	}
	return append(append(append(b, '"'), s...), '"')
}

// appendValue appends any value as JSON, with < > & as they are.
func appendValue(b []byte, v any) []byte {
	out := bytes.NewBuffer(b)
	enc := json.NewEncoder(out)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(v); err != nil {
		return append(b, "null"...) // no string and no value of schemas.Value is like that
	}
	return bytes.TrimSuffix(out.Bytes(), []byte("\n"))
}

// UnmarshalJSON reads the document of DESIGN.md; what it does not know it
// leaves out.
func (s *State) UnmarshalJSON(b []byte) error {
	var d struct {
		Device   string          `json:"device"`
		Position events.Position `json:"position"`
		ID       string          `json:"id"`
		Received time.Time       `json:"received"`
		Events   uint64          `json:"events"`
		Messages map[string]map[string]struct {
			Value    json.RawMessage `json:"value"`
			Time     time.Time       `json:"time"`
			Received time.Time       `json:"received"`
			Flag     Flag            `json:"flag"`
			Omitted  int             `json:"omitted"`
		} `json:"messages"`
		Stretches [][]int64 `json:"stretches"`
	}
	if err := json.Unmarshal(b, &d); err != nil {
		return fmt.Errorf("read state document: %w", err)
	}
	*s = State{Device: d.Device, Position: d.Position, ID: d.ID, Received: d.Received, Events: d.Events}
	s.readStretches(d.Stretches)
	for typ, signals := range d.Messages {
		m := Message{Type: typ, Signals: make([]Signal, 0, len(signals))}
		for name, x := range signals {
			if len(x.Value) == 0 {
				x.Value = null()
			}
			m.Signals = append(m.Signals, Signal{Name: name, Value: x.Value, Time: x.Time, Received: x.Received, Flag: x.Flag, Omitted: x.Omitted})
		}
		slices.SortFunc(m.Signals, func(a, b Signal) int { return strings.Compare(a.Name, b.Name) })
		s.Messages = append(s.Messages, m)
	}
	slices.SortFunc(s.Messages, func(a, b Message) int { return strings.Compare(a.Type, b.Type) })
	return nil
}

func null() json.RawMessage { return json.RawMessage("null") }
