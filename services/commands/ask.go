package commands

import (
	"context"
	"encoding/json"
	"fmt"
	"iter"
	"slices"
	"time"

	"github.com/tachograph/tachograph/events"
	"github.com/tachograph/tachograph/projections/command"
)

// A Request is what somebody asks of a device.
type Request struct {
	Device     string
	Name       string
	Parameters json.RawMessage // JSON, or nil
	Policy     command.Policy
	Priority   int // higher goes first
	DryRun     bool
	Deadline   time.Time // nothing is written to the device after it
	AnswerBy   time.Time // without a final answer by then: timed_out
	Key        string    // the idempotency key; empty: every request is another command
	Digest     string    // of the request as it came; the same key with another digest is refused
	By         string    // who asks
}

const (
	maxName     = 128 // bytes
	maxKey      = 256
	maxPriority = 100 // either way
)

// Queue makes a command. With a key that was used before for the same request
// it answers with the command that there is; View.Changed tells them apart.
//
// Errors: ErrNoDevice, ErrTooMany; command.ErrInvalid, ErrPastDeadline,
// ErrExists (the key was used for another request); those of events.Log.Append.
func (s *Commands) Queue(ctx context.Context, r Request) (View, error) {
	if s.known != nil && !s.known(r.Device) {
		return View{}, fmt.Errorf("queue command %s to %s: %w", r.Name, r.Device, ErrNoDevice)
	}
	bad := func(format string, args ...any) (View, error) {
		return View{}, fmt.Errorf("queue command %.140q: %s: %w", r.Name, fmt.Sprintf(format, args...), command.ErrInvalid)
	}
	now := s.clock.ms()
	switch horizon := now + s.limits.Horizon.Milliseconds(); {
	case r.Name == "":
		return bad("it has no name")
	case len(r.Name) > maxName || !printable(r.Name):
		return bad("a name is up to %d bytes of printable text", maxName)
	case len(r.Key) > maxKey:
		return bad("an idempotency key has at most %d bytes", maxKey)
	case len(r.Parameters) > s.limits.Bytes:
		return bad("parameters have %d bytes, at most %d are taken", len(r.Parameters), s.limits.Bytes)
	case r.Priority > maxPriority || r.Priority < -maxPriority:
		return bad("priority %d; %d to %d are possible", r.Priority, -maxPriority, maxPriority)
	case r.Deadline.UnixMilli() > horizon || r.AnswerBy.UnixMilli() > horizon+s.limits.Horizon.Milliseconds():
		return bad("a deadline lies at most %s ahead", s.limits.Horizon)
	}
	id := events.UniqueID()
	if r.Key != "" {
		id = events.DeriveID(r.Device, "command", []byte(r.Key))
	}
	o := command.Order{
		ID: id, Device: r.Device, Name: r.Name, Parameters: r.Parameters, Policy: r.Policy, Priority: r.Priority, DryRun: r.DryRun,
		Deadline: r.Deadline.UnixMilli(), AnswerBy: r.AnswerBy.UnixMilli(), Key: r.Key, Digest: r.Digest,
	}
	return s.do(ctx, key{r.Device, id}, task{create: true, fresh: r.Key == "", decide: func(c *command.Command, at int64) (command.Fact, error) {
		if c.State == "" && s.openOf(r.Device) >= s.limits.Open {
			return command.Fact{}, fmt.Errorf("queue command %s to %s: it has %d: %w", r.Name, r.Device, s.limits.Open, ErrTooMany)
		}
		return c.Queue(o, at, r.By)
	}})
}

func printable(text string) bool {
	for _, r := range text {
		if r < ' ' || r == 0x7f || r == '\uFFFD' {
			return false
		}
	}
	return true
}

func (s *Commands) openOf(device string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	if d := s.devices[device]; d != nil {
		return len(d.open)
	}
	return 0
}

