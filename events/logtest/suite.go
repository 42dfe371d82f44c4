// Package logtest is what every events.Log must do. An implementation's tests
// call Run with a way to open an empty log.
package logtest

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/tachograph/tachograph/events"
)

// Open returns an empty log of n telemetry partitions that the test closes.
type Open func(t *testing.T, partitions int) events.Log

// Run holds the logs that open returns to the contract.
func Run(t *testing.T, open Open) {
	for _, test := range []struct {
		name string
		run  func(*testing.T, Open)
	}{
		{"AppendAndRead", appendAndRead},
		{"ReadAfter", readAfter},
		{"Expectations", expectations},
		{"OneWinner", oneWinner},
		{"AllOrNone", allOrNone},
		{"EnqueueInOrder", enqueueInOrder},
		{"EnqueueFromMany", enqueueFromMany},
		{"Follow", follow},
		{"FollowLive", followLive},
		{"FollowDiverged", followDiverged},
		{"Locate", locate},
		{"Select", selects},
		{"Subscribe", subscribe},
		{"NowOnly", nowOnly},
		{"Replays", replays},
		{"Inspect", inspect},
		{"Refusals", refusals},
		{"OddNames", oddNames},
		{"Partitions", partitions},
		{"Close", closing},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			test.run(t, open)
		})
	}
}

const patience = 30 * time.Second

func deadline(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	t.Cleanup(cancel)
	return ctx
}

func fact(id, typ string, n int) events.Event {
	return events.Event{
		Stream: events.Stream{Kind: events.Shadow, ID: id}, Type: typ,
		ID: events.UniqueID(), Payload: fmt.Appendf(nil, `{"n":%d}`, n),
	}
}

// Telemetry makes a telemetry event whose id is the derived one.
func Telemetry(device string, n int) events.Event {
	payload := fmt.Appendf(nil, `{"time":%d,"speed":%d}`, 1700000000000+n, n)
	return events.Event{
		Stream: events.Stream{Kind: events.Telemetry, ID: device}, Type: "position", Schema: 1,
		ID: events.DeriveID(device, "position", payload), Payload: payload,
	}
}

// EnqueueAll enqueues and waits until all are acknowledged.
func EnqueueAll(t *testing.T, l events.Log, evs []events.Event) {
	t.Helper()
	ctx := deadline(t)
	results := make(chan error, len(evs))
	for _, e := range evs {
		if err := l.Enqueue(ctx, e, func(err error) { results <- err }); err != nil {
			t.Fatal(err)
		}
	}
	for range evs {
		select {
		case err := <-results:
			if err != nil {
				t.Fatal(err)
			}
		case <-ctx.Done():
			t.Fatal("not acknowledged")
		}
	}
}

// Take returns the first n of a sequence.
func Take(t *testing.T, seq iter.Seq2[events.Event, error], n int) []events.Event {
	t.Helper()
	var got []events.Event
	if n == 0 {
		return nil
	}
	for e, err := range seq {
		if err != nil {
			t.Fatalf("after %d events: %v", len(got), err)
		}
		if got = append(got, e); len(got) == n {
			return got
		}
	}
	t.Fatalf("ended after %d events of %d", len(got), n)
	return nil
}

// readAfter reads one device's events from every position on, among those of
// another.
func readAfter(t *testing.T, open Open) {
	l := open(t, 1)
	var mixed []events.Event
	for n := range 20 {
		mixed = append(mixed, Telemetry([]string{"car", "other"}[n%2], n))
	}
	EnqueueAll(t, l, mixed)
	s := events.Stream{Kind: events.Telemetry, ID: "car"}
	all := readAll(t, l, s, events.Latest)
	if len(all) != 10 {
		t.Fatalf("%d events, want 10", len(all))
	}
	for i := range all {
		var got []events.Event
		for e, err := range l.ReadAfter(deadline(t), s, all[i].Position, all[max(i, 7)].Position) {
			if err != nil {
				t.Fatal(err)
			}
			got = append(got, e)
		}
		if want := all[i+1 : max(i, 7)+1]; len(got) != len(want) || len(got) > 0 && got[0].ID != want[0].ID {
			t.Fatalf("after event %d: %d events, want %d", i, len(got), len(want))
		}
	}
}

func readAll(t *testing.T, l events.Log, s events.Stream, upTo events.Position) []events.Event {
	t.Helper()
	var got []events.Event
	for e, err := range l.Read(deadline(t), s, upTo) {
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, e)
	}
	return got
}

