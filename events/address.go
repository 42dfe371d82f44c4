package events

import (
	"fmt"
	"strconv"
	"strings"
)

// Where events are kept; DESIGN.md, "Subjects", is the specification.
//
//	in.<slot>.<device>.<type>.<schema>          telemetry
//	in.<slot>.<device>.<type>.r<letter>         the replay of a dead letter
//	fact.<slot>.<kind>.<id>[.<name>]            control facts
//	secret.<slot>.credential.<id>               credentials, never republished
//	dead.<slot>.<device>.<type>.<name>          what could not be decoded
const (
	rootTelemetry = "in"
	rootFact      = "fact"
	rootSecret    = "secret"
	rootDead      = "dead"

	replayMark = 'r' // before a letter's name, where other telemetry has a number
)

// Subject returns the subject that the log keeps the event under.
func (e *Event) Subject() string {
	return string(e.AppendSubject(make([]byte, 0, 64)))
}

// AppendSubject appends the event's subject to b.
func (e *Event) AppendSubject(b []byte) []byte {
	switch e.Stream.Kind {
	case Telemetry:
		b = appendRoot(b, rootTelemetry, e.Stream.ID)
		b = append(appendToken(b, e.Stream.ID), '.')
		b = append(appendToken(b, e.Type), '.')
		if e.Stream.Name != "" {
			return appendToken(append(b, replayMark), e.Stream.Name)
		}
		return strconv.AppendUint(b, uint64(e.Schema), 10)
	case DeadLetter:
		b = appendRoot(b, rootDead, e.Stream.ID)
		b = append(appendToken(b, e.Stream.ID), '.')
		b = append(appendToken(b, e.Type), '.')
		return appendToken(b, e.Stream.Name)
	default:
		return e.Stream.appendSubject(b)
	}
}

// appendSubject appends the one subject of a control aggregate.
func (s Stream) appendSubject(b []byte) []byte {
	root := rootFact
	if s.Kind == Credential {
		root = rootSecret
	}
	b = appendRoot(b, root, s.ID)
	b = append(append(b, s.Kind...), '.')
	b = appendToken(b, s.ID)
	if s.Name != "" {
		b = appendToken(append(b, '.'), s.Name)
	}
	return b
}

// Filter returns the subject, possibly with wild cards, under which the log
// keeps the events of one stream.
func (s Stream) Filter() string {
	switch s.Kind {
	case Telemetry:
		b := appendToken(appendRoot(nil, rootTelemetry, s.ID), s.ID)
		if s.Name != "" {
			return string(appendToken(append(b, ".*."+string(replayMark)...), s.Name))
		}
		return string(b) + ".>"
	case DeadLetter:
		if s.Name == "" {
			return string(appendToken(appendRoot(nil, rootDead, s.ID), s.ID)) + ".>"
		}
		return string(appendToken(append(appendToken(appendRoot(nil, rootDead, s.ID), s.ID), ".*."...), s.Name))
	default:
		return string(s.appendSubject(nil))
	}
}

func appendRoot(b []byte, root, id string) []byte {
	b = append(append(b, root...), '.')
	b = strconv.AppendUint(b, uint64(Slot(id)), 10)
	return append(b, '.')
}

func appendToken(b []byte, s string) []byte {
	for i := 0; i < len(s); i++ {
		if !tokenByte(s[i]) {
			return append(b, Escape(s)...)
		}
	}
	if s == "" {
		return append(b, '=')
	}
	return append(b, s...)
}

// ParseSubject is the inverse of Subject: the stream, the type where the
// subject has it, and the schema version.
func ParseSubject(subject string) (s Stream, typ string, schema uint32, err error) {
	bad := func(why string) (Stream, string, uint32, error) {
		return Stream{}, "", 0, fmt.Errorf("parse subject %q: %s: %w", subject, why, ErrInvalid)
	}
	var tokens [6]string
	n := 0
	for rest, more := subject, true; more; n++ {
		if n == len(tokens) {
			return bad("too many tokens")
		}
		tokens[n], rest, more = strings.Cut(rest, ".")
	}
	if n < 4 {
		return bad("too few tokens")
	}
	unescape := func(i int) string {
		if err != nil {
			return ""
		}
		var text string
		text, err = Unescape(tokens[i])
		return text
	}
	switch tokens[0] {
	case rootTelemetry:
		if n != 5 {
			return bad("telemetry has five tokens")
		}
		s, typ = Stream{Kind: Telemetry, ID: unescape(2)}, unescape(3)
		if name, replay := strings.CutPrefix(tokens[4], string(replayMark)); replay {
			tokens[4] = name
			s.Name = unescape(4)
			break
		}
		v, perr := strconv.ParseUint(tokens[4], 10, 32)
		if perr != nil {
			return bad("schema version")
		}
		schema = uint32(v)
	case rootDead:
		if n != 5 {
			return bad("a dead letter has five tokens")
		}
		s, typ = Stream{Kind: DeadLetter, ID: unescape(2), Name: unescape(4)}, unescape(3)
	case rootFact, rootSecret:
		s = Stream{Kind: Kind(tokens[2]), ID: unescape(3)}
		if n == 5 {
			s.Name = unescape(4)
		}
		if n > 5 || s.Kind == "" || (s.Kind == Credential) != (tokens[0] == rootSecret) {
			return bad("kind")
		}
	default:
		return bad("unknown root")
	}
	if err != nil {
		return Stream{}, "", 0, err
	}
	var slot [3]byte
	if tokens[1] != string(strconv.AppendUint(slot[:0], uint64(Slot(s.ID)), 10)) {
		return bad("slot is not the id's")
	}
	return s, typ, schema, nil
}

// Validate tells what makes an event unfit for any log. Errors wrap ErrInvalid.
func (e *Event) Validate() error {
	bad := func(why string) error {
		return fmt.Errorf("event of %s: %s: %w", e.Stream, why, ErrInvalid)
	}
	switch {
	case e.Stream.Kind == "":
		return bad("no kind")
	case e.Stream.ID == "":
		return bad("no id of a device or aggregate")
	case len(e.Stream.ID) > 256 || len(e.Stream.Name) > 256 || len(e.Type) > 128:
		return bad("id, name or type too long")
	case e.Type == "":
		return bad("no type")
	case e.Stream.Kind == DeadLetter && e.Stream.Name == "":
		return bad("a dead letter needs a name")
	case e.Stream.Kind == Telemetry && e.Stream.Name != "":
		if _, ok := e.Replayed(); !ok || e.Schema == 0 || e.Received.IsZero() {
			return bad("telemetry has no name, unless it replays a dead letter")
		}
	case !ValidID(e.ID):
		return bad("bad event id")
	}
	return nil
}

// PartitionIn returns where a log of n telemetry partitions that was never split
// keeps the stream.
func (s Stream) PartitionIn(n int) uint16 {
	switch s.Kind {
	case Telemetry:
		return PartitionOf(Slot(s.ID), n)
	case DeadLetter:
		return DeadLetterPartition
	default:
		return ControlPartition
	}
}
