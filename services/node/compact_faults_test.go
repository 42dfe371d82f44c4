package node

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"os"
	"os/exec"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"

	"github.com/tachograph/tachograph/events"
)

// TestCompactKilled: a process that is killed with -9 at any step of compacting leaves
// a log of which every fold is what it was; the next pass brings it to its end.
func TestCompactKilled(t *testing.T) {
	if testing.Short() {
		t.Skip("long, and the race detector sees the same in TestCompactByTwo: make test runs this")
	}
	t.Parallel()
	config := func(dir string) Config {
		c := defaults(t, "--keep-control", "24h", "--role", "gateway,api")
		c.Data, c.LogBytes, c.least, c.settle = dir, 20<<20, 1, time.Nanosecond
		return c
	}
	if step := os.Getenv("TACHO_TEST_DIE_AT"); step != "" { // the process that is killed
		c := config(os.Getenv("TACHO_TEST_DATA"))
		c.fault = func(at string) error {
			if at == step {
				_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
			}
			return nil
		}
		n := startNode(t, c)
		if err := n.compactor.Pass(t.Context(), time.Now().Add(25*time.Hour)); err != nil {
			t.Fatal(err)
		}
		t.Fatal("it was not killed")
	}
	dir := t.TempDir()
	n := startNode(t, config(dir))
	devices := []string{"car-1", "roams"}
	for _, device := range devices {
		if _, err := n.auth.Add(t.Context(), device); err != nil {
			t.Fatal(err)
		}
	}
	comesAndGoes(t, n.log, "roams", 7000, false)
	changes(t, n, "car-1", "", 20)
	must(t, n, "POST", "/v1/devices/car-1/commands", `{"name":"park","policy":"until_deadline","deadline":"1h"}`)
	want := foldedAnew(t, n.log, devices...)
	stopNode(t, n)
	for _, step := range []string{"base fact", "base stored", "base synced", "base pointed at"} {
		child := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestCompactKilled$", "-test.timeout=5m")
		child.Env = append(os.Environ(), "TACHO_TEST_DIE_AT="+step, "TACHO_TEST_DATA="+dir)
		out, err := child.CombinedOutput()
		if status, ok := child.ProcessState.Sys().(syscall.WaitStatus); !ok || status.Signal() != syscall.SIGKILL {
			t.Fatalf("%s: %v: %s", step, err, out)
		}
		n := startNode(t, config(dir))
		same(t, "killed at "+step, foldedAnew(t, n.log, devices...), want)
		b, err := n.log.Bounds(t.Context(), events.ControlPartition)
		if err != nil || b.Oldest.Seq != 1 {
			t.Fatalf("killed at %s: %+v, %v", step, b, err)
		}
		base, err := n.log.Base(t.Context())
		if err != nil || (base.UpTo.Seq > 0) != (step == "base pointed at") {
			t.Fatalf("killed at %s: %+v, %v", step, base, err)
		}
		stopNode(t, n)
	}
	n = startNode(t, config(dir))
	if err := n.compactor.Pass(t.Context(), time.Now().Add(25*time.Hour)); err != nil {
		t.Fatal(err)
	}
	b, err := n.log.Bounds(t.Context(), events.ControlPartition)
	if err != nil || b.Oldest.Seq == 1 {
		t.Fatalf("%+v, %v", b, err)
	}
	same(t, "purged", foldedAnew(t, n.log, devices...), want)
	stopNode(t, n)
	n = startNode(t, config(dir))
	same(t, "purged and started anew", foldedAnew(t, n.log, devices...), want)
}

// recorded is a log of which somebody has written down every control fact.
type recorded struct {
	events.Log
	all []events.Event
}

func (r *recorded) Base(context.Context) (events.Base, error) { return events.Base{}, nil }

func (r *recorded) Bounds(context.Context, uint16) (events.Bounds, error) {
	return events.Bounds{Newest: r.all[len(r.all)-1].Position}, nil
}

