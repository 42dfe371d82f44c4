package history

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"log/slog"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/tachograph/tachograph/events"
	"github.com/tachograph/tachograph/events/memlog"
	"github.com/tachograph/tachograph/projections/forgotten"
)

// A shelf is an archive in memory.
type shelf struct {
	all    []events.Event // of one partition
	absent map[uint64]bool
	fault  func() error
	asked  int
}

func (s *shelf) Events(_ context.Context, after events.Position, upTo uint64) iter.Seq2[events.Event, error] {
	return func(yield func(events.Event, error) bool) {
		s.asked++
		if err := s.Whole(context.Background(), after, upTo); err != nil {
			yield(events.Event{}, err)
			return
		}
		for _, e := range s.all {
			if e.Position.Seq <= after.Seq || e.Position.Seq > upTo {
				continue
			}
			if s.fault != nil {
				if err := s.fault(); err != nil {
					yield(events.Event{}, err)
					return
				}
			}
			if !yield(e, nil) {
				return
			}
		}
	}
}

func (s *shelf) Stream(ctx context.Context, stream events.Stream, after events.Position, upTo uint64) iter.Seq2[events.Event, error] {
	return func(yield func(events.Event, error) bool) {
		for e, err := range s.Events(ctx, after, upTo) {
			if (err != nil || e.Stream == stream) && !yield(e, err) {
				return
			}
		}
	}
}

func (s *shelf) Whole(_ context.Context, after events.Position, upTo uint64) error {
	at := after
	for seq := after.Seq + 1; seq <= upTo; seq++ {
		if !s.absent[seq] && !slices.ContainsFunc(s.all, func(e events.Event) bool { return e.Position.Seq == seq }) {
			at.Seq = seq
			return &MissingError{First: at, Last: seq, Count: 1, Where: "the shelf"}
		}
	}
	return nil
}

func (s *shelf) First(_ context.Context, before events.Position, since time.Time) (uint64, bool, error) {
	for _, e := range s.all {
		if e.Position.Seq < before.Seq && !e.Received.Before(since) {
			return e.Position.Seq, true, nil
		}
	}
	return 0, false, nil
}

func (s *shelf) ID(_ context.Context, at events.Position) (string, error) {
	for _, e := range s.all {
		if e.Position == at {
			return e.ID, nil
		}
	}
	return "", nil
}

var quiet = slog.New(slog.DiscardHandler)

// past is a log of some devices, with positions that were erased, and what its
// archive has.
func past(t *testing.T, n int) (*memlog.Log, *shelf, []events.Event) {
	t.Helper()
	log := memlog.New(memlog.Options{Now: func() time.Time { return time.Now().Add(-time.Hour) }}) // as old as what is purged
	t.Cleanup(func() { log.Close() })
	s := &shelf{absent: map[uint64]bool{}}
	for i := range n {
		send(t, log, i)
	}
	erased := []uint64{1, 2, uint64(n / 2), uint64(n/2 + 1), uint64(n - 3)}
	for _, seq := range erased {
		if err := log.Erase(t.Context(), events.Position{Epoch: 1, Seq: seq}); err != nil {
			t.Fatal(err)
		}
		s.absent[seq] = true
	}
	s.all = upTo(t, log, uint64(n))
	return log, s, slices.Clone(s.all)
}

func send(t *testing.T, log events.Log, i int) {
	t.Helper()
	e := events.Event{Stream: events.Stream{Kind: events.Telemetry, ID: fmt.Sprint("car-", i%3)}, Type: "position", ID: fmt.Sprint("id-", i), Payload: fmt.Append(nil, i)}
	done := make(chan error, 1)
	if err := log.Enqueue(t.Context(), e, func(err error) { done <- err }); err != nil {
		t.Fatal(err)
	}
	if err := <-done; err != nil {
		t.Fatal(err)
	}
}

// upTo reads a partition up to a sequence.
func upTo(t *testing.T, log events.Log, seq uint64) (all []events.Event) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	for e, err := range log.Follow(ctx, 0, events.Cursor{}) {
		if err != nil {
			t.Fatal(err)
		}
		if all = append(all, e); e.Position.Seq >= seq {
			return all
		}
	}
	t.Fatalf("read %d events and nothing more", len(all))
	return nil
}

func texts(evs []events.Event) (out []string) {
	for _, e := range evs {
		out = append(out, fmt.Sprintf("%s %s %s %s", e.Position, e.ID, e.Stream, e.Payload))
	}
	return out
}

