package shadows

import (
	"context"
	"fmt"
	"slices"

	"github.com/tachograph/tachograph/events"
	"github.com/tachograph/tachograph/projections/shadow"
)

// Run keeps the shadows in step with the log, and tells who listens, until ctx
// ends.
func (s *Shadows) Run(ctx context.Context) error {
	s.mu.RLock()
	after := s.cursor
	s.mu.RUnlock()
	for e, err := range events.Facts(ctx, s.log, after) {
		if err != nil {
			return fmt.Errorf("follow shadows: %w", err)
		}
		s.fold(e)
	}
	return nil
}

// foldTo folds up to seq; before Run.
func (s *Shadows) foldTo(ctx context.Context, seq uint64) error {
	if seq == 0 {
		return nil
	}
	for e, err := range events.Facts(ctx, s.log, s.cursor) {
		if err != nil {
			return err
		}
		s.fold(e)
		if e.Position.Seq >= seq {
			return nil
		}
	}
	return ctx.Err()
}

// fold takes one event of the control partition, each in its turn.
func (s *Shadows) fold(ev events.Event) {
	if ev.Stream.Kind == events.Shadow {
		f, err := shadow.ParseFact(ev.Type, ev.Payload)
		if err != nil {
			s.logger.Error("event is no fact of a shadow, it changes nothing", "position", ev.Position.String(), "stream", ev.Stream.String(), "error", err)
		} else {
			s.foldFact(ev, f)
		}
	}
	s.mu.Lock()
	s.cursor = events.Cursor{Position: ev.Position, ID: ev.ID}
	if s.waiting {
		close(s.changed)
		s.changed, s.waiting = make(chan struct{}), false
	}
	s.mu.Unlock()
}

func (s *Shadows) foldFact(ev events.Event, f shadow.Fact) {
	e := s.hold(ev.Stream.ID, ev.Stream.Name)
	defer e.mu.Unlock()
	if slices.Contains(e.appended, ev.ID) {
		e.met = ev.Position
	}
	s.apply(e, f, ev.Position)
	e.marks.note(ev, e.doc, e.position == ev.Position)
}

// apply evolves a shadow once per fact, whoever comes first with it: the fold,
// or the worker that appended it. The caller holds e.mu, so that what is told
// leaves in the order of the versions.
func (s *Shadows) apply(e *entry, f shadow.Fact, at events.Position) {
	if at.Seq <= e.position.Seq {
		return
	}
	before := e.doc
	now := shadow.Track{Document: before, Pending: e.pending}.Evolve(f)
	e.doc, e.pending, e.position = now.Document, now.Pending, at
	if e.pending == 0 {
		e.rejected = nil
	}
	if s.view != nil {
		s.view.touch(e)
	}
	s.tell(e, before, f)
}

// await returns when the fold has reached what is now the log's end.
func (s *Shadows) await(ctx context.Context) error {
	tail, err := events.Newest(ctx, s.log, events.ControlPartition)
	if err != nil {
		return err
	}
	for {
		s.mu.Lock()
		reached, changed := s.cursor.Position.Seq >= tail.Seq, s.changed
		s.waiting = s.waiting || !reached
		s.mu.Unlock()
		if reached {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}
