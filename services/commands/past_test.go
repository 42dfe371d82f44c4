package commands_test

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/tachograph/tachograph/events"
	"github.com/tachograph/tachograph/events/memlog"
	"github.com/tachograph/tachograph/projections/command"
	"github.com/tachograph/tachograph/services/commands"
)

// A pastCommand is a command as some of its steps have made it.
type pastCommand struct {
	Command  command.Command
	Position events.Position
}

func (p pastCommand) String() string {
	text, err := json.Marshal(p)
	return fmt.Sprint(string(text), err)
}

// stepsAtRandom appends lives of commands, a step at a time and by turns. tick is
// called before each, and the clock shows the time that it returns.
func stepsAtRandom(t *testing.T, log events.Log, r *rand.Rand, ids []string, n int, tick func() int64) {
	t.Helper()
	all := make([]command.Command, len(ids))
	last := make([]uint64, len(ids))
	for range n {
		i := r.IntN(len(ids))
		c, at := &all[i], tick()
		var f command.Fact
		var err error
		switch state := []command.State{command.Accepted, command.Running, command.Succeeded, command.Failed, "dancing"}[r.IntN(5)]; {
		case c.State == "":
			o := command.Order{ID: ids[i], Device: "car-1", Name: "unlock", Policy: command.UntilDeadline, Deadline: at + 1_000_000, AnswerBy: at + 1_000_001}
			f, err = c.Queue(o, at, "operator")
		case r.IntN(3) == 0:
			f, err = c.Send(at)
		case r.IntN(8) == 0:
			f, err = c.Cancel(at, "operator", "")
		default: // refusals are steps, too
			f, err = c.Answer(command.Answer{State: state, Result: json.RawMessage(fmt.Sprint(at))}, at)
		}
		if f.Type == "" {
			continue // no news, or refused without a trace
		}
		payload, rendered := f.Payload()
		if rendered != nil {
			t.Fatal(rendered, err)
		}
		e := events.Event{Stream: events.Stream{Kind: events.Command, ID: "car-1", Name: ids[i]}, Type: f.Type, ID: events.UniqueID(), Payload: payload}
		p, err := log.Append(t.Context(), events.At(last[i]), e)
		if err != nil {
			t.Fatal(err)
		}
		last[i] = p.Seq
		c.Evolve(f)
	}
}

// foldTo is a command as of a position, by nothing but its steps up to there.
func foldTo(t *testing.T, log events.Log, id string, wanted func(events.Event) bool) (p pastCommand) {
	t.Helper()
	for e, err := range log.Read(t.Context(), events.Stream{Kind: events.Command, ID: "car-1", Name: id}, events.Latest) {
		if err != nil {
			t.Fatal(err)
		}
		if !wanted(e) {
			break
		}
		f, err := command.ParseFact(e.Payload)
		if err != nil {
			t.Fatal(err)
		}
		p.Command.Evolve(f)
		p.Position = e.Position
	}
	return p
}

// newestFirst is the head of a list: the commands that were queued last.
func newestFirst(all []commands.View, limit int) []commands.View {
	slices.SortFunc(all, func(a, b commands.View) int {
		return cmp.Or(cmp.Compare(b.History[0].At, a.History[0].At), cmp.Compare(b.Order.ID, a.Order.ID))
	})
	return all[:min(limit, len(all))]
}

func inList(all []commands.View) (text string) {
	for _, v := range all {
		text += pastCommand{v.Command, v.Position}.String() + "\n"
	}
	return text
}

// newestStep is the position of the last step in the log that had arrived.
func newestStep(t *testing.T, log events.Log, at time.Time) (p events.Position) {
	t.Helper()
	for e, err := range log.Scan(t.Context(), events.ControlPartition, events.Cursor{}, math.MaxUint64, events.Filter{}) {
		if err != nil {
			t.Fatal(err)
		}
		if !e.Received.After(at) {
			p = e.Position
		}
	}
	return p
}

