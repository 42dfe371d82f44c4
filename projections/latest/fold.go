package latest

import (
	"fmt"
	"iter"
	"time"

	"github.com/tachograph/tachograph/events"
	"github.com/tachograph/tachograph/projections"
	"github.com/tachograph/tachograph/schemas"
)

// Fold computes a device's state from its events, oldest first: all of them for
// what is known now, those up to a position for what was known then. It reads
// no clock; arrival times come with the events. Events that are no telemetry
// are passed over.
//
// It returns the error that the sequence yields, or one that names the schema
// version that the registry lacks.
func Fold(device string, evs iter.Seq2[events.Event, error], registry *schemas.Registry, rules Rules) (State, error) {
	state := State{Device: device}
	if err := foldInto(&state, evs, registry, rules); err != nil {
		return State{}, err
	}
	return state, nil
}

// foldInto folds further events into a state. After an error it is of no use.
func foldInto(state *State, evs iter.Seq2[events.Event, error], registry *schemas.Registry, rules Rules) error {
	return projections.Guard(nil, func() error { return foldEvents(state, evs, registry, rules) })
}

func foldEvents(state *State, evs iter.Seq2[events.Event, error], registry *schemas.Registry, rules Rules) error {
	device := state.Device
	f := newFolder(rules)
	for e, err := range evs {
		if err != nil {
			return fmt.Errorf("fold state of %s: %w", device, err)
		}
		if e.Stream.Kind != events.Telemetry || e.Stream.ID != device {
			continue
		}
		var schema *schemas.Schema
		if e.Schema > 0 {
			var ok bool
			if schema, ok = registry.Version(e.Type, e.Schema); !ok {
				return fmt.Errorf("fold state of %s at %s: version %d of schema %s is not registered here", device, e.Position, e.Schema, e.Type)
			}
		}
		f.add(state, &e, schema)
		if f.pending >= foldBytes {
			f.evolve()
		}
	}
	f.evolve()
	return nil
}

// foldBytes of payload are decoded together in a fold of one device.
const foldBytes = 4 << 20

// A folder applies events to the states of many devices, decoding all events of
// one message type together. It is reused.
type folder struct {
	rules   bounds
	types   map[version]*decoded
	states  []*State
	index   map[*State]int32
	pending int // bytes

	rows, bad uint64
}

type version struct {
	typ    string
	number uint32
}

func newFolder(rules Rules) *folder {
	return &folder{rules: rules.bounds(), types: map[version]*decoded{}, index: map[*State]int32{}}
}

// add takes an event in; its effect is complete after evolve. An event that the
// state already has is passed over.
func (f *folder) add(s *State, e *events.Event, schema *schemas.Schema) {
	if !before(s.Position, e.Position) {
		return
	}
	if s.Events%snapshotEvery == 0 {
		if s.Events > 0 {
			f.evolve()
		}
		s.beginStretches()
	}
	s.arrive(e)
	from := received{
		received: time.UnixMicro(e.Received.UnixMicro()).UTC(),
		place:    place{epoch: e.Position.Epoch, seq: e.Position.Seq},
	}
	if schema == nil {
		sent, ok := schemas.PeekTime(e.Payload)
		if !ok {
			sent = from.received
		}
		s.evolveRaw(e.Type, e.Payload, sent, from, f.rules)
		return
	}
	i, ok := f.index[s]
	if !ok {
		i = int32(len(f.states))
		f.index[s], f.states = i, append(f.states, s)
	}
	from.device = i
	v := version{e.Type, e.Schema}
	d := f.types[v]
	if d == nil {
		d = newDecoded(e.Type, schema)
		f.types[v] = d
	}
	rows, bad, full := d.add(e.Payload, from)
	if full {
		d.evolve(f.states, f.rules)
		rows, bad, _ = d.add(e.Payload, from)
	}
	f.rows, f.bad, f.pending = f.rows+uint64(rows), f.bad+uint64(bad), f.pending+len(e.Payload)
}

// evolve applies what was taken in.
func (f *folder) evolve() {
	for _, d := range f.types {
		d.evolve(f.states, f.rules)
	}
	clear(f.index)
	clear(f.states)
	f.states, f.pending = f.states[:0], 0
}
