package columnar

import (
	"fmt"
	"iter"
	"math/rand/v2"
	"testing"

	"github.com/tachograph/tachograph/events"
	"github.com/tachograph/tachograph/events/memlog"
)

// TestRepeatsOverSeams: in a log that is split twice, what a device sends again is
// recognised as in one that never was, wherever a writer begins in between.
func TestRepeatsOverSeams(t *testing.T) {
	rng := rand.New(rand.NewPCG(3, 4))
	log := memlog.New(memlog.Options{})
	t.Cleanup(func() { log.Close() })
	type known struct{ ids []string }
	devices := map[string]*known{}
	repeat := map[events.Position]bool{} // by slow code
	send := func(n int) {
		t.Helper()
		for range n {
			device := fmt.Sprint("car-", rng.IntN(10))
			d := devices[device]
			if d == nil {
				d = &known{}
				devices[device] = d
			}
			e := events.Event{Stream: events.Stream{Kind: events.Telemetry, ID: device}, Type: "position", ID: events.UniqueID(), Payload: []byte("{}")}
			if n := len(d.ids); n > 0 && rng.IntN(3) == 0 {
				e.ID = d.ids[max(0, n-1-rng.IntN(200))] // some of them were too long ago
			}
			if err := log.Enqueue(t.Context(), e, func(error) {}); err != nil {
				t.Fatal(err)
			}
			p := log.Layout().Of(e.Stream)
			at, err := log.Tail(t.Context(), p)
			if err != nil {
				t.Fatal(err)
			}
			for _, id := range d.ids[max(0, len(d.ids)-repeatIDs):] {
				repeat[at] = repeat[at] || id == e.ID
			}
			d.ids = append(d.ids, e.ID)
		}
	}
	send(4000)
	for _, n := range []int{4, 8} {
		if err := log.Split(n); err != nil {
			t.Fatal(err)
		}
		send(2000)
	}
	read := func(partition uint16, after, upTo uint64) iter.Seq2[events.Event, error] {
		from := events.Cursor{Position: events.Position{Partition: partition, Seq: after}}
		if b, err := log.Bounds(t.Context(), partition); err == nil {
			from.Position.Epoch = b.Oldest.Epoch
		}
		return log.Scan(t.Context(), partition, from, upTo, events.Filter{})
	}
	judged, repeats := 0, 0
	for _, p := range log.Partitions()[:8] {
		tail, err := log.Tail(t.Context(), p)
		if err != nil {
			t.Fatal(err)
		}
		r := newRepeats()
		if err := r.begin(t.Context(), log, p, 0, read); err != nil {
			t.Fatal(err)
		}
		for e, err := range read(p, 0, tail.Seq) {
			if err != nil {
				t.Fatal(err)
			}
			if got := r.fold(&e); got != repeat[e.Position] {
				t.Fatalf("%s of %s: repeat %t, want %t", e.Position, e.Stream.ID, got, repeat[e.Position])
			}
			if judged++; repeat[e.Position] {
				repeats++
			}
		}
	}
	if judged != 8000 || repeats < 1000 {
		t.Errorf("%d events, %d repeats", judged, repeats)
	}
	if _, split := log.Layout().Seam(7); !split {
		t.Fatal("it was not split")
	}
	// Positions count on over a seam, and so does how far back is looked.
	far := newRepeats()
	asked := map[uint16]uint64{}
	way := log.Layout().Way(7)
	if err := far.begin(t.Context(), log, 7, repeatReach-1, func(p uint16, after, upTo uint64) iter.Seq2[events.Event, error] {
		asked[p] = upTo - after
		return read(p, after, upTo)
	}); err != nil {
		t.Fatal(err)
	}
	if last := way[len(way)-2]; len(asked) != 1 || asked[last.Partition] != 1 {
		t.Errorf("asked for %v of %v", asked, way)
	}
	if err := far.begin(t.Context(), log, 7, repeatReach, func(uint16, uint64, uint64) iter.Seq2[events.Event, error] {
		t.Error("asked for what is too long ago")
		return func(func(events.Event, error) bool) {}
	}); err != nil {
		t.Fatal(err)
	}
}
