package jetlog

import (
	"fmt"
	"strconv"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/tachograph/tachograph/events"
)

// The headers of an event (DESIGN.md, "Envelope"). Telemetry usually has none:
// its type and schema version stand in the subject, and its id is the one that
// events.DeriveID gives.
const (
	headerID       = "Id" // where it is not the derived one
	headerType     = "Ty" // of control facts
	headerSchema   = "Sv" // of control facts, when not 0, and of replays
	headerReceived = "At" // of imported events and replays: the arrival time, RFC 3339 with nanoseconds
)

func headerOf(e *events.Event) nats.Header {
	if _, ok := e.Replayed(); ok {
		return nats.Header{
			headerID:       []string{e.ID},
			headerSchema:   []string{strconv.FormatUint(uint64(e.Schema), 10)},
			headerReceived: []string{e.Received.UTC().Format(time.RFC3339Nano)},
		}
	}
	if e.Stream.Kind == events.Telemetry || e.Stream.Kind == events.DeadLetter {
		if e.ID == events.DeriveID(e.Stream.ID, e.Type, e.Payload) {
			return nil
		}
		return nats.Header{headerID: []string{e.ID}}
	}
	h := nats.Header{headerID: []string{e.ID}, headerType: []string{e.Type}}
	if e.Schema != 0 {
		h[headerSchema] = []string{strconv.FormatUint(uint64(e.Schema), 10)}
	}
	return h
}

// A decoder turns messages into events. Their strings are parts of the subject:
// on a stream of many devices reading a subject takes a third of the time that
// remembering it would take.
type decoder struct {
	epoch     uint32
	partition uint16
}

func (d *decoder) decode(subject string, h nats.Header, data []byte, seq uint64, at time.Time) (events.Event, error) {
	stream, typ, schema, err := events.ParseSubject(subject)
	if err != nil {
		return events.Event{}, fmt.Errorf("event %d: %w", seq, err)
	}
	e := events.Event{
		Stream: stream, Type: typ, Schema: schema, Payload: data, Received: at,
		Position: events.Position{Epoch: d.epoch, Partition: d.partition, Seq: seq},
	}
	if h == nil {
		e.ID = events.DeriveID(e.Stream.ID, e.Type, e.Payload)
		return e, nil
	}
	if e.ID = h.Get(headerID); e.ID == "" {
		e.ID = events.DeriveID(e.Stream.ID, e.Type, e.Payload)
	}
	if e.Type == "" {
		e.Type = h.Get(headerType)
	}
	if v := h.Get(headerSchema); v != "" {
		n, err := strconv.ParseUint(v, 10, 32)
		if err != nil {
			return e, fmt.Errorf("event %d: schema version %q: %w", seq, v, events.ErrInvalid)
		}
		e.Schema = uint32(n)
	}
	if v := h.Get(headerReceived); v != "" {
		t, err := time.Parse(time.RFC3339Nano, v)
		if err != nil {
			return e, fmt.Errorf("event %d: arrival time %q: %w", seq, v, events.ErrInvalid)
		}
		e.Received = t.UTC()
	}
	return e, nil
}