func (r *recorded) Follow(ctx context.Context, _ uint16, after events.Cursor) iter.Seq2[events.Event, error] {
	return func(yield func(events.Event, error) bool) {
		for _, e := range r.all {
			if e.Position.Seq > after.Position.Seq && !yield(e, nil) {
				return
			}
		}
		<-ctx.Done()
	}
}

// TestCompactByTwo: two processes on an existing NATS compact again and again, at the
// same time, while both write: every fold that begins is what the whole history makes.
func TestCompactByTwo(t *testing.T) {
	t.Parallel()
	s := startServer(t, server.Options{Port: -1, StoreDir: t.TempDir()})
	var nodes [2]*Node
	for i := range nodes {
		c := defaults(t, "--nats", s.ClientURL(), "--keep-control", "24h", "--role", "gateway,api")
		c.least, c.settle = 1, time.Second
		nodes[i] = startNode(t, c)
	}
	devices := []string{"car-0", "car-1", "roams"}
	for i, device := range devices[:2] {
		if _, err := nodes[i].auth.Add(t.Context(), device); err != nil {
			t.Fatal(err)
		}
	}
	whole, stop := &recorded{Log: nodes[0].log}, make(chan struct{})
	following, end := context.WithCancel(t.Context())
	defer end()
	heard := make(chan events.Event)
	go func() {
		defer close(heard)
		for e, err := range nodes[0].log.Follow(following, events.ControlPartition, events.Cursor{}) {
			if err != nil {
				if following.Err() == nil {
					t.Error(err)
				}
				return
			}
			heard <- e
		}
	}()
	var work, writers sync.WaitGroup
	won, began := [2]atomic.Int32{}, time.Now()
	for i, n := range nodes {
		writers.Go(func() {
			for round := 0; time.Since(began) < 8*time.Second; round++ {
				changes(t, n, devices[i], "", 3)
				changes(t, n, "car-0", "?name=both", 1) // the two are in each other's way
				if round%32 == i {
					must(t, n, "POST", "/v1/devices/"+devices[i]+"/commands", `{"name":"park","policy":"until_deadline","deadline":"1h"}`)
				}
			}
		})
		work.Go(func() {
			for {
				before, err := n.log.Base(t.Context())
				if err == nil {
					err = n.compactor.Pass(t.Context(), time.Now().Add(25*time.Hour))
				}
				if after, _ := n.log.Base(t.Context()); after.Revision > before.Revision {
					won[i].Add(1)
				}
				var slow *events.TruncatedError // the other has purged what this one was reading
				if err != nil && !errors.As(err, &slow) {
					t.Error(err)
				}
				select {
				case <-stop:
					return
				case <-time.After(time.Duration(200+i) * time.Millisecond):
				}
			}
		})
	}
	comesAndGoes(t, nodes[0].log, "roams", 300, false)
	ended := make(chan struct{})
	go func() { writers.Wait(); close(stop); work.Wait(); close(ended) }()
	for done := false; !done; {
		select {
		case e := <-heard:
			whole.all = append(whole.all, e)
		case <-ended:
			done = true
		}
	}
	newest, err := events.Newest(t.Context(), nodes[0].log, events.ControlPartition)
	if err != nil {
		t.Fatal(err)
	}
	for whole.all[len(whole.all)-1].Position.Seq < newest.Seq {
		whole.all = append(whole.all, <-heard)
	}
	want := foldedAnew(t, whole, devices...)
	for i, n := range nodes {
		same(t, fmt.Sprint("process ", i), foldedAnew(t, n.log, devices...), want)
	}
	base, err := nodes[1].log.Base(t.Context())
	oldest, err2 := nodes[0].log.Bounds(t.Context(), events.ControlPartition)
	if err != nil || err2 != nil || base.UpTo.Seq < newest.Seq/2 || oldest.Oldest.Seq == 1 || won[0].Load()+won[1].Load() < 4 {
		t.Fatalf("up to %s of %s, from %s, %d and %d bases: %v", base.UpTo, newest, oldest.Oldest, won[0].Load(), won[1].Load(), err)
	}
	t.Logf("%d facts, of which %d are kept; %d and %d bases", newest.Seq, base.Facts, won[0].Load(), won[1].Load())
}
