package commands_test

import (
	"context"
	"errors"
	"iter"
	"reflect"
	"testing"
	"time"

	"github.com/tachograph/tachograph/events"
	"github.com/tachograph/tachograph/events/memlog"
	"github.com/tachograph/tachograph/projections/command"
	"github.com/tachograph/tachograph/projections/compact"
	"github.com/tachograph/tachograph/services/commands"
	"github.com/tachograph/tachograph/services/dialect"
	"github.com/tachograph/tachograph/services/gateway"
	"github.com/tachograph/tachograph/services/gateway/gatewaytest"
)

// archived is a log with all that it ever had.
type archived struct {
	events.Log
	all []events.Event
}

func (a *archived) Read(ctx context.Context, s events.Stream, upTo events.Position) iter.Seq2[events.Event, error] {
	return func(yield func(events.Event, error) bool) {
		for _, e := range a.all {
			if e.Stream == s && !yield(e, nil) {
				return
			}
		}
		last := a.all[len(a.all)-1].Position
		for e, err := range a.ReadAfter(ctx, s, last, upTo) {
			if !yield(e, err) {
				return
			}
		}
	}
}

// TestCompacted: once a log was compacted open commands are what they were, to a
// process that runs and to one that starts; those that had ended are told from the
// archive, or it is said that they can't be; their keys are free, and answers to them
// are refused.
func TestCompacted(t *testing.T) {
	log := memlog.New(memlog.Options{})
	t.Cleanup(func() { log.Close() })
	running, _ := open(t, log, commands.Limits{}, nil, nil)
	key := func(r *commands.Request) { r.Key, r.Digest = "a key", "digest" }
	ended, err := running.Queue(t.Context(), order("car-1", command.UntilDeadline, key))
	if err == nil {
		ended, err = running.Cancel(t.Context(), "car-1", ended.Order.ID, "operator", "")
	}
	if err != nil {
		t.Fatal(err)
	}
	// One that nobody answered in time.
	late := events.Stream{Kind: events.Command, ID: "car-1", Name: "late"}
	for i, f := range []command.Fact{
		{Type: string(command.Queued), At: 1, Order: &command.Order{ID: "late", Device: "car-1", Name: "unlock", Policy: command.UntilDeadline, Deadline: 2, AnswerBy: 3}},
		{Type: string(command.Sent), At: 1, Attempt: 1},
		{Type: string(command.TimedOut), At: 3, By: command.ByDeadline},
	} {
		payload, err := f.Payload()
		if err == nil {
			_, err = log.Append(t.Context(), events.Any, events.Event{Stream: late, Type: f.Type, ID: events.UniqueID(), Payload: payload})
		}
		if err != nil {
			t.Fatal(i, err)
		}
	}
	waits, err := running.Queue(t.Context(), order("car-1", command.UntilDeadline))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := running.Queue(t.Context(), order("car-2", command.UntilDeadline)); err != nil { // the newest stays
		t.Fatal(err)
	}
	get := func(c *commands.Commands, id string) commands.View {
		t.Helper()
		v, err := c.Get(t.Context(), "car-1", id)
		if err != nil {
			t.Fatal(err)
		}
		v.Changed = false
		return v
	}
	gatewaytest.Eventually(t, "it timed out", func() bool {
		v, err := running.Get(t.Context(), "car-1", "late")
		return err == nil && v.State == command.TimedOut
	})
	before := map[string]commands.View{}
	for _, id := range []string{ended.Order.ID, "late", waits.Order.ID} {
		before[id] = get(running, id)
	}

	past := &archived{Log: log}
	tail, err := log.Tail(t.Context(), events.ControlPartition)
	if err != nil {
		t.Fatal(err)
	}
	var c compact.Compaction
	for e, err := range log.Follow(t.Context(), events.ControlPartition, events.Cursor{}) {
		if err != nil {
			t.Fatal(err)
		}
		if past.all = append(past.all, e); e.Position == tail {
			break
		}
		c.Add(e)
	}
	kept, err := c.Facts()
	if err != nil || len(kept) != 1 {
		t.Fatalf("%+v, %v", kept, err)
	}
	upTo := tail
	upTo.Seq--
	if err := log.Rebase(t.Context(), events.Base{}, upTo, func(yield func(events.Event, error) bool) { yield(kept[0], nil) }); err != nil {
		t.Fatal(err)
	}
	if _, err := log.Purge(t.Context(), upTo); err != nil {
		t.Fatal(err)
	}

	started, _ := open(t, log, commands.Limits{}, nil, nil)
	for _, id := range []string{ended.Order.ID, waits.Order.ID} { // it did both itself, so it has them whole
		if got := get(running, id); !reflect.DeepEqual(got, before[id]) {
			t.Errorf("running: %+v, want %+v", got, before[id])
		}
	}
	if got := get(started, waits.Order.ID); !reflect.DeepEqual(got, before[waits.Order.ID]) {
		t.Errorf("started: %+v, want %+v", got, waits)
	}
	var truncated *events.TruncatedError
	if v, err := started.Get(t.Context(), "car-1", "late"); !errors.As(err, &truncated) || truncated.Oldest != tail {
		t.Errorf("without an archive: %+v, %v", v, err)
	}
	if all, _, err := started.ListAt(t.Context(), "car-1", time.Now(), 10); !errors.As(err, &truncated) || truncated.Oldest != tail {
		t.Errorf("the list of a moment without an archive: %+v, %v", all, err)
	}
	started.Past(past)
	for id, want := range before {
		if got := get(started, id); !reflect.DeepEqual(got, want) {
			t.Errorf("from the archive: %+v, want %+v", got, want)
		}
		if v, err := started.At(t.Context(), "car-1", id, time.Now()); err != nil || !reflect.DeepEqual(v.Command, want.Command) {
			t.Errorf("from the archive, now: %+v, %v", v, err)
		}
	}
	if v, err := started.Get(t.Context(), "car-1", "nosuch"); !errors.Is(err, command.ErrNoCommand) {
		t.Errorf("one that never was: %+v, %v", v, err)
	}

	// An answer that comes after it is gone, to who remembers it and to who does not.
	for name, c := range map[string]*commands.Commands{"running": running, "started": started} {
		answered := make(chan error, 1)
		c.Take(t.Context(), gateway.Request{Device: "car-1", Route: dialect.Route{Kind: dialect.Command, Name: "late"}, Payload: []byte(`{"state":"succeeded"}`)}, func(err error) { answered <- err })
		var refusal *gateway.Refusal
		if err := <-answered; !errors.As(err, &refusal) || refusal.Reason != gateway.Unasked || !errors.Is(refusal.Err, command.ErrNoCommand) {
			t.Errorf("%s: a late answer: %v", name, err)
		}
	}

	// The key makes another command where the first is not remembered; the process that
	// does remember it follows.
	again, err := started.Queue(t.Context(), order("car-1", command.UntilDeadline, key))
	if err != nil || !again.Changed || again.Order.ID != ended.Order.ID || len(again.History) != 1 {
		t.Fatalf("%+v, %v", again, err)
	}
	if twice, err := started.Queue(t.Context(), order("car-1", command.UntilDeadline, key)); err != nil || twice.Changed || twice.Position != again.Position {
		t.Errorf("the key again: %+v, %v", twice, err)
	}
	gatewaytest.Eventually(t, "the other process has it", func() bool {
		v, err := running.Get(t.Context(), "car-1", again.Order.ID)
		return err == nil && v.Position == again.Position && v.State == command.Queued && len(v.History) == 1
	})
	if all := running.List("car-1", 10); len(all) != 2 {
		t.Errorf("listed twice: %+v", all)
	}
	if v, err := running.Cancel(t.Context(), "car-1", again.Order.ID, "operator", ""); err != nil || v.State != command.Cancelled || len(v.History) != 2 {
		t.Errorf("%+v, %v", v, err)
	}
	third, _ := open(t, log, commands.Limits{}, nil, nil)
	if got := get(third, again.Order.ID); got.State != command.Cancelled || len(got.History) != 2 {
		t.Errorf("%+v", got)
	}

	// Deadlines of open ones pass.
	ahead, err := commands.Open(t.Context(), commands.Config{Log: log, Now: func() time.Time { return time.Now().Add(25 * time.Hour) }})
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	ran := make(chan error, 1)
	go func() { ran <- ahead.Run(ctx) }()
	gatewaytest.Eventually(t, "its deadline has passed", func() bool { return get(running, waits.Order.ID).State == command.Expired })
	stop()
	if err := <-ran; err != nil {
		t.Error(err)
	}
}
