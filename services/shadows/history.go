package shadows

import (
	"context"
	"fmt"
	"iter"
	"time"

	"github.com/tachograph/tachograph/events"
	"github.com/tachograph/tachograph/projections/shadow"
)

// A Change is one fact in a shadow's history and the document after it.
type Change struct {
	Fact     shadow.Fact
	Document shadow.Document
	Position events.Position
	Received time.Time
	ID       string
}

// History yields a shadow's changes after a position (the zero position: all),
// oldest first.
//
// Errors: those of events.Log.Read, *events.TruncatedError where the log was
// compacted and this process has no history to ask; a fact that cannot be read is skipped, as
// the fold skips it.
func (s *Shadows) History(ctx context.Context, device, name string, after events.Position) iter.Seq2[Change, error] {
	return func(yield func(Change, error) bool) {
		begin := s.from(device, name, func(m mark) bool { return m.position.Seq <= after.Seq })
		for c, err := range s.changes(ctx, device, name, begin) {
			if err == nil && c.Position.Seq <= after.Seq {
				continue
			}
			if !yield(c, err) {
				return
			}
		}
	}
}

// changes yields those after a mark.
func (s *Shadows) changes(ctx context.Context, device, name string, begin mark) iter.Seq2[Change, error] {
	return func(yield func(Change, error) bool) {
		doc := begin.doc
		for ev, err := range s.whole().ReadAfter(ctx, events.Stream{Kind: events.Shadow, ID: device, Name: name}, begin.position, events.Latest) {
			if err != nil {
				yield(Change{}, fmt.Errorf("history of shadow of %s: %w", device, err))
				return
			}
			f, err := shadow.ParseFact(ev.Type, ev.Payload)
			if err != nil {
				continue
			}
			doc = doc.Evolve(f)
			if !yield(Change{f, doc, ev.Position, ev.Received, ev.ID}, nil) {
				return
			}
		}
	}
}

// At returns the document as the log knew it at a time of arrival, and the
// position of its newest fact then: the same fold, stopped earlier.
func (s *Shadows) At(ctx context.Context, device, name string, at time.Time) (shadow.Document, events.Position, error) {
	begin := s.from(device, name, func(m mark) bool { return !m.received.After(at) })
	doc, position := begin.doc, begin.position
	for c, err := range s.changes(ctx, device, name, begin) {
		if err != nil {
			return doc, position, err
		}
		if c.Received.After(at) {
			break
		}
		doc, position = c.Document, c.Position
	}
	return doc, position, nil
}
