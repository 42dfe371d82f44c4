package latest

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/tachograph/tachograph/events"
	"github.com/tachograph/tachograph/schemas"
)

// A Refold makes a device's document anew from what is left of its history, once
// some of that was removed. The projection must not run meanwhile; it begins
// anew afterwards and finds the document.
type Refold struct {
	KV       jetstream.KeyValue
	Registry *schemas.Registry
	Rules    Rules
	Device   string

	// History is what is left, up to the projection's position.
	History iter.Seq2[events.Event, error]

	// Whole tells that History is all that there ever was, but for what was
	// removed. Without it, the document's values that Removed knows nothing of
	// stay: they are newer than any other.
	Whole   bool
	Removed func(received time.Time) bool
}

// Run writes the document, or removes it when nothing is left.
func (r *Refold) Run(ctx context.Context) error {
	state, err := Fold(r.Device, r.History, r.Registry, r.Rules)
	if err != nil {
		return err
	}
	key := events.Escape(r.Device)
	for {
		there := State{Device: r.Device}
		var revision uint64
		switch e, err := r.KV.Get(ctx, key); {
		case errors.Is(err, jetstream.ErrKeyNotFound):
		case err != nil:
			return fmt.Errorf("fold state of %s anew: %w", r.Device, err)
		case json.Unmarshal(e.Value(), &there) != nil:
			return fmt.Errorf("fold state of %s anew: %s: %w", r.Device, remedy, errDamaged)
		default:
			revision = e.Revision()
		}
		if !r.Whole && revision > 0 {
			state.keep(&there, r.Removed)
		}
		switch {
		case state.Events > 0 && revision > 0:
			_, err = r.KV.Update(ctx, key, state.appendKept(nil), revision)
		case state.Events > 0:
			_, err = r.KV.Create(ctx, key, state.appendKept(nil))
		case revision > 0:
			err = r.KV.Purge(ctx, key, jetstream.LastRevision(revision))
		}
		if !conflicts(err) {
			if err != nil {
				err = fmt.Errorf("fold state of %s anew: %w", r.Device, err)
			}
			return err
		}
	}
}

// keep takes over what an older document has and the fold could not find any
// more.
func (s *State) keep(old *State, removed func(time.Time) bool) {
	for _, m := range old.Messages {
		for _, sig := range m.Signals {
			if removed(sig.Received) {
				continue
			}
			if into := s.message(m.Type).newest(sig.Name, sig.order(), sig.at); into != nil {
				*into = sig
			}
		}
	}
	for _, m := range old.Messages { // types that nothing was taken over of
		if i, ok := findMessage(s.Messages, m.Type); ok && len(s.Messages[i].Signals) == 0 {
			s.drop(m.Type)
		}
	}
	if !removed(old.Received) && before(s.Position, old.Position) {
		s.Position, s.ID, s.Received = old.Position, old.ID, old.Received
		s.Events = max(s.Events, 1)
	}
}

// Forget removes for good the states of a device that hold anything that arrived
// at a time or later, and returns how many.
func (s *Snapshots) Forget(ctx context.Context, device string, from time.Time) (n uint64, err error) {
	fail := func(err error) (uint64, error) { return n, fmt.Errorf("forget snapshots of %s: %w", device, err) }
	prefix := "snapshot." + events.Escape(device) + "."
	stream, err := s.js.Stream(ctx, SnapshotStream)
	if err != nil {
		return fail(err)
	}
	info, err := stream.Info(ctx, jetstream.WithSubjectFilter(prefix+"*"))
	if err != nil {
		return fail(err)
	}
	for subject := range info.State.Subjects {
		if _, err := strconv.ParseUint(strings.TrimPrefix(subject, prefix), 10, 64); err != nil {
			continue
		}
		msg, err := stream.GetLastMsgForSubject(ctx, subject)
		if errors.Is(err, jetstream.ErrMsgNotFound) {
			continue
		}
		if err != nil {
			return fail(err)
		}
		found := State{Device: device}
		if err := json.Unmarshal(msg.Data, &found); err == nil && found.Received.Before(from) {
			continue
		}
		if err := stream.SecureDeleteMsg(ctx, msg.Sequence); err != nil {
			return fail(err)
		}
		n++
	}
	return n, nil
}
