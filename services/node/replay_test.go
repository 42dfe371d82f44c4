package node

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/tachograph/tachograph/events"
	"github.com/tachograph/tachograph/projections"
	"github.com/tachograph/tachograph/services/replays"
)

// TestReplayNeedsRoom: a disk that fills up while tables and states are built anew
// ends that, says why, and goes on once there is room; devices do not notice.
func TestReplayNeedsRoom(t *testing.T) {
	const reserve = 48 << 20
	p := driveOnDisk(t, reserve)
	ballast, err := os.Create(filepath.Join(p.disk, "ballast"))
	if err != nil {
		t.Fatal(err)
	}
	defer ballast.Close()
	leave := func(bytes int64) {
		t.Helper()
		free, err := diskFree(p.disk)
		if err != nil {
			t.Fatal(err)
		}
		if free < bytes {
			t.Fatalf("%d bytes are free before anything was filled", free)
		}
		if err := syscall.Fallocate(int(ballast.Fd()), 0, 0, free-bytes); err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range []string{"columnar", "latest"} {
		p.request("POST", "/v1/replays/"+name+"?rate=100", "")
		within(t, time.Minute, "it builds", func() bool { s := p.replay(name); return s.Progress.Phase == "building" && s.State == replays.Running })
		leave(reserve * 3 / 2)
		within(t, time.Minute, "it ends", func() bool { return p.replay(name).State != replays.Running })
		if s := p.replay(name); s.State != replays.Failed || !strings.Contains(s.Error, "the disk of") || !strings.Contains(s.Error, "remedy") {
			t.Errorf("%+v", s)
		}
		p.send(10)
		p.await("SELECT count() FROM tacho.position", fmt.Sprint(p.sent))
		if out, err := p.tacho("replay", name, "--url", "http://"+p.HTTP, "--token", p.admin); err == nil || !strings.Contains(out, "the disk of") {
			t.Errorf("started on a full disk: %s", out)
		}
		if err := ballast.Truncate(0); err != nil {
			t.Fatal(err)
		}
		within(t, time.Minute, "room", func() bool {
			p.request("POST", "/v1/replays/"+name, "")
			for p.replay(name).State == replays.Running {
				time.Sleep(20 * time.Millisecond)
			}
			return p.replay(name).State == replays.Done
		})
		for _, r := range p.replay(name).Tables {
			if !r.Equal() {
				t.Errorf("%s: %+v", name, r)
			}
		}
		p.send(10)
		p.await("SELECT count() FROM tacho.position", fmt.Sprint(p.sent))
	}
}

// TestSchemaGone: an event whose schema nobody knows any more holds its projections
// up, and they say which it is; so does a replay, which can be called off.
func TestSchemaGone(t *testing.T) {
	t.Parallel()
	n := startNode(t, defaults(t))
	if _, err := n.auth.Add(t.Context(), "car-1"); err != nil {
		t.Fatal(err)
	}
	if err := store(t, n, "car-1", 1); err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	payload := []byte(`{"time":1700000009000,"speed":1}`)
	e := events.Event{Stream: events.Stream{Kind: events.Telemetry, ID: "car-1"}, Type: "position", Schema: 99, ID: events.DeriveID("car-1", "position", payload), Payload: payload}
	if err := n.appends.Enqueue(t.Context(), e, func(err error) { done <- err }); err != nil {
		t.Fatal(err)
	}
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	const says = "event 1.0.2 of car-1 waits: version 99 of schema position is not known here"
	held := func() (n1, n2 int) {
		for _, r := range n.runners {
			switch s := r.Status(); {
			case s.Partition == 0 && !s.CaughtUp && strings.Contains(s.LastError, says):
				n1++
			case s.CaughtUp && s.LastError == "":
				n2++
			}
		}
		return n1, n2
	}
	within(t, time.Minute, "both say so, and the others don't", func() bool { a, b := held(); return a == 2 && a+b == len(n.runners) })
	for _, name := range []string{"columnar", "latest"} { // shadows have no schema
		r := n.replays[name]
		if _, err := r.Start(projections.Order{Dry: true}); err != nil {
			t.Fatal(err)
		}
		within(t, time.Minute, name+" says so", func() bool { return strings.Contains(r.Status().Progress.Trouble, says) })
		if err := r.Cancel(t.Context()); err != nil || r.Status().State != replays.Cancelled {
			t.Errorf("%s: %v %+v", name, err, r.Status())
		}
	}
	if err := store(t, n, "car-1", 2); err != nil {
		t.Errorf("devices are not heard: %v", err)
	}
	awaitRows(t, n, "SELECT count() FROM tacho.position", "1")
}
