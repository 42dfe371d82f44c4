package latest

import (
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/tachograph/tachograph/events"
	"github.com/tachograph/tachograph/projections"
)

// breaks is a defect of the code: it panics at a device's events that contain a text.
func breaks(e *events.Event) {
	if strings.Contains(string(e.Payload), "broken") {
		panic("index out of range")
	}
}

// TestBreakdown: the code panics at some events. The projection of that partition
// stops there and names the event, having folded what comes before; or it parks
// them, and every state is what it would be if they could not be decoded. So does
// a replay, which reports them.
func TestBreakdown(t *testing.T) {
	s := newSite(t)
	s.sendRandom(rand.New(rand.NewPCG(7, 8)), 500)
	s.send("car", "moon", 0, `{"x":1}`)
	bad := s.send("car", "moon", 0, `{"x":3,"broken":true}`)
	s.send("car", "moon", 0, `{"x":2}`)
	s.send("car", "moon", 0, `{"x":4,"broken":true}`)
	s.sendRandom(rand.New(rand.NewPCG(9, 8)), 500)

	cfg := s.config()
	cfg.Trip = breaks
	p, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	err = p.Run(t.Context())
	if b, ok := projections.Broken(err); !ok || b.ID != bad.ID || b.Device != "car" || b.Position.Seq != 502 || !strings.Contains(err.Error(), "index out of range") || !strings.Contains(err.Error(), "remedy") {
		t.Fatalf("%v", err)
	}
	if st := p.Status(); st.CaughtUp || !strings.Contains(st.LastError, bad.ID) {
		t.Errorf("it has stopped, and says %+v", st)
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
	s.serves(serving)
	if got := parked.In(projections.Progress{}); got.Parked != 2 || got.Breakdowns[0].ID != bad.ID || serving.Status().Parked < 2 {
		t.Errorf("%+v", got)
	}
	if doc := s.documents()["car"]; !strings.Contains(doc, `"events":4`) || !strings.Contains(doc, `{"x":2}`) {
		t.Errorf("%s", doc)
	}

	replay := &Replay{JS: s.js, Serving: cfg, Partitions: []uint16{0}, Pause: serving.Pause}
	var last projections.Progress
	watch := func(p projections.Progress) { last = p }
	if _, err := replay.Build(t.Context(), projections.Order{Dry: true}, watch); err == nil {
		t.Error("a replay that shall stop goes on")
	} else if b, ok := projections.Broken(err); !ok || b.Position.Seq != 502 {
		t.Errorf("%v", err)
	}
	reports, err := replay.Build(t.Context(), projections.Order{Dry: true, Park: true}, watch)
	if err != nil || len(reports) != 1 || !reports[0].Equal() || last.Parked != 2 || len(last.Breakdowns) != 2 {
		t.Errorf("%+v, %+v, %v", reports, last, err)
	}
	// The code is mended: the replay finds what was parked.
	replay.Serving.Trip = nil
	reports, err = replay.Build(t.Context(), projections.Order{}, watch)
	if err != nil || reports[0].Changed > 1 || last.Parked != 0 {
		t.Errorf("%+v, %+v, %v", reports, last, err)
	}
}
