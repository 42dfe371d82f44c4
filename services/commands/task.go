package commands

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/tachograph/tachograph/events"
	"github.com/tachograph/tachograph/projections/command"
)

// A task is one decision on a command.
type task struct {
	decide func(c *command.Command, at int64) (command.Fact, error)
	create bool // the command is probably new: it is not looked for first
	fresh  bool // and certainly, as its id is
	done   func(View, error)

	fact command.Fact
	err  error
	view View
}

// A View is a command and where its newest fact stands in the log.
type View struct {
	command.Command
	Position events.Position
	Changed  bool // by the call that answers with this view
}

// Bounds of one append: how long it may take with all its repeats, how often
// others may be first, how many decisions become one append.
const (
	appendTime = 15 * time.Second
	attempts   = 32
	most       = 16
)

// put puts a task into its command's queue. done is called once and must not
// block.
func (s *Commands) put(k key, t *task) {
	s.mu.Lock()
	defer s.mu.Unlock()
	e := s.entries[k]
	if e == nil {
		e = s.make(k)
	}
	e.queue = append(e.queue, t)
	if !e.working {
		e.working = true
		s.spawn(func() { s.serve(e) })
	}
}

// do puts a task and waits for its outcome. When ctx ends first it may or may
// not happen.
func (s *Commands) do(ctx context.Context, k key, t task) (View, error) {
	type outcome struct {
		view View
		err  error
	}
	answered := make(chan outcome, 1)
	t.done = func(v View, err error) { answered <- outcome{v, err} }
	s.put(k, &t)
	select {
	case o := <-answered:
		return o.view, o.err
	case <-ctx.Done():
		return View{}, fmt.Errorf("command %s to %s: %w: %w", k.id, k.device, events.ErrUnknown, ctx.Err())
	}
}

// serve carries out a command's queue, then ends.
func (s *Commands) serve(e *entry) {
	for {
		s.mu.Lock()
		n := min(len(e.queue), most)
		if n == 0 {
			e.working, e.queue = false, nil
			if !e.counted && !e.kept {
				s.forget(e)
			}
			s.mu.Unlock()
			return
		}
		tasks := e.queue[:n:n]
		e.queue = e.queue[n:]
		s.mu.Unlock()
		s.carryOut(e, tasks)
		for _, t := range tasks {
			if t.done != nil {
				t.done(t.view, t.err)
			}
		}
	}
}

// carryOut decides and appends what was decided, all or nothing.
func (s *Commands) carryOut(e *entry, tasks []*task) {
	ctx, cancel := context.WithTimeout(context.Background(), appendTime)
	defer cancel()
	fail := func(err error) {
		for _, t := range tasks {
			if t.err == nil {
				t.view, t.err = View{}, fmt.Errorf("command %s to %s: %w", e.id, e.device, err)
			}
		}
	}
	s.mu.Lock()
	loaded := e.loaded || tasks[0].create
	s.mu.Unlock()
	if !loaded {
		if _, err := s.load(ctx, e); err != nil {
			fail(err)
			return
		}
	}
	var trouble error
	for range attempts {
		evs, last, err := s.decide(e, tasks)
		if err != nil {
			fail(err)
			return
		}
		if again, err := s.doubtful(ctx, e, tasks); err != nil {
			fail(err)
			return
		} else if again {
			continue
		}
		if len(evs) == 0 {
			return
		}
		pos, err := s.log.Append(ctx, events.At(last), evs...)
		var conflict *events.ConflictError
		if errors.As(err, &conflict) || errors.Is(err, events.ErrUnknown) {
			ids, lerr := s.load(ctx, e)
			if lerr != nil {
				fail(fmt.Errorf("%w; and it cannot be read: %w", err, lerr))
				return
			}
			var stored bool
			if pos, stored = ids[evs[len(evs)-1].ID]; !stored {
				trouble = err
				continue
			}
			err = nil // it was only the answer that was lost
		}
		if err != nil {
			fail(err)
			return
		}
		if s.conclude(e, tasks, pos, len(evs)) {
			if _, err := s.load(ctx, e); err != nil {
				s.logger.Error("command is read when it is next needed", "device", e.device, "command", e.id, "error", err)
			}
		}
		return
	}
	fail(trouble)
}

// doubtful reads the command's stream when it was taken for new and something
// was refused: it may be an old one that is no longer in memory.
func (s *Commands) doubtful(ctx context.Context, e *entry, tasks []*task) (read bool, err error) {
	s.mu.Lock()
	loaded := e.loaded
	s.mu.Unlock()
	if loaded || !slices.ContainsFunc(tasks, func(t *task) bool { return t.err != nil && !t.fresh }) {
		return false, nil
	}
	_, err = s.load(ctx, e)
	return err == nil, err
}

// decide makes the tasks' facts, one after the other, to be appended after last.
func (s *Commands) decide(e *entry, tasks []*task) (evs []events.Event, last uint64, err error) {
	s.mu.Lock()
	c, at := e.c, e.at
	s.mu.Unlock()
	now := s.clock.ms()
	c.History = slices.Clip(c.History) // Evolve is not to write into the entry's
	for _, t := range tasks {
		t.fact, t.err = t.decide(&c, now)
		if t.fact.Type != "" {
			payload, err := t.fact.Payload()
			if err != nil {
				return nil, 0, err
			}
			c.Evolve(t.fact)
			evs = append(evs, events.Event{Stream: e.stream(), Type: t.fact.Type, ID: events.UniqueID(), Payload: payload})
		}
		t.view = View{Command: c, Position: at, Changed: t.fact.Type != ""}
		c.History = slices.Clip(c.History)
	}
	return evs, at.Seq, nil
}

// conclude folds what was appended, of which pos is the last. A batch is stored
// without gaps. It tells whether the fold has meanwhile met what came after it,
// and passed over it as the entry was not loaded.
func (s *Commands) conclude(e *entry, tasks []*task, pos events.Position, n int) (behind bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	at := pos
	at.Seq -= uint64(n)
	behind = e.seen > pos.Seq && !e.loaded
	e.loaded = !behind
	for _, t := range tasks {
		if t.fact.Type != "" {
			at.Seq++
			s.evolve(e, t.fact, at)
			s.metrics.facts.WithLabelValues(label(t.fact), dry(e.c.Order)).Inc()
		}
		t.view.Position = at
	}
	return behind
}

func label(f command.Fact) string {
	if f.Late {
		return f.Type + "_late"
	}
	return f.Type
}

func dry(o command.Order) string {
	if o.DryRun {
		return "true"
	}
	return "false"
}