// same compares what a writer fixed.
func same(t *testing.T, got, want events.Event) {
	t.Helper()
	if got.Stream != want.Stream || got.Type != want.Type || got.ID != want.ID || got.Schema != want.Schema || string(got.Payload) != string(want.Payload) {
		t.Fatalf("got  %+v\nwant %+v", got, want)
	}
	if got.Received.IsZero() || got.Received.Location() != time.UTC {
		t.Fatalf("arrival time %v", got.Received)
	}
}

func appendAndRead(t *testing.T, open Open) {
	l := open(t, 1)
	ctx := deadline(t)
	var want []events.Event
	var positions []events.Position
	for n := range 5 {
		e := fact("car-1", "desired", n)
		e.Schema = uint32(n)
		other := fact("car-2", "desired", n)
		pos, err := l.Append(ctx, events.Any, e)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := l.Append(ctx, events.Any, other); err != nil {
			t.Fatal(err)
		}
		want, positions = append(want, e), append(positions, pos)
	}
	got := readAll(t, l, want[0].Stream, events.Latest)
	if len(got) != len(want) {
		t.Fatalf("read %d events, appended %d", len(got), len(want))
	}
	for i := range want {
		same(t, got[i], want[i])
		if got[i].Position != positions[i] {
			t.Fatalf("position %v, append said %v", got[i].Position, positions[i])
		}
	}
	for seq := range tailOf(t, l).Seq + 3 { // one position at a time, and beyond the end
		var alone []events.Event
		for e, err := range l.ReadAfter(ctx, want[0].Stream, events.Position{Seq: seq}, events.Position{Seq: seq + 1}) {
			if err != nil {
				t.Fatal(err)
			}
			alone = append(alone, e)
		}
		i := slices.IndexFunc(positions, func(p events.Position) bool { return p.Seq == seq+1 })
		switch {
		case i < 0 && len(alone) > 0, i >= 0 && len(alone) != 1:
			t.Fatalf("%d is read alone as %v", seq+1, alone)
		case i >= 0:
			same(t, alone[0], want[i])
			if alone[0].Position != positions[i] || !alone[0].Received.Equal(got[i].Received) {
				t.Fatalf("alone %+v, among others %+v", alone[0], got[i])
			}
		}
	}
	if got := readAll(t, l, want[0].Stream, positions[2]); len(got) != 3 {
		t.Fatalf("up to the third: %d events", len(got))
	}
	if got := readAll(t, l, events.Stream{Kind: events.Shadow, ID: "nobody"}, events.Latest); len(got) != 0 {
		t.Fatalf("of nobody: %v", got)
	}
	tail, err := l.Tail(ctx, events.ControlPartition)
	if err != nil || tail.Seq != 10 {
		t.Fatalf("tail %v, %v", tail, err)
	}
}

func tailOf(t *testing.T, l events.Log) events.Position {
	t.Helper()
	tail, err := l.Tail(t.Context(), events.ControlPartition)
	if err != nil {
		t.Fatal(err)
	}
	return tail
}

func expectations(t *testing.T, open Open) {
	l := open(t, 1)
	ctx := deadline(t)
	must := func(expect events.Expect, e events.Event) events.Position {
		t.Helper()
		pos, err := l.Append(ctx, expect, e)
		if err != nil {
			t.Fatal(err)
		}
		return pos
	}
	conflict := func(expect events.Expect, e events.Event, actual uint64) {
		t.Helper()
		_, err := l.Append(ctx, expect, e)
		var c *events.ConflictError
		if !errors.As(err, &c) {
			t.Fatalf("want a conflict, got %v", err)
		}
		if c.Stream != e.Stream || c.Expected != expect || c.Actual != actual {
			t.Fatalf("%+v, actual should be %d", c, actual)
		}
	}
	conflict(events.At(7), fact("car-1", "desired", 0), 0)
	first := must(events.Fresh, fact("car-1", "desired", 1))
	conflict(events.Fresh, fact("car-1", "desired", 2), first.Seq)
	must(events.Fresh, fact("car-2", "desired", 3))
	second := must(events.At(first.Seq), fact("car-1", "desired", 4))
	conflict(events.At(first.Seq), fact("car-1", "desired", 5), second.Seq)
	must(events.Any, fact("car-1", "desired", 6))
	named := fact("car-1", "desired", 7)
	named.Stream.Name = "config"
	must(events.Fresh, named)
}