// Cancel ends a command that was not sent. One that was sent gets the request
// to the device, and the view's state is what it was: whether the device obeys
// is known from its answer.
//
// Errors: command.ErrNoCommand, ErrFinal; those of events.Log.Append.
func (s *Commands) Cancel(ctx context.Context, device, id, by, reason string) (View, error) {
	if err := possible(id); err != nil {
		return View{}, err
	}
	return s.do(ctx, key{device, id}, task{decide: func(c *command.Command, at int64) (command.Fact, error) {
		if c.State == "" {
			return command.Fact{}, fmt.Errorf("cancel command %s to %s: %w", id, device, command.ErrNoCommand)
		}
		return c.Cancel(at, by, reason)
	}})
}

// possible refuses an id that no command can have, before the log is asked.
func possible(id string) error {
	if events.ValidID(id) {
		return nil
	}
	return fmt.Errorf("command %.70q: %w", id, command.ErrNoCommand)
}

// Get returns a command with its whole history.
//
// Errors: command.ErrNoCommand; those of events.Log.Read.
func (s *Commands) Get(ctx context.Context, device, id string) (View, error) {
	if err := possible(id); err != nil {
		return View{}, err
	}
	k := key{device, id}
	s.mu.Lock()
	if e := s.entries[k]; e != nil && e.loaded && e.c.State != "" {
		v := e.view()
		s.mu.Unlock()
		return v, nil
	}
	s.mu.Unlock()
	v, err := s.read(ctx, k, func(events.Event) bool { return true })
	if err != nil {
		return View{}, fmt.Errorf("command %s to %s: %w", id, device, err)
	}
	return v, nil
}

// read folds a command's steps, up to the first that is not wanted: from what the
// log has, and when the command's beginning is not among it, as it was compacted, from
// the history.
//
// Errors: command.ErrNoCommand; *events.TruncatedError where this process has no
// history to ask.
func (s *Commands) read(ctx context.Context, k key, wanted func(events.Event) bool) (View, error) {
	v, begun, err := steps(events.FactsOf(ctx, s.log, k.stream()), wanted)
	if err != nil || begun {
		return v, err
	}
	whole, err := s.whole(ctx)
	if err != nil {
		return View{}, err
	}
	if whole == s.log {
		return View{}, command.ErrNoCommand
	}
	if v, begun, err = steps(whole.Read(ctx, k.stream(), events.Latest), wanted); err == nil && !begun {
		err = command.ErrNoCommand
	}
	return v, err
}

// whole is where every step is that there ever was: the log, or, where that was
// compacted, the history.
//
// Errors: *events.TruncatedError where this process has no history to ask.
func (s *Commands) whole(ctx context.Context) (events.Log, error) {
	base, err := s.log.Base(ctx)
	if err != nil || base.UpTo.Seq == 0 {
		return s.log, err
	}
	past := s.past.Load()
	if past == nil {
		begin, oldest := base.UpTo, base.UpTo
		begin.Seq = 0
		oldest.Seq++
		return nil, &events.TruncatedError{Asked: begin, Oldest: oldest}
	}
	return *past, nil
}

// steps folds facts up to the first that is not wanted, and tells whether the
// command's beginning was among them.
func steps(facts iter.Seq2[events.Event, error], wanted func(events.Event) bool) (v View, begun bool, err error) {
	for ev, err := range facts {
		if err != nil {
			return View{}, begun, err
		}
		if !wanted(ev) {
			break
		}
		if live(&v.Command, ev) {
			begun, v.Position = true, ev.Position
		}
	}
	return v, begun, nil
}

// view is a copy for others. The caller holds Commands.mu.
func (e *entry) view() View {
	c := e.c
	c.History = slices.Clip(c.History)
	return View{Command: c, Position: e.at}
}

// List returns up to limit of a device's commands, the newest first: all open
// ones, and those that ended lately. Older ones are in ClickHouse.
func (s *Commands) List(device string, limit int) []View {
	s.mu.Lock()
	var all []View
	if d := s.devices[device]; d != nil {
		for e := range d.open {
			all = append(all, e.view())
		}
	}
	for i := len(s.ended) - 1; i >= 0; i-- {
		if e := s.ended[i]; e.device == device {
			all = append(all, e.view())
		}
	}
	s.mu.Unlock()
	slices.SortFunc(all, byAge)
	return all[:min(limit, len(all))]
}
