package events

import (
	"fmt"
	"strconv"
	"strings"
)

// A LetterID names a dead letter: the message, by its position, and in it the
// sample that could not be read (0 where it is the whole message).
type LetterID struct {
	Position Position
	Sample   uint32
}

// String returns <epoch>.<partition>.<sequence>-<sample>.
func (l LetterID) String() string {
	return l.Position.String() + "-" + strconv.FormatUint(uint64(l.Sample), 10)
}

// ParseLetterID is the inverse of String. Errors wrap ErrInvalid.
func ParseLetterID(s string) (LetterID, error) {
	at, sample, ok := strings.Cut(s, "-")
	c, parsed := parseCursor(at)
	n, err := strconv.ParseUint(sample, 10, 32)
	l := LetterID{Position: c.Position, Sample: uint32(n)}
	if !ok || !parsed || err != nil || c.ID != "" || l.String() != s { // one letter, one name
		return LetterID{}, fmt.Errorf("dead letter %.80q: want epoch.partition.sequence-sample: %w", s, ErrInvalid)
	}
	return l, nil
}

// Replayed tells of which dead letter a telemetry event is the replay: the same
// bytes, to be read by a later schema. It is stored by Append with Fresh, so
// that a letter is replayed once.
func (e *Event) Replayed() (LetterID, bool) {
	if e.Stream.Kind != Telemetry || e.Stream.Name == "" {
		return LetterID{}, false
	}
	l, err := ParseLetterID(e.Stream.Name)
	return l, err == nil
}

// Replay returns the event that replays a dead letter of a device: payload is
// what could not be read, schema the version that can. It keeps the arrival
// time of the letter's own event. Its id follows from the letter, and differs
// from that event's: it must not be taken for a repeat of it.
func (l LetterID) Replay(letter Event, schema uint32) Event {
	return Event{
		Stream:   Stream{Kind: Telemetry, ID: letter.Stream.ID, Name: l.String()},
		Type:     letter.Type,
		ID:       DeriveID(letter.Stream.ID, letter.Type+"\x00"+l.String(), letter.Payload),
		Schema:   schema,
		Payload:  letter.Payload,
		Received: letter.Received,
	}
}
