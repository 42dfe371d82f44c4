package latest

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/tachograph/tachograph/events"
	"github.com/tachograph/tachograph/schemas"
)

// newPastSite is a site whose devices send "speed", of the signals v and w, and a
// projection's configuration there with snapshots for looks at the past.
func newPastSite(t *testing.T) (*site, Config) {
	t.Helper()
	s := newSite(t)
	if _, _, err := s.catalog.Add(t.Context(), "speed", schemas.Source{Format: schemas.FormatJSONSchema, Text: `{"type":"object","properties":{"v":{"type":"number"},"w":{"type":"number"}}}`}); err != nil {
		t.Fatal(err)
	}
	cfg := s.config()
	var err error
	if cfg.Snapshots, err = OpenSnapshots(t.Context(), s.js, 1, 0); err != nil {
		t.Fatal(err)
	}
	return s, cfg
}

// TestPast: at any moment of a device's random history (late, repeated, corrupt
// and future samples) the look by snapshots is the whole fold, by arrival and by
// the device's clock, and answers what a plain search through the events does; also
// where the log was split before the first snapshot, or after it.
func TestPast(t *testing.T) {
	for _, split := range []int{700, 0, 3 * snapshotEvery / 2} {
		t.Run(fmt.Sprint("split at ", split), func(t *testing.T) {
			if testing.Short() && split != 700 {
				t.Skip("long, and the goroutines do the same: make test runs this")
			}
			testPast(t, split)
		})
	}
}

func testPast(t *testing.T, split int) {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	s, cfg := newPastSite(t)
	snapshots := cfg.Snapshots
	p, stop := s.start(cfg)
	folds := []*Projection{p}
	stops := []func() error{stop}
	caughtUp := func() {
		t.Helper()
		for _, p := range folds {
			s.caughtUp(p)
		}
	}

	base := time.Now().Add(-time.Hour)
	type sample struct {
		sent time.Time
		v    int
	}
	var all []sample
	const n = 3*snapshotEvery + 100
	for i := range n {
		sent := base.Add(time.Duration(i)*100*time.Millisecond - time.Duration(random.IntN(60_000))*time.Millisecond).Truncate(time.Millisecond)
		if random.IntN(400) == 0 { // one that waited for long
			sent = base.Add(time.Duration(random.IntN(i+1)) * 100 * time.Millisecond).Truncate(time.Millisecond)
		}
		payload := fmt.Sprintf(`{"time":%d,"v":%d}`, sent.UnixMilli(), i)
		switch random.IntN(50) {
		case 0:
			payload = `{"v":`
		case 1:
			payload = fmt.Sprintf(`{"time":%d,"v":%d}`, sent.Add(48*time.Hour).UnixMilli(), i)
		default:
			all = append(all, sample{sent: sent, v: i})
		}
		s.send("car-7", "speed", 1, payload)
		s.send("car-2", "speed", 1, payload)
		if i%1000 == 0 {
			caughtUp() // so that snapshots have different times
		}
		if i+1 == split {
			if err := s.log.Split(4); err != nil {
				t.Fatal(err)
			}
			for partition := range uint16(3) {
				cfg.Partition = partition + 1
				p, stop := s.start(cfg)
				folds, stops = append(folds, p), append(stops, stop)
			}
			if s.log.Layout().Of(events.Stream{Kind: events.Telemetry, ID: "car-7"}) == 0 {
				t.Fatal("it stays where it was")
			}
		}
	}
	caughtUp()
	for _, stop := range stops {
		if err := stop(); err != nil {
			t.Fatal(err)
		}
	}
	var evs []events.Event
	for e, err := range s.log.Read(t.Context(), events.Stream{Kind: events.Telemetry, ID: "car-7"}, events.Latest) {
		if err != nil {
			t.Fatal(err)
		}
		evs = append(evs, e)
	}
	past := &Past{Log: s.log, Catalog: s.catalog, Snapshots: snapshots, Logger: s.logger}
	whole := &Past{Log: s.log, Catalog: s.catalog}
	used := false
	for range 40 {
		at := evs[random.IntN(n)].Received
		if err := past.Verify(t.Context(), "car-7", at); err != nil {
			t.Fatal(err)
		}
		state, err := past.At(t.Context(), "car-7", at)
		want := 0
		for _, e := range evs {
			if e.Received.UnixMicro() <= at.UnixMicro() { // as exact as a state's own time
				want++
			}
		}
		if err != nil || state.Events != uint64(want) {
			t.Fatalf("%d events by %s, want %d: %v", state.Events, at, want, err)
		}
		shelf, err := snapshots.of(t.Context(), "car-7")
		if err != nil {
			t.Fatal(err)
		}
		_, found, err := shelf.last(t.Context(), func(s *State) bool { return !s.Received.After(at) })
		if used = used || found > 0; err != nil {
			t.Fatal(err)
		}

		sent := base.Add(time.Duration(random.IntN(n*100)) * time.Millisecond)
		short, err1 := past.ByDevice(t.Context(), "car-7", sent)
		long, err2 := whole.ByDevice(t.Context(), "car-7", sent)
		if err1 != nil || err2 != nil || string(short.AppendJSON(nil)) != string(long.AppendJSON(nil)) {
			t.Fatalf("%v %v\n%s\n%s", err1, err2, short.AppendJSON(nil), long.AppendJSON(nil))
		}
		var newest *sample
		for i := range all {
			if c := &all[i]; !c.sent.After(sent) && (newest == nil || !c.sent.Before(newest.sent)) {
				newest = c
			}
		}
		if v, ok := short.Signal("speed", "v"); newest != nil && (!ok || string(v.Value) != fmt.Sprint(newest.v)) {
			t.Fatalf("by the device's clock at %s: %s, want %d", sent, v.Value, newest.v)
		}
	}
	if !used {
		t.Error("no look used a snapshot")
	}
	before, err := past.At(t.Context(), "car-7", evs[0].Received.Add(-time.Minute))
	if err != nil || before.Events != 0 {
		t.Errorf("before its first event: %+v %v", before, err)
	}
}