// TestPast: a command as of the arrival of each event of the log, of its own steps
// and of others', is the fold of its steps up to there; where a clock went back,
// of those before the first that arrived later. It makes no difference whether
// the command is in memory. The list of that moment has those that there were.
func TestPast(t *testing.T) {
	for _, back := range []bool{false, true} {
		r := rand.New(rand.NewPCG(6, 1))
		now := time.Date(2026, 11, 1, 0, 0, 0, 0, time.UTC)
		began := now
		log := memlog.New(memlog.Options{Now: func() time.Time { return now }})
		t.Cleanup(func() { log.Close() })
		ids := make([]string, 6)
		for i := range ids {
			ids[i] = events.UniqueID()
		}
		ticks := 0
		stepsAtRandom(t, log, r, ids, 400, func() int64 {
			if ticks++; back && ticks%20 == 0 {
				now = now.Add(-15 * time.Millisecond)
			}
			now = now.Add(time.Millisecond)
			return now.UnixMilli()
		})
		c, err := commands.Open(t.Context(), commands.Config{Log: log, Limits: commands.Limits{Kept: 1}})
		if err != nil {
			t.Fatal(err)
		}
		newest, err := events.Newest(t.Context(), log, events.ControlPartition)
		if err != nil {
			t.Fatal(err)
		}
		looks, before, cut := 0, 0, 0
		for e, err := range log.Follow(t.Context(), events.ControlPartition, events.Cursor{}) {
			if err != nil {
				t.Fatal(err)
			}
			var there []commands.View
			for _, id := range ids {
				wanted := func(own events.Event) bool { return own.Position.Seq <= e.Position.Seq }
				if back {
					wanted = func(own events.Event) bool { return !own.Received.After(e.Received) }
				}
				want := foldTo(t, log, id, wanted)
				v, err := c.At(t.Context(), "car-1", id, e.Received)
				if want.Command.State == "" {
					before++
					if !errors.Is(err, command.ErrNoCommand) {
						t.Fatalf("%s in front of its first step: %v, %v", id, v.State, err)
					}
					continue
				}
				if got := (pastCommand{v.Command, v.Position}); err != nil || got.String() != want.String() {
					t.Fatalf("%s at %s: %v\n%s, want\n%s", id, e.Position, err, got, want)
				}
				looks++
				v.History = v.History[:1]
				there = append(there, v)
			}
			limit := 1 + r.IntN(len(ids))
			list, position, err := c.ListAt(t.Context(), "car-1", e.Received, limit)
			if want := newestStep(t, log, e.Received); err != nil || position != want {
				t.Fatalf("the list at %s is true for %s, want %s: %v", e.Position, position, want, err)
			}
			if got, want := inList(list), inList(newestFirst(there, limit)); got != want {
				t.Fatalf("the first %d at %s:\n%s, want\n%s", limit, e.Position, got, want)
			}
			if len(list) < len(there) {
				cut++
			}
			if e.Position.Seq == newest.Seq {
				break
			}
		}
		if looks < 500 || before < 6 || cut < 50 {
			t.Errorf("%d looks, %d at commands that were not there yet, %d lists of some of what there was", looks, before, cut)
		}
		if list, position, err := c.ListAt(t.Context(), "car-1", began, 10); len(list) > 0 || position.Seq > 0 || err != nil {
			t.Errorf("a list of the beginning: %v, %s, %v", list, position, err)
		}
		for _, id := range ids { // now is a moment as well
			v, err := c.At(t.Context(), "car-1", id, now.Add(time.Hour))
			w, gerr := c.Get(t.Context(), "car-1", id)
			if err != nil || gerr != nil || (pastCommand{v.Command, v.Position}).String() != (pastCommand{w.Command, w.Position}).String() {
				t.Errorf("%s: %+v, %v; now %+v, %v", id, v, err, w, gerr)
			}
			if _, err := c.At(t.Context(), "car-1", id, began); !errors.Is(err, command.ErrNoCommand) {
				t.Errorf("%s at the beginning: %v", id, err)
			}
		}
		if _, err := c.At(t.Context(), "car-1", "no id", now); !errors.Is(err, command.ErrNoCommand) {
			t.Error(err)
		}
	}
}
