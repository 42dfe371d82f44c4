package shadows_test

import (
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"

	"github.com/tachograph/tachograph/events"
	"github.com/tachograph/tachograph/events/memlog"
	"github.com/tachograph/tachograph/projections/shadow"
	"github.com/tachograph/tachograph/services/gateway/gatewaytest"
	"github.com/tachograph/tachograph/services/shadows"
)

// TestWriters: 50 writers of one shadow, half of them in another process, each
// counts its own key up by what it reads: no update is lost, whether it names a
// version and is told of conflicts, or not.
func TestWriters(t *testing.T) {
	log := jetLog(t)
	here, there := open(t, log, shadows.Limits{}), open(t, log, shadows.Limits{})
	run(t, here.Run, there.Run)
	const writers, times = 50, 20
	var all sync.WaitGroup
	for w := range writers {
		all.Go(func() {
			s := []*shadows.Shadows{here, there}[w%2]
			for n := 1; n <= times; {
				version := ""
				if w%5 == 0 {
					doc, _ := s.Get("car-1", "")
					version = fmt.Sprintf(`,"version":%d`, doc.Version)
				}
				_, err := do(t, s, "car-1", "", fmt.Sprintf(`{"state":{"desired":{"w%d":%d}}%s}`, w, n, version))
				var refused *shadow.Error
				switch {
				case err == nil:
					n++
				case errors.As(err, &refused) && refused.Code == 409:
				default:
					t.Error(err)
					return
				}
			}
		})
	}
	all.Wait()
	want := shadow.Document{}
	n := uint64(0)
	for c, err := range here.History(t.Context(), "car-1", "", events.Position{}) {
		if err != nil {
			t.Fatal(err)
		}
		if n++; c.Document.Version != n {
			t.Fatalf("version %d is number %d", c.Document.Version, n)
		}
		want = c.Document
	}
	if n != writers*times {
		t.Errorf("%d updates accepted, %d in the log", writers*times, n)
	}
	for w := range writers {
		if doc := string(want.Get(0, "")); !strings.Contains(doc, fmt.Sprintf(`"w%d":%d`, w, times)) {
			t.Errorf("writer %d's last update is lost: %s", w, doc)
		}
	}
	for _, s := range []*shadows.Shadows{here, there, open(t, log, shadows.Limits{})} {
		gatewaytest.Eventually(t, "all processes have the same document", func() bool {
			doc, _ := s.Get("car-1", "")
			return string(doc.Get(0, "")) == string(want.Get(0, ""))
		})
	}
}

// TestUnknownOutcome: an append whose answer was lost is not made twice if it
// happened, and made again if not.
func TestUnknownOutcome(t *testing.T) {
	fault := make(chan error, 100)
	log := memlog.New(memlog.Options{Partitions: 1, Fault: func(op string) error {
		if op != "append" {
			return nil
		}
		select {
		case err := <-fault:
			return err
		default:
			return nil
		}
	}})
	s := open(t, log, shadows.Limits{})
	run(t, s.Run)
	fault <- events.ErrUnknown
	if o, err := do(t, s, "car-1", "", `{"state":{"desired":{"a":1}}}`); err != nil || o.Position.Seq == 0 || o.Document.Version != 1 {
		t.Errorf("%+v %v", o, err)
	}
	if doc, _ := s.Get("car-1", ""); doc.Version != 1 {
		t.Errorf("version %d", doc.Version)
	}
	fault <- errors.New("no disk")
	if _, err := do(t, s, "car-1", "", `{"state":{"desired":{"a":2}}}`); err == nil {
		t.Error("a failed append was accepted")
	}
	if o, err := do(t, s, "car-1", "", `{"state":{"desired":{"a":3}}}`); err != nil || o.Document.Version != 2 {
		t.Errorf("%+v %v", o, err)
	}
}

// TestFlood: a shadow takes what it can and refuses the rest at once; what it
// accepted is there.
func TestFlood(t *testing.T) {
	s := open(t, jetLog(t), shadows.Limits{})
	run(t, s.Run)
	var accepted, refused int
	var mu sync.Mutex
	var all sync.WaitGroup
	for i := range 10_000 {
		req, _ := shadow.ParseRequest(fmt.Appendf(nil, `{"state":{"reported":{"n%d":%d}}}`, i%7, i), shadow.Limits{})
		all.Add(1)
		s.Ask(shadows.Wish{Device: "car-1", Request: req, By: shadows.ByDevice}, func(o shadows.Outcome, err error) {
			defer all.Done()
			mu.Lock()
			defer mu.Unlock()
			var no *shadow.Error
			switch {
			case err == nil:
				accepted++
			case errors.As(err, &no) && no.Code == 429:
				refused++
			default:
				t.Error(err)
			}
		})
	}
	all.Wait()
	doc, _ := s.Get("car-1", "")
	if doc.Version != uint64(accepted) || accepted+refused != 10_000 || accepted == 0 || refused == 0 {
		t.Errorf("version %d, %d accepted, %d refused", doc.Version, accepted, refused)
	}
}
