package events

import "time"

// An Event is one fact, immutable once stored.
//
// Writers fill Stream, Type, ID, Schema and Payload. Position and Received are
// the log's to set; a writer's values there are ignored, but for Received in
// the replay of a dead letter (see LetterID.Replay).
//
// A log may give its readers events that share memory with others that came with
// them: who keeps Stream or Payload of one for long clones it.
type Event struct {
	Stream Stream

	// Type is the message type of a telemetry event ("position") and what
	// happened for every other kind ("added", "desired").
	Type string

	// ID tells repeats apart; see DESIGN.md, "Ids". At most 64 bytes of
	// [A-Za-z0-9_-].
	ID string

	// Schema is the version of the schema that was current for Type when the
	// event was accepted; 0 when nobody had registered one.
	Schema uint32

	// Payload holds the sender's bytes, never altered.
	Payload []byte

	// Position says where the log keeps the event. Set by the log.
	Position Position

	// Received is the arrival time, UTC, as the log stamped it. Set by the log.
	Received time.Time
}

// Cursor returns where a reader goes on that has dealt with the event.
func (e *Event) Cursor() Cursor { return Cursor{Position: e.Position, ID: e.ID} }
