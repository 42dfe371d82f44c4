package logtest

import (
	"errors"
	"fmt"
	"math"
	"slices"
	"testing"

	"github.com/tachograph/tachograph/events"
)

// Divide splits a log into n telemetry partitions and returns it as it is then;
// what was returned before is not used any more.
type Divide func(t *testing.T, l events.Log, n int) (events.Log, error)

// Split holds logs that are split to the contract.
func Split(t *testing.T, open Open, divide Divide) {
	for _, test := range []struct {
		name string
		run  func(*testing.T, Open, Divide)
	}{
		{"HistoryOverSeams", historyOverSeams},
		{"SubscribeOverSeams", subscribeOverSeams},
		{"FreshOverSeams", freshOverSeams},
		{"SplitRefused", splitRefused},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			test.run(t, open, divide)
		})
	}
}

const splitDevices = 40

// round stores an event of each device, and a fact.
func round(t *testing.T, l events.Log, n int) {
	t.Helper()
	var evs []events.Event
	for d := range splitDevices {
		evs = append(evs, Telemetry(fmt.Sprint("car-", d), n))
	}
	EnqueueAll(t, l, evs)
	if _, err := l.Append(deadline(t), events.Any, fact("car-1", "desired", n)); err != nil {
		t.Fatal(err)
	}
}

func divided(t *testing.T, divide Divide, l events.Log, n int) events.Log {
	t.Helper()
	l, err := divide(t, l, n)
	if err != nil {
		t.Fatal(err)
	}
	if l.Layout().Telemetry() != n || len(l.Partitions()) != n+2 {
		t.Fatalf("layout %s, partitions %v", l.Layout(), l.Partitions())
	}
	return l
}

// historyOverSeams: a log that is split twice has each device's events, those of
// before where they were, and reads them in order from any of them up to any.
func historyOverSeams(t *testing.T, open Open, divide Divide) {
	for _, counts := range [][]int{{1, 4, 12}, {2, 4, 32}, {3, 6}} {
		l := open(t, counts[0])
		before := map[string][]events.Event{}
		n := 0
		for i, count := range counts {
			if i > 0 {
				l = divided(t, divide, l, count)
			}
			for range 3 {
				round(t, l, n)
				n++
			}
			total := 0
			for d := range splitDevices {
				s := events.Stream{Kind: events.Telemetry, ID: fmt.Sprint("car-", d)}
				all := readAll(t, l, s, events.Latest)
				if len(all) != n {
					t.Fatalf("%v: %s has %d events, want %d", counts[:i+1], s, len(all), n)
				}
				for j, e := range all {
					same(t, e, Telemetry(s.ID, j))
					if j > 0 && (e.Position.Epoch < all[j-1].Position.Epoch || e.Position.Epoch == all[j-1].Position.Epoch && e.Position.Seq <= all[j-1].Position.Seq || e.Position.Partition < all[j-1].Position.Partition) {
						t.Errorf("%s comes after %s", e.Position, all[j-1].Position)
					}
				}
				for j, e := range before[s.ID] {
					if all[j].Position != e.Position {
						t.Errorf("%s was moved to %s", e.Position, all[j].Position)
					}
				}
				before[s.ID] = all
				way := l.Layout().Way(l.Layout().Of(s))
				if last := all[n-1].Position.Partition; last != l.Layout().Of(s) || last != way[len(way)-1].Partition {
					t.Errorf("the newest of %s is in partition %d", s, last)
				}
				for _, e := range all {
					if !slices.ContainsFunc(way, func(w events.Stretch) bool {
						return w.Partition == e.Position.Partition && e.Position.Seq <= w.UpTo
					}) {
						t.Errorf("%s of %s is not on its way %v", e.Position, s, way)
					}
				}
				if d%8 == 0 {
					betweenAll(t, l, s, all)
				}
				total += len(all)
			}
			// Each partition alone, followed and scanned.
			for _, p := range l.Partitions()[:count] {
				tail, err := l.Tail(deadline(t), p)
				if err != nil {
					t.Fatal(err)
				}
				whole := Take(t, l.Follow(deadline(t), p, events.Cursor{}), int(tail.Seq))
				total -= len(whole)
				var scanned []events.Event
				for e, err := range l.Scan(deadline(t), p, events.Cursor{}, math.MaxUint64, events.Filter{}) {
					if err != nil {
						t.Fatal(err)
					}
					scanned = append(scanned, e)
				}
				if !slices.EqualFunc(whole, scanned, func(a, b events.Event) bool { return a.Position == b.Position && a.ID == b.ID }) {
					t.Errorf("partition %d: %d followed, %d scanned", p, len(whole), len(scanned))
				}
			}
			if total != 0 {
				t.Errorf("%d events are in devices and not in partitions", total)
			}
		}
	}
}

// betweenAll reads a stream after each of its events up to each.
func betweenAll(t *testing.T, l events.Log, s events.Stream, all []events.Event) {
	t.Helper()
	for i := range all {
		for j := i; j < len(all); j += 2 {
			var got []events.Position
			for e, err := range l.ReadAfter(deadline(t), s, all[i].Position, all[j].Position) {
				if err != nil {
					t.Fatal(err)
				}
				got = append(got, e.Position)
			}
			if len(got) != j-i || len(got) > 0 && (got[0] != all[i+1].Position || got[len(got)-1] != all[j].Position) {
				t.Errorf("%s after %s up to %s: %v", s, all[i].Position, all[j].Position, got)
			}
		}
	}
	far := events.Position{Epoch: 1, Partition: 255, Seq: 1}
	if split := all[0].Position.Partition != all[len(all)-1].Position.Partition; !split || l.Layout().Passes(events.Slot(s.ID), far.Partition) {
		return
	}
	for e, err := range l.ReadAfter(deadline(t), s, far, events.Latest) {
		if !errors.Is(err, events.ErrInvalid) {
			t.Errorf("after a position where it never was: %s, %v", e.Position, err)
		}
	}
}

