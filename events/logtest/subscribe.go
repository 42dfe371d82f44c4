package logtest

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/tachograph/tachograph/events"
)

// locate asks for every place there is.
func locate(t *testing.T, open Open) {
	l := open(t, 1)
	ctx := deadline(t)
	at := func(from events.From) uint64 {
		t.Helper()
		c, err := l.Locate(ctx, 0, from)
		if err != nil {
			t.Fatalf("%s: %v", from, err)
		}
		return c.Position.Seq
	}
	for _, from := range []events.From{events.Beginning, events.Now, events.Since(time.Unix(1, 0)), events.Since(time.Now().Add(time.Hour))} {
		if seq := at(from); seq != 0 {
			t.Errorf("%s in an empty log: %d", from, seq)
		}
	}
	for i := range 3 {
		EnqueueAll(t, l, []events.Event{Telemetry("car", i)})
	}
	all := Take(t, l.Follow(ctx, 0, events.Cursor{}), 3)
	for from, want := range map[events.From]uint64{
		events.Beginning: 0, events.Now: 3,
		events.Since(time.Unix(1, 0)): 0, events.Since(all[2].Received.Add(time.Hour)): 3,
		events.After(events.Cursor{Position: all[1].Position}):                     2,
		events.After(events.Cursor{Position: all[1].Position, ID: all[1].ID}):      2,
		events.After(events.Cursor{Position: events.Position{Epoch: 1}}):           0,
		events.After(events.Cursor{Position: events.Position{Epoch: 1, Seq: 3}}):   3,
		events.After(events.Cursor{Position: all[2].Position, ID: all[2].ID}):      3,
		events.After(events.Cursor{Position: events.Position{Epoch: 1}, ID: "no"}): 0,
	} {
		if seq := at(from); seq != want {
			t.Errorf("%s: after %d, want %d", from, seq, want)
		}
	}
	for _, e := range all { // the first of those that arrived with it
		seq := at(events.Since(e.Received))
		if seq >= e.Position.Seq || seq > 0 && !all[seq-1].Received.Before(e.Received) {
			t.Errorf("since the arrival of %s: after %d", e.Position, seq)
		}
		c, err := l.Locate(ctx, 0, events.After(events.Cursor{Position: e.Position}))
		if err != nil || c.ID != e.ID {
			t.Errorf("the cursor at %s: %+v, %v", e.Position, c, err)
		}
	}
	for _, c := range []events.Cursor{
		{Position: events.Position{Epoch: 1, Seq: 4}}, {Position: events.Position{Epoch: 2, Seq: 1}}, {Position: all[1].Position, ID: all[0].ID},
	} {
		var nowhere *events.PositionError
		_, err := l.Locate(ctx, 0, events.After(c))
		if !errors.As(err, &nowhere) || nowhere.Oldest != all[0].Position || nowhere.Newest != all[2].Position || !errors.Is(err, events.ErrDiverged) {
			t.Errorf("after %+v: %v", c, err)
		}
	}
}

// selects holds every filter against the whole log.
func selects(t *testing.T, open Open) {
	l := open(t, 4)
	var telemetry []events.Event
	for i := range 60 {
		e := Telemetry([]string{"car-1", "a.b", "*"}[i%3], i)
		e.Type = []string{"position", "cabin"}[i%2]
		e.ID = events.UniqueID()
		telemetry = append(telemetry, e)
	}
	EnqueueAll(t, l, telemetry)
	n := 0
	for _, kind := range []events.Kind{events.Registry, events.Shadow, events.Credential, events.DeadLetter} {
		for _, id := range []string{"car-1", "a.b"} {
			for _, name := range []string{"", "x", "a.b"} {
				if kind == events.DeadLetter && name == "" || kind == events.Credential && name != "" {
					continue
				}
				n++
				e := events.Event{Stream: events.Stream{Kind: kind, ID: id, Name: name}, Type: []string{"position", "added"}[n%2], ID: events.UniqueID(), Payload: []byte("{}")}
				if _, err := l.Append(deadline(t), events.Any, e); err != nil {
					t.Fatal(err)
				}
			}
		}
	}
	var all []events.Event
	for _, p := range l.Partitions() {
		tail, err := l.Tail(deadline(t), p)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, Take(t, l.Follow(deadline(t), p, events.Cursor{}), int(tail.Seq))...)
	}
	if len(all) != len(telemetry)+n {
		t.Fatalf("%d events, want %d", len(all), len(telemetry)+n)
	}
	for _, kinds := range [][]events.Kind{nil, {events.Telemetry}, {events.Registry, events.Shadow}, {events.DeadLetter, events.Shadow}, {events.Credential, events.Telemetry}, {events.Job}} {
		for _, id := range []string{"", "car-1", "a.b", "*", "nobody"} {
			for _, typ := range []string{"", "position", "added"} {
				f := events.Filter{Kinds: kinds, ID: id, Type: typ}
				got := 0
				for _, p := range f.Partitions(l.Layout()) {
					var want []events.Event
					for i := range all {
						if all[i].Position.Partition == p && f.Matches(&all[i]) {
							want = append(want, all[i])
						}
					}
					got += len(want)
					for i, e := range Take(t, l.Select(deadline(t), p, events.Cursor{}, f), len(want)) {
						if e.Position != want[i].Position {
							t.Fatalf("%+v in partition %d: event %d is %s, want %s", f, p, i, e.Position, want[i].Position)
						}
					}
				}
				if want := len(slices.DeleteFunc(slices.Clone(all), func(e events.Event) bool { return !f.Matches(&e) })); got != want {
					t.Errorf("%+v: %d events in its partitions, %d in all", f, got, want)
				}
			}
		}
	}
}

