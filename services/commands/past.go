package commands

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/tachograph/tachograph/events"
	"github.com/tachograph/tachograph/projections/command"
)

// At returns a command as the log knew it at a time of arrival: the same fold,
// stopped in front of the first step that arrived later. View.Position is that of
// its newest step then.
//
// Errors: command.ErrNoCommand, also when it was not there yet; those of
// events.Log.Read.
func (s *Commands) At(ctx context.Context, device, id string, at time.Time) (View, error) {
	if err := possible(id); err != nil {
		return View{}, err
	}
	v, err := s.read(ctx, key{device, id}, func(e events.Event) bool { return !e.Received.After(at) })
	if err != nil {
		return View{}, fmt.Errorf("command %s to %s at %s: %w", id, device, at.UTC().Format(time.RFC3339Nano), err)
	}
	return v, nil
}

// A pastCommand is one of which steps are folded, as long as none arrived later
// than the moment.
type pastCommand struct {
	View
	id   string
	over bool
}

// ListAt returns up to limit of a device's commands as the log knew them at a time
// of arrival, the newest first, each as At has it but without the steps after its
// first. Those that had ended long before are among them, unlike in List. position
// is that of the newest step of all the device's commands that had arrived then, and
// zero when there was none. It reads every step that the device's commands ever had,
// and keeps twice limit commands at most.
//
// Errors: those of events.Log.Scan, and *events.TruncatedError where the log was
// compacted and this process has no history to ask.
func (s *Commands) ListAt(ctx context.Context, device string, at time.Time, limit int) (all []View, position events.Position, err error) {
	fail := func(err error) ([]View, events.Position, error) {
		return nil, events.Position{}, fmt.Errorf("commands to %s at %s: %w", device, at.UTC().Format(time.RFC3339Nano), err)
	}
	tail, err := events.Newest(ctx, s.log, events.ControlPartition)
	if err != nil {
		return fail(err)
	}
	there := map[string]*pastCommand{}
	only := events.Filter{Kinds: []events.Kind{events.Command}, ID: device}
	whole, err := s.whole(ctx)
	if err != nil {
		return fail(err)
	}
	for e, err := range whole.Scan(ctx, events.ControlPartition, events.Cursor{}, tail.Seq, only) {
		if err != nil {
			return fail(err)
		}
		f, err := command.ParseFact(e.Payload)
		if err != nil {
			continue // the fold has complained
		}
		c, late := there[e.Stream.Name], e.Received.After(at)
		if !late {
			position = e.Position
		}
		switch {
		case c == nil && (late || f.Type != string(command.Queued)):
			continue // not there yet, or left out: older than as many as are wanted
		case c == nil:
			c = &pastCommand{id: e.Stream.Name}
			there[c.id] = c
		case late || c.over:
			c.over = true
			continue
		}
		c.Evolve(f)
		c.History = c.History[:1] // when it was queued; of the others only what they did is wanted
		c.Position = e.Position
		if len(there) > 2*limit {
			for _, old := range newestFirst(there)[limit:] {
				delete(there, old.id)
			}
		}
	}
	for i, c := range newestFirst(there) {
		if i == limit {
			break
		}
		all = append(all, c.View)
	}
	return all, position, nil
}

func newestFirst(there map[string]*pastCommand) []*pastCommand {
	return slices.SortedFunc(maps.Values(there), func(a, b *pastCommand) int { return byAge(a.View, b.View) })
}

// byAge puts the command that was queued last first.
func byAge(a, b View) int {
	return cmp.Or(cmp.Compare(b.History[0].At, a.History[0].At), cmp.Compare(b.Order.ID, a.Order.ID))
}