// subscribeOverSeams: a token of before the split goes on after it, wherever it
// breaks off, with each device's events in order and once.
func subscribeOverSeams(t *testing.T, open Open, divide Divide) {
	l := open(t, 1)
	for n := range 4 {
		round(t, l, n)
	}
	for _, only := range []events.Filter{{}, {Kinds: []events.Kind{events.Telemetry}}, {ID: "car-7", Kinds: []events.Kind{events.Telemetry}}, {Kinds: []events.Kind{events.Telemetry}, Type: "position"}} {
		s := events.Subscription{Filter: only}
		at, err := s.Start(deadline(t), l)
		if err != nil {
			t.Fatal(err)
		}
		next := map[string]int{}
		read := func(l events.Log, n int) {
			t.Helper()
			for _, e := range Take(t, s.Filter.Follow(deadline(t), l, at), n) {
				at.Advance(&e)
				if e.Stream.Kind == events.Telemetry {
					if want := Telemetry(e.Stream.ID, next[e.Stream.ID]); string(e.Payload) != string(want.Payload) {
						t.Fatalf("%+v: %s comes at %s where %s is due", only, e.Payload, e.Position, want.Payload)
					}
					next[e.Stream.ID]++
				}
			}
		}
		devices := splitDevices
		if only.ID != "" {
			devices = 1
		}
		first := l
		read(first, devices*2-1) // in the middle of a round
		rounds := 4
		if l.Layout().Telemetry() == 1 {
			l = divided(t, divide, l, 4)
			for n := range 3 {
				round(t, l, 4+n)
			}
		}
		rounds += 3
		for left := devices*rounds - (devices*2 - 1); left > 0; left -= 13 {
			if s.After, err = events.ParseCursors(at.Token()); err != nil {
				t.Fatal(err)
			}
			if at, err = s.Start(deadline(t), l); err != nil {
				t.Fatal(err)
			}
			facts := 0
			if len(only.Kinds) == 0 {
				facts = 1 // one of a round comes in between, at the most
			}
			read(l, max(1, min(13, left)-facts))
			left += facts
		}
		if len(only.Kinds) > 0 {
			for device, n := range next {
				if n != rounds {
					t.Errorf("%+v: %d events of %s, want %d", only, n, device, rounds)
				}
			}
		}
	}
	// Who listens to what is new begins with that in each partition.
	s := events.Subscription{From: events.Now, Filter: events.Filter{Kinds: []events.Kind{events.Telemetry}}}
	at, err := s.Start(deadline(t), l)
	if err != nil || len(at) != 4 {
		t.Fatal(at, err)
	}
	round(t, l, 7)
	for _, e := range Take(t, s.Filter.Follow(deadline(t), l, at), splitDevices) {
		same(t, e, Telemetry(e.Stream.ID, 7))
	}
}

// freshOverSeams: what was appended once before a split is not appended again.
func freshOverSeams(t *testing.T, open Open, divide Divide) {
	l := open(t, 1)
	round(t, l, 0)
	var letters []events.Event
	for d := range splitDevices {
		e := readAll(t, l, events.Stream{Kind: events.Telemetry, ID: fmt.Sprint("car-", d)}, events.Latest)[0]
		letters = append(letters, events.LetterID{Position: e.Position}.Replay(e, 2), events.LetterID{Position: e.Position, Sample: 1}.Replay(e, 2))
	}
	put := func(e events.Event, there bool) {
		t.Helper()
		_, err := l.Append(deadline(t), events.Fresh, e)
		var conflict *events.ConflictError
		if there != errors.As(err, &conflict) || !there && err != nil || there && conflict.Actual == 0 {
			t.Errorf("%s: there %t, %v", e.Stream, there, err)
		}
	}
	for i := 0; i < len(letters); i += 2 {
		put(letters[i], false)
	}
	l = divided(t, divide, l, 4)
	for i := range letters {
		put(letters[i], i%2 == 0)
		put(letters[i], true)
	}
	l = divided(t, divide, l, 16)
	for i := range letters {
		put(letters[i], true)
	}
	for d := range splitDevices {
		if all := readAll(t, l, events.Stream{Kind: events.Telemetry, ID: fmt.Sprint("car-", d)}, events.Latest); len(all) != 3 {
			t.Errorf("car-%d has %d events, want 3", d, len(all))
		}
	}
}

func splitRefused(t *testing.T, open Open, divide Divide) {
	l := open(t, 4)
	round(t, l, 0)
	for _, n := range []int{1, 2, 6, 512} {
		if _, err := divide(t, l, n); err == nil {
			t.Errorf("4 partitions became %d", n)
		}
	}
	l = divided(t, divide, l, 8)
	round(t, l, 1)
	for d := range splitDevices {
		if all := readAll(t, l, events.Stream{Kind: events.Telemetry, ID: fmt.Sprint("car-", d)}, events.Latest); len(all) != 2 {
			t.Errorf("car-%d has %d events, want 2", d, len(all))
		}
	}
}