// TestSeam: wherever the log is purged, and whenever while it is read, by whole
// partitions or by streams, with an archive that fails now and then, each event
// comes once, in its order.
func TestSeam(t *testing.T) {
	const n = 60
	for seed := range uint64(100) {
		r := rand.New(rand.NewPCG(seed, 1))
		log, s, want := past(t, n)
		s.fault = func() error {
			if r.IntN(40) == 0 {
				return errors.New("the archive is gone for a moment")
			}
			return nil
		}
		whole := New(log, s, nil, quiet)
		purge := func() {
			if r.IntN(12) == 0 {
				if _, err := log.Purge(t.Context(), events.Position{Epoch: 1, Seq: uint64(r.IntN(n))}); err != nil {
					t.Fatal(err)
				}
			}
		}
		for range 2 {
			purge()
		}
		from := events.Cursor{}
		if k := r.IntN(2 * len(want)); k < len(want) {
			from = events.Cursor{Position: want[k].Position, ID: want[k].ID}
		}
		rest := slices.DeleteFunc(slices.Clone(want), func(e events.Event) bool { return e.Position.Seq <= from.Position.Seq })
		var got []events.Event
		if len(rest) > 0 {
			for e, err := range whole.Follow(t.Context(), 0, from) {
				if err != nil {
					t.Fatalf("seed %d: %v", seed, err)
				}
				got = append(got, e)
				purge()
				if len(got) == len(rest) {
					break
				}
			}
		}
		if !slices.Equal(texts(got), texts(rest)) {
			t.Fatalf("seed %d: after %s\n got %q\nwant %q", seed, from.Position, texts(got), texts(rest))
		}
		s.fault = nil
		// Those of a filter, while it is purged further.
		only := []events.Filter{{Kinds: []events.Kind{events.Telemetry}, ID: "car-2"}, {ID: "car-2", Type: "position"}, {Type: "position"}, {Kinds: []events.Kind{events.Telemetry}}}[r.IntN(4)]
		some := slices.DeleteFunc(slices.Clone(rest), func(e events.Event) bool { return !only.Matches(&e) })
		got = nil
		if len(some) > 0 {
			begin := from
			begin.Position.Epoch = 1
			for e, err := range events.Subscribe(t.Context(), whole, events.Subscription{Filter: only, After: events.Cursors{0: begin}}) {
				if err != nil {
					t.Fatalf("seed %d: %v", seed, err)
				}
				got = append(got, e)
				purge()
				if len(got) == len(some) {
					break
				}
			}
		}
		if !slices.Equal(texts(got), texts(some)) {
			t.Fatalf("seed %d: %+v after %s\n got %q\nwant %q", seed, only, from.Position, texts(got), texts(some))
		}
		stream := events.Stream{Kind: events.Telemetry, ID: "car-1"}
		rest = slices.DeleteFunc(rest, func(e events.Event) bool { return e.Stream != stream })
		got = nil
		for e, err := range whole.ReadAfter(t.Context(), stream, from.Position, events.Latest) {
			if err != nil {
				t.Fatalf("seed %d: %v", seed, err)
			}
			got = append(got, e)
			purge()
		}
		if !slices.Equal(texts(got), texts(rest)) {
			t.Fatalf("seed %d: stream after %s\n got %q\nwant %q", seed, from.Position, texts(got), texts(rest))
		}
	}
}

// TestPurgedInBetween: a stream that is purged after its reader began, in front of
// the reader, hands over what is left as if there had been no gap; the reader of
// the history goes back for it.
func TestPurgedInBetween(t *testing.T) {
	log, s, want := past(t, 60)
	var got []events.Event
	for e, err := range New(log, s, nil, quiet).Follow(t.Context(), 0, events.Cursor{}) {
		if err != nil {
			t.Fatal(err)
		}
		if got = append(got, e); len(got) == 10 {
			if _, err := log.Purge(t.Context(), events.Position{Epoch: 1, Seq: 50}); err != nil {
				t.Fatal(err)
			}
		}
		if len(got) == len(want) {
			break
		}
	}
	if !slices.Equal(texts(got), texts(want)) || s.asked != 1 {
		t.Fatalf("the archive was asked %d times\n got %q\nwant %q", s.asked, texts(got), texts(want))
	}
	for i := 60; i < 65; i++ {
		send(t, log, i)
	}
	if all := upTo(t, New(log, s, nil, quiet), 65); len(all) != len(want)+5 {
		t.Fatalf("%d events", len(all))
	}
}

