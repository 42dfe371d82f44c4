package history

import (
	"context"
	"fmt"
	"iter"
	"testing"
	"time"

	"github.com/tachograph/tachograph/events"
	"github.com/tachograph/tachograph/events/memlog"
)

// shelves are an archive of several partitions.
type shelves map[uint16]*shelf

func (s shelves) Events(ctx context.Context, after events.Position, upTo uint64) iter.Seq2[events.Event, error] {
	return s[after.Partition].Events(ctx, after, upTo)
}

func (s shelves) Stream(ctx context.Context, stream events.Stream, after events.Position, upTo uint64) iter.Seq2[events.Event, error] {
	return s[after.Partition].Stream(ctx, stream, after, upTo)
}

func (s shelves) Whole(ctx context.Context, after events.Position, upTo uint64) error {
	return s[after.Partition].Whole(ctx, after, upTo)
}

func (s shelves) First(ctx context.Context, before events.Position, since time.Time) (uint64, bool, error) {
	return s[before.Partition].First(ctx, before, since)
}

func (s shelves) ID(ctx context.Context, at events.Position) (string, error) {
	return s[at.Partition].ID(ctx, at)
}

// TestSplit: a log that was split and then purged, in all partitions, is read on in
// its archive, each device's events whole, in order and once: by Read, from any
// event on, and by subscriptions.
func TestSplit(t *testing.T) {
	log := memlog.New(memlog.Options{Now: func() time.Time { return time.Now().Add(-time.Hour) }})
	t.Cleanup(func() { log.Close() })
	const devices = 12
	sent := 0
	round := func(n int) {
		t.Helper()
		for range n * devices {
			e := events.Event{Stream: events.Stream{Kind: events.Telemetry, ID: fmt.Sprint("car-", sent%devices)}, Type: "position", ID: fmt.Sprint("id-", sent/devices), Payload: fmt.Append(nil, sent)}
			if err := log.Enqueue(t.Context(), e, func(error) {}); err != nil {
				t.Fatal(err)
			}
			sent++
		}
	}
	round(10)
	for _, n := range []int{4, 8} {
		if err := log.Split(n); err != nil {
			t.Fatal(err)
		}
		round(10)
	}
	archive := shelves{}
	var purge []events.Position
	for _, p := range log.Partitions()[:8] {
		tail, err := log.Tail(t.Context(), p)
		if err != nil {
			t.Fatal(err)
		}
		archive[p] = &shelf{absent: map[uint64]bool{}}
		for e, err := range log.Scan(t.Context(), p, events.Cursor{}, tail.Seq, events.Filter{}) {
			if err != nil {
				t.Fatal(err)
			}
			archive[p].all = append(archive[p].all, e)
		}
		tail.Seq = tail.Seq * uint64(p+1) / 9 // some of them nearly whole
		purge = append(purge, tail)
	}
	for _, at := range purge {
		if _, err := log.Purge(t.Context(), at); err != nil {
			t.Fatal(err)
		}
	}
	l := New(log, archive, nil, quiet)
	for d := range devices {
		s := events.Stream{Kind: events.Telemetry, ID: fmt.Sprint("car-", d)}
		var all []events.Event
		for e, err := range l.Read(t.Context(), s, events.Latest) {
			if err != nil {
				t.Fatal(err)
			}
			if want := fmt.Sprint("id-", len(all)); e.ID != want {
				t.Fatalf("%s: %s comes where %s is due", s, e.ID, want)
			}
			all = append(all, e)
		}
		if len(all) != 30 {
			t.Fatalf("%s has %d events", s, len(all))
		}
		for i := 0; i < len(all); i += 7 {
			next := i + 1
			for e, err := range l.ReadAfter(t.Context(), s, all[i].Position, events.Latest) {
				if err != nil || e.Position != all[next].Position {
					t.Fatalf("%s after %s: %s, %v", s, all[i].Position, e.Position, err)
				}
				next++
			}
			if next != len(all) {
				t.Errorf("%s after %s: up to %d", s, all[i].Position, next)
			}
		}
	}
	for _, only := range []events.Filter{{Kinds: []events.Kind{events.Telemetry}}, {ID: "car-5", Kinds: []events.Kind{events.Telemetry}}, {Kinds: []events.Kind{events.Telemetry}, Type: "position"}} {
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		next, left := map[string]int{}, sent
		if only.ID != "" {
			left = 30
		}
		for e, err := range events.Subscribe(ctx, l, events.Subscription{Filter: only}) {
			if err != nil {
				t.Fatal(err)
			}
			if want := fmt.Sprint("id-", next[e.Stream.ID]); e.ID != want {
				t.Fatalf("%+v: %s of %s comes where %s is due", only, e.ID, e.Stream, want)
			}
			next[e.Stream.ID]++
			if left--; left == 0 {
				break
			}
		}
		if left > 0 {
			t.Errorf("%+v: %d events are missing", only, left)
		}
	}
}