func oneWinner(t *testing.T, open Open) {
	l := open(t, 1)
	ctx := deadline(t)
	const writers, rounds = 8, 10
	var wg sync.WaitGroup
	for w := range writers {
		wg.Go(func() {
			for done := 0; done < rounds; {
				var last uint64
				for e, err := range l.Read(ctx, events.Stream{Kind: events.Shadow, ID: "car"}, events.Latest) {
					if err != nil {
						t.Error(err)
						return
					}
					last = e.Position.Seq
				}
				_, err := l.Append(ctx, events.At(last), fact("car", "desired", w))
				var c *events.ConflictError
				switch {
				case err == nil:
					done++
				case !errors.As(err, &c):
					t.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
	if n := len(readAll(t, l, events.Stream{Kind: events.Shadow, ID: "car"}, events.Latest)); n != writers*rounds {
		t.Fatalf("%d events, want %d", n, writers*rounds)
	}
}

func allOrNone(t *testing.T, open Open) {
	l := open(t, 1)
	ctx := deadline(t)
	three := []events.Event{fact("car", "a", 1), fact("car", "b", 2), fact("car", "c", 3)}
	pos, err := l.Append(ctx, events.Fresh, three...)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := l.Append(ctx, events.Fresh, three...); err == nil {
		t.Fatal("appended against the expectation")
	}
	if _, err := l.Append(ctx, events.At(pos.Seq), fact("car", "d", 4), fact("other", "d", 4)); !errors.Is(err, events.ErrInvalid) {
		t.Fatalf("two streams in one append: %v", err)
	}
	got := readAll(t, l, three[0].Stream, events.Latest)
	if len(got) != 3 || got[2].Position != pos {
		t.Fatalf("read %v, the append said %v", got, pos)
	}
}

func enqueueInOrder(t *testing.T, open Open) {
	l := open(t, 1)
	ctx := deadline(t)
	const n = 5000
	var mu sync.Mutex
	var order []int
	all := make(chan struct{})
	for i := range n {
		err := l.Enqueue(ctx, Telemetry("car-1", i), func(err error) {
			if err != nil {
				t.Error(err)
			}
			mu.Lock()
			defer mu.Unlock()
			if order = append(order, i); len(order) == n {
				close(all)
			}
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	select {
	case <-all:
	case <-ctx.Done():
		t.Fatal("not all acknowledged")
	}
	if !slices.IsSorted(order) {
		t.Fatal("acknowledged out of order")
	}
	for i, e := range Take(t, l.Follow(ctx, 0, events.Cursor{}), n) {
		same(t, e, Telemetry("car-1", i))
		if e.Position.Seq != uint64(i+1) || e.Position.Partition != 0 || e.Position.Epoch == 0 {
			t.Fatalf("position %v of event %d", e.Position, i)
		}
	}
}

func enqueueFromMany(t *testing.T, open Open) {
	l := open(t, 1)
	const writers, each = 20, 200
	var wg sync.WaitGroup
	for w := range writers {
		wg.Go(func() {
			evs := make([]events.Event, each)
			for i := range evs {
				evs[i] = Telemetry(fmt.Sprint("car-", w), i)
			}
			EnqueueAll(t, l, evs)
		})
	}
	wg.Wait()
	next := map[string]int{}
	for _, e := range Take(t, l.Follow(deadline(t), 0, events.Cursor{}), writers*each) {
		same(t, e, Telemetry(e.Stream.ID, next[e.Stream.ID]))
		next[e.Stream.ID]++
	}
}

func follow(t *testing.T, open Open) {
	l := open(t, 1)
	ctx := deadline(t)
	var evs []events.Event
	for i := range 50 {
		evs = append(evs, Telemetry("car", i))
	}
	unique := Telemetry("car", 50)
	unique.ID, unique.Schema = events.UniqueID(), 0
	evs = append(evs, unique)
	EnqueueAll(t, l, evs)
	all := Take(t, l.Follow(ctx, 0, events.Cursor{}), len(evs))
	for i := range evs {
		same(t, all[i], evs[i])
	}
	at := events.Cursor{Position: all[29].Position, ID: all[29].ID}
	if e := Take(t, l.Follow(ctx, 0, at), 1)[0]; e.Position.Seq != 31 {
		t.Fatalf("after 30 comes %v", e.Position)
	}
}

func followLive(t *testing.T, open Open) {
	l := open(t, 1)
	ctx, cancel := context.WithCancel(deadline(t))
	got := make(chan events.Event, 10)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for e, err := range l.Follow(ctx, 0, events.Cursor{}) {
			if err != nil {
				t.Error(err)
				return
			}
			got <- e
		}
	}()
	for i := range 3 {
		EnqueueAll(t, l, []events.Event{Telemetry("car", i)})
		select {
		case e := <-got:
			same(t, e, Telemetry("car", i))
		case <-ctx.Done():
			t.Fatal("a new event did not arrive")
		}
	}
	cancel()
	select {
	case <-ended:
	case <-time.After(patience):
		t.Fatal("follow goes on after its context ended")
	}
}

func followDiverged(t *testing.T, open Open) {
	l := open(t, 1)
	ctx := deadline(t)
	EnqueueAll(t, l, []events.Event{Telemetry("car", 0), Telemetry("car", 1)})
	at := func(seq uint64, id string, epoch uint32) events.Cursor {
		return events.Cursor{Position: events.Position{Epoch: epoch, Seq: seq}, ID: id}
	}
	good := Telemetry("car", 1).ID
	for name, cursor := range map[string]events.Cursor{
		"beyond the end": at(3, good, 1), "another event": at(2, Telemetry("car", 0).ID, 1), "another epoch": at(2, good, 2),
	} {
		var got error
		for _, err := range l.Follow(ctx, 0, cursor) {
			got = err
		}
		if !errors.Is(got, events.ErrDiverged) {
			t.Errorf("%s: %v", name, got)
		}
	}
}

// inspect: an audit reads what a follower reads, from where to where it likes.
func inspect(t *testing.T, open Open) {
	l, ok := open(t, 1).(events.Inspector)
	if !ok {
		t.Fatal("the log cannot be inspected")
	}
	ctx := deadline(t)
	if first, last, err := l.Extent(ctx, 0); err != nil || first.Seq != 0 || last.Seq != 0 {
		t.Fatalf("an empty partition reaches from %v to %v: %v", first, last, err)
	}
	var evs []events.Event
	for i := range 50 {
		evs = append(evs, Telemetry("car", i))
	}
	EnqueueAll(t, l, evs)
	if first, last, err := l.Extent(ctx, 0); err != nil || first.Seq != 1 || last.Seq != 50 {
		t.Fatalf("50 events reach from %v to %v: %v", first, last, err)
	}
	followed := Take(t, l.Follow(ctx, 0, events.Cursor{}), 50)
	for _, r := range [][2]uint64{{1, 50}, {0, 1 << 40}, {11, 20}, {50, 50}, {51, 60}, {7, 6}} {
		next := max(r[0], 1)
		for e, err := range l.Inspect(ctx, 0, r[0], r[1]) {
			if err != nil {
				t.Fatal(err)
			}
			if e.Position.Seq != next || !e.Received.Equal(followed[next-1].Received) {
				t.Fatalf("%v of %v at %v, want %d as it is followed", r, e.Position, e.Received, next)
			}
			same(t, e, evs[next-1])
			next++
		}
		if end := min(r[1], 50) + 1; r[0] < end && next != end {
			t.Errorf("from %d to %d ends before %d", r[0], r[1], next)
		}
	}
}

func refusals(t *testing.T, open Open) {
	l := open(t, 1)
	ctx := deadline(t)
	never := func(error) { t.Error("done called for a refused event") }
	for name, mend := range map[string]func(*events.Event){
		"no type":  func(e *events.Event) { e.Type = "" },
		"no id":    func(e *events.Event) { e.ID = "" },
		"bad id":   func(e *events.Event) { e.ID = "a b" },
		"long id":  func(e *events.Event) { e.ID = strings.Repeat("x", 65) },
		"no one":   func(e *events.Event) { e.Stream.ID = "" },
		"no kind":  func(e *events.Event) { e.Stream.Kind = "" },
		"too long": func(e *events.Event) { e.Stream.ID = strings.Repeat("x", 10000) },
		"a name":   func(e *events.Event) { e.Stream.Name = "x" },
	} {
		e := Telemetry("car", 0)
		mend(&e)
		if err := l.Enqueue(ctx, e, never); !errors.Is(err, events.ErrInvalid) {
			t.Errorf("%s: %v", name, err)
		}
	}
	big := Telemetry("car", 0)
	big.Payload = make([]byte, 64<<20)
	if err := l.Enqueue(ctx, big, never); !errors.Is(err, events.ErrTooLarge) {
		t.Errorf("64 MiB: %v", err)
	}
	huge := fact("car", "desired", 0)
	huge.Payload = big.Payload
	if _, err := l.Append(ctx, events.Any, huge); !errors.Is(err, events.ErrTooLarge) {
		t.Errorf("64 MiB: %v", err)
	}
	if _, err := l.Append(ctx, events.Any); !errors.Is(err, events.ErrInvalid) {
		t.Errorf("nothing: %v", err)
	}
	ended, cancel := context.WithCancel(ctx)
	cancel()
	if _, err := l.Append(ended, events.Any, fact("car", "desired", 0)); err == nil {
		t.Error("appended though the context had ended")
	}
}

// oddNames: whatever bytes an id has, it comes back and names one stream only.
func oddNames(t *testing.T, open Open) {
	l := open(t, 1)
	ctx := deadline(t)
	names := []string{"a.b", "a b", "*", ">", "$JS", "=", "=2E", "ä", "日本", "a\x00b", "\xff", "-_", "in.0", strings.Repeat("x", 120)}
	var evs []events.Event
	for i, name := range names {
		evs = append(evs, Telemetry(name, i))
		e := fact(name, "desired", i)
		e.Stream.Name = name
		if _, err := l.Append(ctx, events.Fresh, e); err != nil {
			t.Fatalf("%q: %v", name, err)
		}
		got := readAll(t, l, e.Stream, events.Latest)
		if len(got) != 1 {
			t.Fatalf("%q: %d events", name, len(got))
		}
		same(t, got[0], e)
	}
	EnqueueAll(t, l, evs)
	for i, e := range Take(t, l.Follow(ctx, 0, events.Cursor{}), len(evs)) {
		same(t, e, evs[i])
	}
	for i, name := range names {
		got := readAll(t, l, events.Stream{Kind: events.Telemetry, ID: name}, events.Latest)
		if len(got) != 1 {
			t.Fatalf("%q: %d events", name, len(got))
		}
		same(t, got[0], evs[i])
	}
}

func partitions(t *testing.T, open Open) {
	l := open(t, 4)
	if got := l.Partitions(); !slices.Equal(got, []uint16{0, 1, 2, 3, events.ControlPartition, events.DeadLetterPartition}) {
		t.Fatalf("partitions %v", got)
	}
	var evs []events.Event
	count := map[uint16]int{}
	for i := range 200 {
		e := Telemetry(fmt.Sprint("car-", i), i)
		count[events.PartitionOf(events.Slot(e.Stream.ID), 4)]++
		evs = append(evs, e)
	}
	EnqueueAll(t, l, evs)
	dead := events.Event{Stream: events.Stream{Kind: events.DeadLetter, ID: "car-1", Name: "x-0"}, Type: "position", ID: events.UniqueID(), Payload: []byte("{")}
	if _, err := l.Append(deadline(t), events.Fresh, dead); err != nil {
		t.Fatal(err)
	}
	if _, err := l.Append(deadline(t), events.Fresh, dead); err == nil {
		t.Fatal("a dead letter was stored twice")
	}
	same(t, Take(t, l.Follow(deadline(t), events.DeadLetterPartition, events.Cursor{}), 1)[0], dead)
	if got := readAll(t, l, events.Stream{Kind: events.DeadLetter, ID: "car-1"}, events.Latest); len(got) != 1 {
		t.Fatalf("dead letters of the device: %d", len(got))
	}
	for p := range uint16(4) {
		tail, err := l.Tail(deadline(t), p)
		if err != nil || tail.Seq != uint64(count[p]) || tail.Partition != p {
			t.Fatalf("partition %d: tail %v, %v, want %d", p, tail, err, count[p])
		}
		for _, e := range Take(t, l.Follow(deadline(t), p, events.Cursor{}), count[p]) {
			if e.Position.Partition != p {
				t.Fatalf("event of partition %v in %d", e.Position, p)
			}
		}
	}
}

func closing(t *testing.T, open Open) {
	l := open(t, 1)
	ctx := deadline(t)
	const n = 300
	results := make(chan error, n)
	for i := range n {
		if err := l.Enqueue(ctx, Telemetry("car", i), func(err error) { results <- err }); err != nil {
			t.Fatal(err)
		}
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if len(results) != n {
		t.Fatalf("%d of %d were told when Close returned", len(results), n)
	}
	for range n {
		if err := <-results; err != nil {
			t.Fatal(err)
		}
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if err := l.Enqueue(ctx, Telemetry("car", 1), func(error) { t.Error("done") }); !errors.Is(err, events.ErrClosed) {
		t.Fatalf("enqueue after close: %v", err)
	}
	if _, err := l.Append(ctx, events.Any, fact("car", "desired", 1)); !errors.Is(err, events.ErrClosed) {
		t.Fatalf("append after close: %v", err)
	}
}
