package api

import (
	"strings"
	"testing"

	"github.com/tachograph/tachograph/events"
	"github.com/tachograph/tachograph/services/api/problem"
)

// purgeContract is TestContract's part about a log whose beginning was purged.
func purgeContract(f *fixture, refused func(call, problem.Code)) {
	f.t.Helper()
	tail, err := f.log.Tail(f.t.Context(), 0) // more than the replays before have read
	if err != nil {
		f.t.Fatal(err)
	}
	if _, err := f.log.Purge(f.t.Context(), tail); err != nil {
		f.t.Fatal(err)
	}
	f.answered(call{method: "GET", path: "/v1/log", token: "admin"}, 200, nil)
	for _, path := range []string{"columnar", "columnar/undo"} {
		refused(call{method: "POST", path: "/v1/replays/" + path, token: "admin"}, problem.HistoryTruncated)
	}
}

// TestPurgedEvents: what is left is read; who asks for what is gone is told where
// the log begins.
func TestPurgedEvents(t *testing.T) {
	f := newFixture(t)
	for range 5 {
		f.append("car-1", "position", `{"latitude":52.5}`)
	}
	if _, err := f.log.Purge(t.Context(), events.Position{Epoch: 1, Seq: 3}); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{"?device=car-1", "", "?after=1.0.3", "?device=car-1&after=1.0.3"} {
		got := f.answered(call{method: "GET", path: "/v1/events" + path, token: "admin"}, 200, nil)
		if lines := strings.Count(string(got.body), "\n"); lines != 2 || !strings.Contains(string(got.body), `"seq":4`) {
			t.Errorf("%q: %s", path, got.body)
		}
	}
	for _, path := range []string{"?after=1.0.1", "?device=car-1&after=1.0.1"} {
		f.refused(call{method: "GET", path: "/v1/events" + path, token: "admin"}, problem.HistoryTruncated)
	}
	var log struct {
		Partitions []struct{ Purged uint64 }
	}
	f.answered(call{method: "GET", path: "/v1/log", token: "admin"}, 200, &log)
	if len(log.Partitions) != 1 || log.Partitions[0].Purged != 3 {
		t.Errorf("%+v", log)
	}
}
