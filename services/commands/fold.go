package commands

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/tachograph/tachograph/events"
	"github.com/tachograph/tachograph/projections/command"
)

// Run keeps the commands in step with the log, sends them, and has their
// deadlines pass, until ctx ends.
func (s *Commands) Run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	s.spawn(func() { s.keepTime(ctx) })
	s.mu.Lock()
	after := s.cursor
	for _, d := range s.devices { // what a crash left
		s.pump(d)
	}
	s.mu.Unlock()
	var failed error
	for e, err := range events.Facts(ctx, s.log, after) {
		if err != nil {
			failed = fmt.Errorf("follow commands: %w", err)
			break
		}
		s.fold(e)
	}
	cancel()
	s.stop.Do(func() { close(s.stopping) })
	s.work.wait()
	return failed
}

// foldTo folds up to seq; before Run.
func (s *Commands) foldTo(ctx context.Context, seq uint64) error {
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
func (s *Commands) fold(ev events.Event) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.cursor = events.Cursor{Position: ev.Position, ID: ev.ID}
	if ev.Stream.Kind != events.Command {
		return
	}
	k := key{ev.Stream.ID, ev.Stream.Name}
	f, err := command.ParseFact(ev.Payload)
	if err != nil {
		s.logger.Error("event is no fact of a command, it changes nothing", "position", ev.Position.String(), "stream", ev.Stream.String(), "error", err)
		return
	}
	e := s.entries[k]
	switch {
	case e == nil && f.Type == string(command.Queued):
		e = s.make(k)
		e.loaded = true
		fallthrough
	case e != nil && e.loaded:
		s.evolve(e, f, ev.Position)
	case e != nil:
		e.seen = ev.Position.Seq // it is being read, possibly without this
	}
	s.notify(k) // also of one that is no longer in memory
}

// make adds an entry. The caller holds s.mu.
func (s *Commands) make(k key) *entry {
	e := &entry{key: k}
	s.entries[k] = e
	return e
}

// evolve folds a fact once, whoever comes first with it: the fold, or who
// appended it; then does what follows. The caller holds s.mu.
func (s *Commands) evolve(e *entry, f command.Fact, at events.Position) {
	if at.Seq <= e.at.Seq {
		return
	}
	e.c.Evolve(f)
	e.at = at
	switch f.Type {
	case string(command.Queued):
		e.tries, e.sentAt, e.again = 0, 0, 0 // of the one before it, if the key was used before
	case string(command.Sent):
		e.sentAt = f.At
		if !e.flying { // another process, or one before this
			e.again = s.clock.ms() + s.limits.Attempt.Milliseconds()
		}
	case command.TypeCancelRequested:
		if s.out == nil {
			break
		}
		s.spawn(func() { s.sendCancel(e.key) })
	}
	s.settle(e)
	s.notify(e.key)
}

// settle puts an entry where its state belongs. The caller holds s.mu.
func (s *Commands) settle(e *entry) {
	d := s.devices[e.device]
	switch open := e.c.State != "" && !e.c.State.Final(); {
	case open:
		if d == nil {
			d = &device{id: e.device, open: map[*entry]bool{}}
			s.devices[e.device] = d
		}
		d.open[e] = true
		e.counted = true
		s.unkeep(e)
		s.pump(d)
	case e.counted:
		e.counted = false
		delete(d.open, e) // d is there as long as it has one
		e.kept = true
		s.ended = append(s.ended, e)
		if len(s.ended) > s.limits.Kept {
			oldest := s.ended[0]
			s.ended, oldest.kept = s.ended[1:], false
			s.forget(oldest)
		}
		s.pump(d) // what waited behind it
		s.leave(d)
	}
	s.setTimer(e)
}

// unkeep takes an entry from those that are kept after their end. The caller holds
// s.mu.
func (s *Commands) unkeep(e *entry) {
	if e.kept {
		e.kept = false
		s.ended = slices.DeleteFunc(s.ended, func(other *entry) bool { return other == e })
	}
}

// forget drops an entry that nobody works at. The caller holds s.mu.
func (s *Commands) forget(e *entry) {
	if !e.working && s.entries[e.key] == e {
		delete(s.entries, e.key)
	}
}

// load reads a command's whole stream. A stream without facts leaves the entry
// without a state.
func (s *Commands) load(ctx context.Context, e *entry) (ids map[string]events.Position, err error) {
	for {
		var c command.Command
		var last events.Position
		ids = map[string]events.Position{}
		for ev, err := range events.FactsOf(ctx, s.log, e.stream()) {
			if err != nil {
				return nil, err
			}
			ids[ev.ID], last = ev.Position, ev.Position
			live(&c, ev)
		}
		s.mu.Lock()
		if e.seen > last.Seq {
			s.mu.Unlock() // something came in between
			continue
		}
		e.loaded = true
		if last.Seq > e.at.Seq {
			e.c, e.at = c, last
			if c.Attempts > 0 && !e.flying {
				e.again = s.clock.ms() + s.limits.Attempt.Milliseconds()
			}
			s.settle(e)
		} else if last.Seq == 0 && e.at.Seq > 0 { // it had ended long ago, and the log was compacted
			e.c, e.at = command.Command{}, events.Position{}
			s.unkeep(e)
			s.settle(e)
		}
		s.mu.Unlock()
		return ids, nil
	}
}

// live folds one of a command's facts. A command begins with the fact that queued
// it: what is left, in a log that was compacted, of the end of one is none.
func live(c *command.Command, ev events.Event) (ok bool) {
	f, err := command.ParseFact(ev.Payload)
	if err != nil {
		return false // the fold has complained
	}
	if c.State == "" && f.Type != string(command.Queued) {
		return false
	}
	c.Evolve(f)
	return true
}

// refused tells whether err is a decision, as against trouble with the log.
func refused(err error) bool {
	for _, known := range []error{
		command.ErrInvalid, command.ErrExists, command.ErrNoCommand, command.ErrNotSent, command.ErrFinal,
		command.ErrBackward, command.ErrPastDeadline, command.ErrSentOnce, command.ErrNotAnAnswer, ErrTooMany, ErrTooLong,
	} {
		if errors.Is(err, known) {
			return true
		}
	}
	return false
}