// TestBegin: the beginning, and a moment, reach back into the archive.
func TestBegin(t *testing.T) {
	log, s, want := past(t, 60)
	whole := New(log, s, nil, quiet)
	if _, err := log.Purge(t.Context(), events.Position{Epoch: 1, Seq: 40}); err != nil {
		t.Fatal(err)
	}
	for from, first := range map[events.From]int{
		events.Beginning:                         0,
		events.Since(want[0].Received.Add(-1e9)): 0,
		events.Since(want[10].Received):          10,
		events.Since(want[50].Received):          50,
		events.After(events.Cursor{Position: want[12].Position, ID: want[12].ID}): 13,
	} {
		at, err := whole.Locate(t.Context(), 0, from)
		if err != nil {
			t.Fatalf("%s: %v", from, err)
		}
		for e, err := range whole.Follow(t.Context(), 0, at) {
			if err != nil || !e.Received.Equal(want[first].Received) {
				t.Errorf("%s begins with %s, %v; want %s", from, e.Position, err, want[first].Position)
			}
			break
		}
	}
	if at, err := whole.Locate(t.Context(), 0, events.Now); err != nil || at.Position.Seq != 60 {
		t.Errorf("%v, %v", at, err)
	}
	s.all = s.all[20:] // the oldest have expired
	if at, err := whole.Locate(t.Context(), 0, events.Beginning); err != nil || at.Position.Seq+1 != s.all[0].Position.Seq {
		t.Errorf("%v, %v", at, err)
	}
	s.all = nil
	if at, err := whole.Locate(t.Context(), 0, events.Beginning); err != nil || at.Position.Seq != 40 {
		t.Errorf("%v, %v", at, err)
	}
}

// TestMissing: what neither has is named, by who reads and by who asks first.
func TestMissing(t *testing.T) {
	log, s, _ := past(t, 60)
	if _, err := log.Purge(t.Context(), events.Position{Epoch: 1, Seq: 40}); err != nil {
		t.Fatal(err)
	}
	s.all = slices.DeleteFunc(s.all, func(e events.Event) bool { return e.Position.Seq == 20 })
	whole := New(log, s, nil, quiet)
	check := func(err error) {
		t.Helper()
		var missing *MissingError
		if !errors.As(err, &missing) || missing.First != (events.Position{Epoch: 1, Seq: 20}) || missing.Last != 20 {
			t.Errorf("%v", err)
		}
	}
	var last error
	for _, err := range whole.Follow(t.Context(), 0, events.Cursor{}) {
		last = err
	}
	check(last)
	for _, err := range whole.Read(t.Context(), events.Stream{Kind: events.Telemetry, ID: "car-1"}, events.Latest) {
		last = err
	}
	check(last)
	_, err := whole.Locate(t.Context(), 0, events.After(events.Cursor{Position: events.Position{Epoch: 1}}))
	check(err)

	at := events.Cursor{Position: events.Position{Epoch: 1, Seq: 25}, ID: "id-24"}
	if c, err := whole.Locate(t.Context(), 0, events.After(at)); err != nil || c != at {
		t.Errorf("%v, %v", c, err)
	}
	at.ID = "another"
	if _, err := whole.Locate(t.Context(), 0, events.After(at)); !errors.Is(err, events.ErrDiverged) {
		t.Errorf("%v", err)
	}
	for _, err := range whole.Follow(t.Context(), 0, at) {
		last = err
	}
	if !errors.Is(last, events.ErrDiverged) {
		t.Errorf("%v", last)
	}
}

// TestForgotten: what had to be forgotten does not come back with an archive that
// has it, nor does the same message that came again later.
func TestForgotten(t *testing.T) {
	log, s, _ := past(t, 60)
	first := s.all[slices.IndexFunc(s.all, func(e events.Event) bool { return e.Stream.ID == "car-1" })]
	again := &s.all[len(s.all)-1]
	again.Stream, again.ID = first.Stream, first.ID // a copy of the first, in the archive alone
	cut := s.all[30].Received.Add(time.Microsecond)
	again.Received = cut.Add(time.Hour)
	ledger := forgotten.New()
	fact, err := forgotten.Event("car-1", "r1", forgotten.TypeAsked, forgotten.Asked{To: cut, At: cut})
	if err != nil {
		t.Fatal(err)
	}
	fact.Position = events.Position{Epoch: 1, Partition: events.ControlPartition, Seq: 1}
	ledger.Fold(fact)
	send(t, log, 61)
	if _, err := log.Purge(t.Context(), events.Position{Epoch: 1, Seq: 60}); err != nil {
		t.Fatal(err)
	}
	var want []events.Event
	for _, e := range s.all[:len(s.all)-1] {
		if e.Stream.ID != "car-1" || !e.Received.Before(cut) {
			want = append(want, e)
		}
	}
	got := upTo(t, New(log, s, ledger, quiet), 61)
	if got = got[:len(got)-1]; !slices.Equal(texts(got), texts(want)) || len(want) < 30 {
		t.Fatalf("\n got %q\nwant %q", texts(got), texts(want))
	}
}
