package node

import (
	"context"
	"errors"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/tachograph/tachograph/events"
	"github.com/tachograph/tachograph/events/memlog"
)

// TestDiskGuard: telemetry is refused first, control facts later, both with an
// error that devices are told of; when there is room again, all go on.
func TestDiskGuard(t *testing.T) {
	log := memlog.New(memlog.Options{})
	var free atomic.Int64
	free.Store(1000)
	g := newDiskGuard(log, t.TempDir(), 100)
	g.look = func(string) (int64, error) { return free.Load(), nil }
	told := make(chan string, 8)
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- g.watch(ctx, func(why string) { told <- why }) }()

	telemetry := func() error {
		done := make(chan error, 1)
		e := events.Event{Stream: events.Stream{Kind: events.Telemetry, ID: "car-1"}, Type: "position", ID: events.UniqueID(), Payload: []byte("{}")}
		if err := g.Enqueue(t.Context(), e, func(err error) { done <- err }); err != nil {
			return err
		}
		return <-done
	}
	fact := func() error {
		_, err := g.Append(t.Context(), events.Any, events.Event{Stream: events.Stream{Kind: events.Registry, ID: "car-1"}, Type: "added", ID: events.UniqueID(), Payload: []byte("{}")})
		return err
	}
	for _, step := range []struct {
		free                int64
		telemetry, fact     error
		refusal, nothingNew bool
	}{
		{free: 99, telemetry: events.ErrFull, refusal: true},
		{free: 49, telemetry: events.ErrFull, fact: events.ErrFull, nothingNew: true},
		{free: 60, telemetry: events.ErrFull, nothingNew: true},
		{free: 200},
	} {
		free.Store(step.free)
		if step.nothingNew {
			time.Sleep(3 * diskLook)
		} else {
			select {
			case why := <-told:
				if (why != "") != step.refusal || step.refusal && !strings.Contains(why, "--log-reserve") {
					t.Fatalf("%d free: told %q", step.free, why)
				}
			case <-time.After(10 * time.Second):
				t.Fatalf("%d free: nobody was told", step.free)
			}
		}
		if err := telemetry(); !errors.Is(err, step.telemetry) {
			t.Errorf("%d free: telemetry: %v", step.free, err)
		}
		if err := fact(); !errors.Is(err, step.fact) {
			t.Errorf("%d free: fact: %v", step.free, err)
		}
	}
	cancel()
	if err := <-ended; err != nil || len(told) > 0 {
		t.Fatal(err, len(told))
	}
}
