package retention

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/tachograph/tachograph/events"
	"github.com/tachograph/tachograph/events/logtest"
	"github.com/tachograph/tachograph/events/memlog"
)

var _ Log = (*memlog.Log)(nil)

// TestJanitor: what goes is the least of what is old enough, and of what every
// holder has; who holds the rest is told.
func TestJanitor(t *testing.T) {
	begin := time.Date(2026, 11, 1, 0, 0, 0, 0, time.UTC)
	now := begin
	log := memlog.New(memlog.Options{Now: func() time.Time { return now }})
	defer log.Close()
	for i := range 100 { // one a minute
		logtest.EnqueueAll(t, log, []events.Event{logtest.Telemetry("car", i)})
		now = now.Add(time.Minute)
	}
	archive, latest := uint64(0), uint64(0)
	epoch := uint32(1)
	var down, dirty error
	synced := 0
	holder := func(at *uint64, err *error) func(context.Context, uint16) (events.Position, error) {
		return func(_ context.Context, p uint16) (events.Position, error) {
			return events.Position{Epoch: epoch, Partition: p, Seq: *at}, *err
		}
	}
	none := error(nil)
	j := New(Config{
		Log: log, Keep: 30 * time.Minute, Logger: slog.New(slog.DiscardHandler),
		Holders: []Holder{
			{"archive", holder(&archive, &down)}, {"latest", holder(&latest, &none)},
			{"idle", func(_ context.Context, p uint16) (events.Position, error) { return Everything(p), nil }},
		},
		Sync: func() error { synced++; return dirty },
	})
	expect := func(at time.Time, purged, due uint64, heldBy, why string) {
		t.Helper()
		_ = j.Pass(t.Context(), at) // what went wrong is in the status
		all, err := j.Status(t.Context())
		if err != nil || len(all) != 1 {
			t.Fatal(all, err)
		}
		if p := all[0]; p.Purged != purged || p.Due != due || p.HeldBy != heldBy || !strings.Contains(p.Why, why) {
			t.Errorf("%+v; want purged %d, due %d, held by %q", p, purged, due, heldBy)
		}
	}
	minute := func(n int) time.Time { return begin.Add(time.Duration(n) * time.Minute) }

	expect(minute(10), 0, 0, "", "")
	expect(minute(50), 0, 20, "archive", "up to 1.0.0 only")
	archive = 90
	expect(minute(50), 0, 20, "latest", "up to 1.0.0 only")
	if synced != 0 {
		t.Error("synced for nothing")
	}
	latest = 7
	expect(minute(50), 7, 20, "latest", "1.0.7")
	latest = 95
	dirty = errors.New("no room")
	expect(minute(50), 7, 20, "disk", "no room")
	dirty = nil
	expect(minute(50), 20, 20, "", "")
	down = errors.New("not reachable")
	expect(minute(60), 20, 30, "archive", "not reachable")
	down, epoch = nil, 0
	expect(minute(60), 20, 30, "archive", "epoch")
	epoch = 1
	expect(minute(1000), 90, 100, "archive", "1.0.90")
	if all, _ := j.Status(t.Context()); all[0].Held() != 10 {
		t.Errorf("%d are held", all[0].Held())
	}

	now = minute(1000)
	for _, keep := range []time.Duration{0, time.Hour} {
		off := New(Config{Log: log, Keep: keep, Logger: slog.New(slog.DiscardHandler)})
		if err := off.Pass(t.Context(), minute(1)); err != nil {
			t.Error(err)
		}
	}
	if b, err := log.Bounds(t.Context(), 0); err != nil || fmt.Sprint(b.Oldest, b.Newest) != "1.0.91 1.0.100" {
		t.Error(b, err)
	}
}
