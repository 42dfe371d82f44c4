package node

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/tachograph/tachograph/services/replays"
)

// TestReplayOnFullDisk: the disk is filled to its last byte at one blow while a
// replay of the tables builds. It ends and says why, devices are refused; with room
// again the live path goes on, and so does the replay, with what it had built,
// and finds nothing that differs.
func TestReplayOnFullDisk(t *testing.T) {
	t.Parallel()
	p := driveOnDisk(t, 48<<20)
	v := &victim{Node: &Node{addrs: p.Addresses}, t: t, token: p.token, admin: p.admin}
	state := func() replays.Status { t.Helper(); return p.replay("columnar") }
	p.request("POST", "/v1/replays/columnar?rate=100", "")
	within(t, time.Minute, "some of it is built", func() bool { return state().Progress.Phase == "building" && state().Progress.Done > 200 })

	ballast := filepath.Join(p.disk, "ballast")
	fill(t, ballast)
	within(t, time.Minute, "it ends", func() bool { return state().State != replays.Running })
	if s := state(); s.State != replays.Failed || !strings.Contains(s.Error, "the disk of") || !strings.Contains(s.Error, "MiB free") || !strings.Contains(s.Error, "remedy") {
		t.Errorf("%+v", s)
	}
	within(t, time.Minute, "devices are refused", func() bool {
		fill(t, ballast) // what ClickHouse left behind when it ended
		return p.status("/readyz") == 503
	})
	starve(t, ballast)
	if told := v.post(`{"time":1700009999000,"speed":1}`); told != "503 log_full" {
		t.Errorf("told %q", told)
	}
	if told := v.http("POST", "/v1/replays/columnar", v.admin, ""); told != "202" && told != "503 unavailable" { // ClickHouse may have ended at a write
		t.Errorf("told %q", told)
	}
	within(t, time.Minute, "nor can it be started", func() bool {
		s := state()
		return s.State == replays.Failed && strings.Contains(s.Error, "the disk of")
	})

	if err := os.Remove(ballast); err != nil {
		t.Fatal(err)
	}
	within(t, 2*time.Minute, "ready again", func() bool { return p.status("/readyz") == 200 })
	p.send(10)
	p.await("SELECT count(), uniqExact(_seq) FROM tacho.position", fmt.Sprintf("%d\t%[1]d", p.sent))
	p.request("POST", "/v1/replays/columnar?rate=1", "") // so that within a minute there is more than it can have read only if it goes on
	within(t, time.Minute, "what was built is there", func() bool { return state().Progress.Done > 100 })
	p.request("DELETE", "/v1/replays/columnar", "")
	p.request("POST", "/v1/replays/columnar", "")
	within(t, 2*time.Minute, "the replay is done", func() bool {
		s := state()
		if s.State == replays.Failed { // ClickHouse may not have seen yet that there is room
			p.request("POST", "/v1/replays/columnar", "")
		}
		return s.State == replays.Done
	})
	for _, r := range state().Tables {
		if !r.Equal() || r.Table == "position" && r.New != uint64(p.sent) {
			t.Errorf("%+v", r)
		}
	}
	p.send(10)
	p.await("SELECT count(), uniqExact(_seq) FROM tacho.position", fmt.Sprintf("%d\t%[1]d", p.sent))
	p.await("SELECT count(), uniqExact(_seq) FROM tacho.events WHERE kind = 'telemetry'", fmt.Sprintf("%d\t%[1]d", p.sent))
}
