package latest

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/tachograph/tachograph/events"
	"github.com/tachograph/tachograph/schemas"
)

// TestPast: at any moment of a device's random history (late, repeated, corrupt
// and future samples) the look by snapshots is the whole fold, by arrival and by
// the device's clock, and answers what a plain search through the events does.
func TestPast(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	s := newSite(t)
	if _, _, err := s.catalog.Add(t.Context(), "speed", schemas.Source{Format: schemas.FormatJSONSchema, Text: `{"type":"object","properties":{"v":{"type":"number"}}}`}); err != nil {
		t.Fatal(err)
	}
	snapshots, err := OpenSnapshots(t.Context(), s.js, 1, 0)
	if err != nil {
		t.Fatal(err)
	}
	cfg := s.config()
	cfg.Snapshots = snapshots
	p, stop := s.start(cfg)

	base := time.Now().Add(-time.Hour)
	type sample struct {
		sent time.Time
		v    int
	}
	var all []sample
	const n = 3*snapshotEvery + 100
	for i := range n {
		sent := base.Add(time.Duration(i)*100*time.Millisecond - time.Duration(random.IntN(60_000))*time.Millisecond).Truncate(time.Millisecond)
		payload := fmt.Sprintf(`{"time":%d,"v":%d}`, sent.UnixMilli(), i)
		switch random.IntN(50) {
		case 0:
			payload = `{"v":`
		case 1:
			payload = fmt.Sprintf(`{"time":%d,"v":%d}`, sent.Add(48*time.Hour).UnixMilli(), i)
		default:
			all = append(all, sample{sent: sent, v: i})
		}
		s.send("car-1", "speed", 1, payload)
		s.send("car-2", "speed", 1, payload)
		if i%1000 == 0 {
			s.caughtUp(p) // so that snapshots have different times
		}
	}
	s.caughtUp(p)
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	var evs []events.Event
	for e, err := range s.log.Read(t.Context(), events.Stream{Kind: events.Telemetry, ID: "car-1"}, events.Latest) {
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
		if err := past.Verify(t.Context(), "car-1", at); err != nil {
			t.Fatal(err)
		}
		state, err := past.At(t.Context(), "car-1", at)
		want := 0
		for _, e := range evs {
			if !e.Received.After(time.UnixMicro(at.UnixMicro())) {
				want++
			}
		}
		if err != nil || state.Events != uint64(want) {
			t.Fatalf("%d events by %s, want %d: %v", state.Events, at, want, err)
		}
		_, found, err := snapshots.before(t.Context(), "car-1", at)
		if used = used || found; err != nil {
			t.Fatal(err)
		}

		sent := base.Add(time.Duration(random.IntN(n*100)) * time.Millisecond)
		short, err1 := past.ByDevice(t.Context(), "car-1", sent)
		long, err2 := whole.ByDevice(t.Context(), "car-1", sent)
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
	before, err := past.At(t.Context(), "car-1", evs[0].Received.Add(-time.Minute))
	if err != nil || before.Events != 0 {
		t.Errorf("before its first event: %+v %v", before, err)
	}
}
