package columnar

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/tachograph/tachograph/events"
	"github.com/tachograph/tachograph/projections"
)

// TestBreakdown: the code panics at some events. The writer of that partition stops
// and names the first; or it parks them as dead letters, and everything else is in
// the tables once. So does a replay, which reports them.
func TestBreakdown(t *testing.T) {
	long(t)
	breaks := func(e *events.Event) {
		if strings.Contains(string(e.Payload), "666") {
			panic("index out of range")
		}
	}
	b := newBench(t)
	for i := range 100 {
		speed := i
		if i == 50 || i == 53 {
			speed = 666000 + i
		}
		b.send("car", "position", fmt.Sprintf(`{"time":%d,"speed":%d}`, 1700000000000+i, speed))
	}
	cfg := Config{Log: b.log, Catalog: b.catalog, Server: b.server, MaxAge: 20 * time.Millisecond, RollUpEvery: 20 * time.Millisecond, Trip: breaks}
	w, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	err = w.Run(t.Context())
	if broken, ok := projections.Broken(err); !ok || broken.Position.Seq != 51 || broken.Device != "car" || !strings.Contains(err.Error(), "remedy") {
		t.Fatalf("%v", err)
	}
	if s := w.Status(); s.CaughtUp || !strings.Contains(s.LastError, "index out of range") {
		t.Errorf("it has stopped, and says %+v", s)
	}

	var parked projections.Casualties
	cfg.OnPanic = projections.OnPanic{Park: true, Tell: parked.Add}
	serving, err := projections.NewRestartable(func() (projections.Runner, error) { return New(cfg) })
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- serving.Run(t.Context()) }()
	t.Cleanup(func() {
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	for deadline := time.Now().Add(3 * time.Minute); serving.Status().Position.Seq < 100; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%+v", serving.Status())
		}
	}
	if p := parked.In(projections.Progress{}); p.Parked != 2 || p.Breakdowns[1].Position.Seq != 54 {
		t.Errorf("%+v", p)
	}
	b.expect("SELECT count(), uniqExact(_seq), max(speed) FROM tacho.position", "(98,98,99)")
	b.expect("SELECT count(), uniqExact(_seq), countIf(repeat) FROM tacho.events", "(100,100,0)")
	b.expect("SELECT _seq, reason FROM tacho.dead_letters ORDER BY _seq", "(51,'panic') (54,'panic')")

	// An audit parks them as well; once the code is mended, it tells what a replay would mend.
	audit := func(trip func(*events.Event)) []Difference {
		cfg := cfg
		cfg.Trip = trip
		report, err := (&Audit{Log: b.log, Writer: cfg}).Run(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if report.Events != 100 {
			t.Errorf("%d events audited", report.Events)
		}
		return report.Differences
	}
	if d := audit(breaks); len(d) > 0 {
		t.Errorf("%+v", d)
	}
	kinds := map[string]int{}
	for _, d := range audit(nil) {
		kinds[d.Table+" "+string(d.Kind)]++
	}
	if fmt.Sprint(kinds) != "map[dead_letters extra_row:2 events altered_row:2 position missing_row:2]" {
		t.Errorf("%v", kinds)
	}

	replay := &Replay{Writer: cfg, Partitions: []uint16{0}, Pause: serving.Pause}
	if err := replay.Check(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := replay.Build(t.Context(), projections.Order{Dry: true}, silent); err == nil {
		t.Error("a replay that shall stop goes on")
	} else if broken, ok := projections.Broken(err); !ok || broken.Position.Seq != 51 {
		t.Errorf("%v", err)
	}
	var last projections.Progress
	reports, err := replay.Build(t.Context(), projections.Order{Dry: true, Park: true}, func(p projections.Progress) { last = p })
	if err != nil || last.Parked != 2 {
		t.Errorf("%+v, %v", last, err)
	}
	for _, r := range reports {
		if !r.Equal() {
			t.Errorf("%+v", r)
		}
	}
}