// subscribe reads history and what comes after it through one call, breaks off
// anywhere, and goes on with the token, over several partitions.
func subscribe(t *testing.T, open Open) {
	l := open(t, 4)
	s := events.Subscription{Filter: events.Filter{Kinds: []events.Kind{events.Telemetry, events.Shadow}}}
	const devices, rounds = 10, 12
	want := map[string]int{}
	store := func(round int) {
		var evs []events.Event
		for d := range devices {
			evs = append(evs, Telemetry(fmt.Sprint("car-", d), round))
		}
		EnqueueAll(t, l, evs)
		if _, err := l.Append(deadline(t), events.Any, fact("car-1", "desired", round)); err != nil {
			t.Fatal(err)
		}
	}
	for round := range rounds / 2 {
		store(round)
	}
	start, err := s.Start(deadline(t), l)
	if err != nil || len(start) != 5 {
		t.Fatalf("start %v, %v", start, err)
	}
	live := make(chan struct{})
	go func() {
		defer close(live)
		for round := rounds / 2; round < rounds; round++ {
			store(round)
		}
	}()
	defer func() { <-live }()
	token := start.Token()
	for read := 0; read < (devices+1)*rounds; {
		after, err := events.ParseCursors(token)
		if err != nil {
			t.Fatal(err)
		}
		s.After = after
		at, err := s.Start(deadline(t), l)
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range Take(t, s.Filter.Follow(deadline(t), l, at), min(17, (devices+1)*rounds-read)) {
			at.Advance(&e)
			read++
			key := e.Stream.String()
			if e.Stream.Kind == events.Telemetry && string(e.Payload) != string(Telemetry(e.Stream.ID, want[key]).Payload) {
				t.Fatalf("%s: event %d is %s", key, want[key], e.Payload)
			}
			want[key]++
		}
		token = at.Token()
	}
	for key, n := range want {
		if n != rounds {
			t.Errorf("%s: %d events, want %d", key, n, rounds)
		}
	}
	s.After = events.Cursors{events.DeadLetterPartition: {}}
	if _, err := s.Start(deadline(t), l); !errors.Is(err, events.ErrInvalid) {
		t.Errorf("a token of another selection: %v", err)
	}
	ctx, cancel := context.WithCancel(deadline(t))
	for e, err := range events.Subscribe(ctx, l, events.Subscription{From: events.Beginning}) {
		if err != nil {
			t.Fatal(err)
		}
		if e.Position.Seq == 2 {
			cancel() // the sequence just ends
		}
	}
	cancel()
}

// nowOnly: who begins now hears what comes, and nothing of before.
func nowOnly(t *testing.T, open Open) {
	l := open(t, 1)
	EnqueueAll(t, l, []events.Event{Telemetry("car", 0), Telemetry("car", 1)})
	start, err := events.Subscription{From: events.Now, Filter: events.Filter{ID: "car", Kinds: []events.Kind{events.Telemetry}}}.Start(deadline(t), l)
	if err != nil {
		t.Fatal(err)
	}
	EnqueueAll(t, l, []events.Event{Telemetry("other", 2), Telemetry("car", 3)})
	same(t, Take(t, events.Filter{ID: "car"}.Follow(deadline(t), l, start), 1)[0], Telemetry("car", 3))
}
