package api

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"net/url"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/tachograph/tachograph/events"
	"github.com/tachograph/tachograph/schemas"
)

// An eventEncoder writes one event as one line of JSON; DESIGN.md, "Events as
// NDJSON", is its specification. It is used by one goroutine.
type eventEncoder struct {
	payloads payloads
	schemas  *schemas.Registry
	checkers map[checkerKey]*schemas.Checker
	batches  map[checkerKey]*schemas.Batch
	line     []byte
	decoded  []byte

	stream events.Stream // of the event before, and
	source string        // its source: reads are mostly of one stream
}

type checkerKey struct {
	name    string
	version uint32
}

// encode returns the line with its line feed; it is valid until the next call.
// at is where a reader stands once it has dealt with the event.
func (c *eventEncoder) encode(e *events.Event, at events.Cursors) []byte {
	if e.Stream != c.stream {
		c.stream, c.source = e.Stream, source(e.Stream)
	}
	b := append(c.line[:0], `{"id":`...)
	b = appendString(b, e.ID)
	b = append(b, `,"source":`...)
	b = appendString(b, c.source)
	b = append(b, `,"type":`...)
	b = appendString(b, e.Type)
	b = append(b, `,"kind":`...)
	b = appendString(b, string(e.Stream.Kind))
	if e.Stream.Kind != events.SchemaKind && e.Stream.Kind != events.Job {
		b = append(b, `,"device":`...)
		b = appendString(b, e.Stream.ID)
	}
	if e.Schema != 0 {
		b = append(b, `,"schema":`...)
		b = strconv.AppendUint(b, uint64(e.Schema), 10)
	}
	b = append(b, `,"time":"`...)
	b = c.time(e).AppendFormat(b, time.RFC3339Nano)
	b = append(b, `","received":"`...)
	b = e.Received.UTC().AppendFormat(b, time.RFC3339Nano)
	b = append(b, `","position":{"epoch":`...)
	b = strconv.AppendUint(b, uint64(e.Position.Epoch), 10)
	b = append(b, `,"partition":`...)
	b = strconv.AppendUint(b, uint64(e.Position.Partition), 10)
	b = append(b, `,"seq":`...)
	b = strconv.AppendUint(b, e.Position.Seq, 10)
	b = append(b, `},"token":"`...)
	b = append(at.AppendToken(b), '"')
	data, decoded, raw := c.forms(e)
	if data != nil {
		name := `,"data":`
		if decoded {
			name = `,"decoded":`
		}
		b = append(append(b, name...), data...)
	}
	if raw {
		b = append(b, `,"data_base64":"`...)
		b = base64.StdEncoding.AppendEncode(b, e.Payload)
		b = append(b, '"')
	}
	b = append(b, '}', '\n')
	c.line = b
	return b
}

// forms returns the payload as JSON, nil where it is not shown so, whether that
// was made of protobuf, and whether the payload's bytes are to be given. The
// JSON is valid until the next call.
func (c *eventEncoder) forms(e *events.Event) (data []byte, decoded, raw bool) {
	if c.payloads == asBase64 {
		return nil, false, true
	}
	if verbatim(e.Payload) {
		return e.Payload, false, c.payloads == asBothWays
	}
	if c.decoded, decoded = c.appendDecoded(c.decoded[:0], e); !decoded {
		return nil, false, true
	}
	return c.decoded, true, c.payloads == asBothWays
}

// source is the event's aggregate as a path of this API.
func source(s events.Stream) string {
	path := "/v1/devices/"
	switch s.Kind {
	case events.SchemaKind:
		path = "/v1/schemas/"
	case events.Job:
		path = "/v1/jobs/"
	}
	path += url.PathEscape(s.ID)
	if s.Name != "" {
		path += "/" + url.PathEscape(s.Name)
	}
	return path
}

// time returns when the event happened: by the device's clock when it told,
// else on arrival.
func (c *eventEncoder) time(e *events.Event) time.Time {
	if e.Stream.Kind != events.Telemetry {
		return e.Received.UTC()
	}
	if at, ok := schemas.PeekTime(e.Payload); ok {
		return at.UTC()
	}
	if checker := c.checker(e.Type, e.Schema); checker != nil {
		if info, err := checker.Check(e.Payload); err == nil && !info.Time.IsZero() {
			return info.Time.UTC()
		}
	}
	return e.Received.UTC()
}

func (c *eventEncoder) checker(name string, version uint32) *schemas.Checker {
	if version == 0 {
		return nil
	}
	key := checkerKey{name, version}
	if checker, ok := c.checkers[key]; ok {
		return checker
	}
	var checker *schemas.Checker
	if s, ok := c.schemas.Version(name, version); ok {
		checker = s.NewChecker()
	}
	if c.checkers == nil {
		c.checkers = make(map[checkerKey]*schemas.Checker)
	}
	c.checkers[key] = checker
	return checker
}

// verbatim tells whether a payload can stand in a line as it is, so that a
// reader who takes the raw value of data has the sender's very bytes: JSON in
// valid UTF-8, on one line, without white space around it.
func verbatim(payload []byte) bool {
	return len(payload) > 0 && payload[0] > ' ' && payload[len(payload)-1] > ' ' &&
		bytes.IndexByte(payload, '\n') < 0 && bytes.IndexByte(payload, '\r') < 0 &&
		utf8.Valid(payload) && json.Valid(payload)
}

func validUTF8(s string) string { return strings.ToValidUTF8(s, "\uFFFD") }

func appendString(b []byte, s string) []byte {
	for i := 0; i < len(s); i++ {
		if c := s[i]; c < ' ' || c > '~' || c == '"' || c == '\\' {
			quoted, err := json.Marshal(s)
			if err != nil { // never for a string
				return append(b, `""`...)
			}
			return append(b, quoted...)
		}
	}
	b = append(b, '"')
	b = append(b, s...)
	return append(b, '"')
}
