package latest

import (
	"context"
	"encoding/json"
	"fmt"
	"iter"
	"math"
	"math/rand/v2"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/tachograph/tachograph/events"
)

// TestSpan: what a stretch knows is the same in whichever order its samples come,
// written down and read back in between, and is what it says: the earliest late
// samples, and the earliest of all others.
func TestSpan(t *testing.T) {
	r := rand.New(rand.NewPCG(8, 1))
	for range 300 {
		begin := int64(1000)
		all := make([]late, r.IntN(40))
		for i := range all {
			all[i] = late{order: 900 + r.Int64N(150), seq: 10 + r.Uint64N(30)}
		}
		want := span{after: 9, low: nothing, begin: begin}
		earliest := slices.Clone(all)
		slices.SortFunc(earliest, late.compare)
		for _, l := range slices.Compact(earliest) {
			if l.order < begin && len(want.late) < maxLate {
				want.late = append(want.late, l)
			} else {
				want.low = min(want.low, l.order)
			}
		}
		for range 3 {
			s := State{Device: "car-1"}
			for i := range s.stretches {
				s.stretches[i] = span{after: 9, low: nothing, begin: begin}
			}
			r.Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
			for _, l := range all {
				s.measured(l.order, l.seq)
				if r.IntN(5) == 0 {
					var back State
					if err := json.Unmarshal(s.appendKept(nil), &back); err != nil {
						t.Fatal(err)
					}
					s = back
				}
			}
			for i, got := range s.stretches {
				if got.after != want.after || got.low != want.low || got.begin != want.begin || !slices.Equal(got.late, want.late) {
					t.Fatalf("level %d: %+v, want %+v", i, got, want)
				}
			}
		}
	}
}

// TestOldSpan: what an older release has kept is read as it meant it and kept so, and
// an older release reads of ours what it knows.
func TestOldSpan(t *testing.T) {
	for text, want := range map[string]span{
		"[]":                    {after: unknown, low: nothing, begin: math.MinInt64},
		"[7]":                   {after: 7, low: nothing, begin: math.MinInt64},
		"[7,100]":               {after: 7, low: 100, begin: math.MinInt64},
		"[7,100,90]":            {after: 7, low: 100, begin: 90},
		"[7,80,90,100,10,2]":    {after: 7, low: 100, begin: 90, late: []late{{80, 9}}},
		"[7,80,90,85,10,2,6,1]": {after: 7, low: 85, begin: 90, late: []late{{80, 9}, {84, 8}}},
	} {
		var s State
		document := fmt.Sprintf(`{"device":"car-1","messages":{},"stretches":[%s]}`, text)
		if err := json.Unmarshal([]byte(document), &s); err != nil {
			t.Fatal(err)
		}
		got := s.stretches[0]
		if got.after != want.after || got.low != want.low || got.begin != want.begin || !slices.Equal(got.late, want.late) {
			t.Errorf("%s is %+v, want %+v", text, got, want)
		}
		if again := string(got.append(nil)); again != text {
			t.Errorf("%s is written as %s", text, again)
		}
	}
}

// A countingLog counts the events that are read of single streams, and the readings.
type countingLog struct {
	events.Log
	events, readings *atomic.Int64
}

func (c countingLog) ReadAfter(ctx context.Context, s events.Stream, after, upTo events.Position) iter.Seq2[events.Event, error] {
	return func(yield func(events.Event, error) bool) {
		c.readings.Add(1)
		for e, err := range c.Log.ReadAfter(ctx, s, after, upTo) {
			c.events.Add(1)
			if !yield(e, err) {
				return
			}
		}
	}
}

// TestSingles: samples that came long after they were measured are read one by one,
// and the stretches in which they came are not folded.
func TestSingles(t *testing.T) {
	s, cfg := newPastSite(t)
	snapshots := cfg.Snapshots
	p, stop := s.start(cfg)
	const n = 20*snapshotEvery + 500
	base, old := time.Now().Add(-2*time.Hour).Truncate(time.Second), 0
	for i := range n {
		at, signal := i, "v"
		if i%1999 == 1998 { // about one in each stretch; as old as the device
			at, signal = old, "w"
			old += 3
		}
		s.send("car-1", "speed", 1, fmt.Sprintf(`{"time":%d,%q:%d}`, base.Add(time.Duration(at)*100*time.Millisecond).UnixMilli(), signal, i))
	}
	s.caughtUp(p)
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	var read, readings atomic.Int64
	past := &Past{Log: countingLog{s.log, &read, &readings}, Catalog: s.catalog, Snapshots: snapshots, Logger: s.logger}
	whole := &Past{Log: s.log, Catalog: s.catalog}
	for _, i := range []int{0, 10, 100, 5000, 3 * snapshotEvery, n / 2, n - 1} {
		at := base.Add(time.Duration(i) * 100 * time.Millisecond)
		read.Store(0)
		readings.Store(0)
		short, err1 := past.ByDevice(t.Context(), "car-1", at)
		long, err2 := whole.ByDevice(t.Context(), "car-1", at)
		if err1 != nil || err2 != nil || string(short.AppendJSON(nil)) != string(long.AppendJSON(nil)) {
			t.Fatalf("%v %v\n%s\n%s", err1, err2, short.AppendJSON(nil), long.AppendJSON(nil))
		}
		if most := int64(3*snapshotEvery + 30); read.Load() > most || readings.Load() > 30 {
			t.Errorf("at sample %d of %d: %d events in %d readings", i, n, read.Load(), readings.Load())
		}
	}
	// What came late is in the answer though its stretch was passed over.
	state, err := past.ByDevice(t.Context(), "car-1", base.Add(1500*time.Millisecond))
	w, ok := state.Signal("speed", "w")
	if want := base.Add(1500 * time.Millisecond); err != nil || !ok || !w.Time.Equal(want.UTC()) {
		t.Errorf("%+v, want the one of %s: %v", w, want, err)
	}
}
