package catalog

import (
	"encoding/json"
	"errors"
	"fmt"

	"github.com/tachograph/tachograph/events"
	"github.com/tachograph/tachograph/schemas"
)

// ErrUnusable tells that the log has a version of the schema that this binary
// cannot use, so that it cannot say what may follow: upgrade it, or register
// with the release that wrote that version.
var ErrUnusable = errors.New("the registered schema was written by a newer release")

// typeRegistered is the type of the one event there is: a version of a schema
// was registered. Its payload is a registration.
const typeRegistered = "registered"

type registration struct {
	Version uint32         `json:"version"`
	Source  schemas.Source `json:"source"`
}

// state is the fold. It has no clock and does no I/O.
type state struct {
	registry *schemas.Registry
	cursor   events.Cursor
	last     map[string]uint64 // sequence of each schema's newest event
	unusable map[string]bool   // schemas that stand still
}

func newState(r *schemas.Registry) state {
	return state{registry: r, last: map[string]uint64{}, unusable: map[string]bool{}}
}

// decide answers with the event that registers src and what it takes for
// granted, or, if src is current, with its schema and no event.
func (s *state) decide(name string, src schemas.Source) (*events.Event, events.Expect, *schemas.Schema, error) {
	if s.unusable[name] {
		return nil, events.Any, nil, fmt.Errorf("register schema %s: %w", name, ErrUnusable)
	}
	next, err := s.registry.Check(name, src)
	if err != nil {
		return nil, events.Any, nil, err
	}
	if current, ok := s.registry.Current(name); ok && current.Version() == next.Version() {
		return nil, events.Any, current, nil
	}
	payload, err := json.Marshal(registration{next.Version(), src})
	if err != nil {
		return nil, events.Any, nil, fmt.Errorf("register schema %s: %w", name, err)
	}
	return &events.Event{
		Stream: events.Stream{Kind: events.SchemaKind, ID: name}, Type: typeRegistered,
		ID: events.UniqueID(), Schema: next.Version(), Payload: payload,
	}, events.At(s.last[name]), nil, nil
}

// evolve applies an event of the control partition; one that was applied before
// changes nothing. An error means that the event's schema cannot be used; it
// counts as applied all the same.
func (s *state) evolve(e events.Event) (registered bool, err error) {
	if e.Position.Epoch == s.cursor.Position.Epoch && e.Position.Seq <= s.cursor.Position.Seq {
		return false, nil
	}
	s.cursor = events.Cursor{Position: e.Position, ID: e.ID}
	if e.Stream.Kind != events.SchemaKind {
		return false, nil
	}
	name := e.Stream.ID
	s.last[name] = e.Position.Seq
	if s.unusable[name] {
		return false, fmt.Errorf("an earlier event of it could not be used: %w", ErrUnusable)
	}
	if err := s.register(name, e); err != nil {
		// The registry counts versions by itself: taking the next one in would give
		// it this one's number.
		s.unusable[name] = true
		return false, err
	}
	return true, nil
}

func (s *state) register(name string, e events.Event) error {
	if e.Type != typeRegistered {
		return fmt.Errorf("event type %q is not known", e.Type)
	}
	var r registration
	if err := json.Unmarshal(e.Payload, &r); err != nil {
		return fmt.Errorf("read registration: %w", err)
	}
	next, err := s.registry.Check(name, r.Source)
	if err != nil {
		return err
	}
	if next.Version() != r.Version {
		return fmt.Errorf("it is version %d in the log and would be %d here", r.Version, next.Version())
	}
	_, _, err = s.registry.Add(name, r.Source)
	return err
}
