package jetlog

import (
	"fmt"
	"strconv"
	"strings"
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
// remembering it would take. Only types, of which there are few, are remembered.
type decoder struct {
	epoch     uint32
	partition uint16
	typ       string // of the event before
	types     map[string]string
	ids       []byte // see derived
}

// remembered is how many types are remembered; devices may invent them.
const remembered = 256

// known returns a type that has memory of its own.
func (d *decoder) known(typ string) string {
	if typ == d.typ {
		return d.typ
	}
	own, ok := d.types[typ]
	if !ok {
		if d.types == nil || len(d.types) >= remembered {
			d.types = map[string]string{}
		}
		own = strings.Clone(typ)
		d.types[own] = own
	}
	d.typ = own
	return own
}

// idsAtOnce is how many derived ids share their memory, which lasts as long as one
// of them is known; an allocation for each costs more than making it.
const idsAtOnce = 8

// derived is events.DeriveID.
func (d *decoder) derived(device, typ string, payload []byte) string {
	if cap(d.ids)-len(d.ids) < events.DerivedLength {
		d.ids = make([]byte, 0, idsAtOnce*events.DerivedLength)
	}
	from := len(d.ids)
	d.ids = events.AppendDerivedID(d.ids, device, typ, payload)
	return text(d.ids[from:])
}

func (d *decoder) decode(subject string, h nats.Header, data []byte, seq uint64, at time.Time) (events.Event, error) {
	return d.decodeEnvelope(subject, envelopeOf(h), data, seq, at)
}

func (d *decoder) decodeEnvelope(subject string, h envelope, data []byte, seq uint64, at time.Time) (events.Event, error) {
	stream, typ, schema, err := events.ParseSubject(subject)
	if err != nil {
		return events.Event{}, fmt.Errorf("event %d: %w", seq, err)
	}
	if typ == "" {
		typ = h.typ
	}
	e := events.Event{
		Stream: stream, Type: d.known(typ), ID: h.id, Schema: schema, Payload: data, Received: at,
		Position: events.Position{Epoch: d.epoch, Partition: d.partition, Seq: seq},
	}
	if e.ID == "" {
		e.ID = d.derived(e.Stream.ID, typ, e.Payload)
	}
	if h.schema != "" {
		n, err := strconv.ParseUint(h.schema, 10, 32)
		if err != nil {
			return e, fmt.Errorf("event %d: schema version %q: %w", seq, h.schema, events.ErrInvalid)
		}
		e.Schema = uint32(n)
	}
	if h.received != "" {
		t, err := time.Parse(time.RFC3339Nano, h.received)
		if err != nil {
			return e, fmt.Errorf("event %d: arrival time %q: %w", seq, h.received, events.ErrInvalid)
		}
		e.Received = t.UTC()
	}
	return e, nil
}
