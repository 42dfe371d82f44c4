package jetlog

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/tachograph/tachograph/events"
	"github.com/tachograph/tachograph/events/logtest"
)

// divide closes a log, splits it and opens it anew.
func divide(t *testing.T, log events.Log, n int) (events.Log, error) {
	l := log.(*Log)
	cfg := l.cfg
	cfg.Partitions = n
	if _, err := Split(t.Context(), cfg); err != nil {
		return l, err
	}
	if err := l.Close(); err != nil {
		return l, err
	}
	if _, err := Open(t.Context(), l.cfg); err == nil || !strings.Contains(err.Error(), fmt.Sprintf("--partitions %d", n)) {
		t.Errorf("opened with the number of before: %v", err)
	}
	return open(t, cfg), nil
}

func TestSplit(t *testing.T) {
	for _, way := range []struct {
		name       string
		durability Durability
		here       bool
	}{{"Disk", Disk, true}, {"DiskElsewhere", Disk, false}, {"Fast", Fast, true}} {
		t.Run(way.name, func(t *testing.T) {
			if testing.Short() && way.name != "Disk" {
				t.Skip("reads as Disk does; TestLog writes: make test runs this")
			}
			t.Parallel()
			logtest.Split(t, func(t *testing.T, partitions int) events.Log {
				dir := t.TempDir()
				s := startServer(t, dir, !way.here)
				cfg := Config{Publish: connect(t, s, nats.InProcessServer(s)), Read: connect(t, s, Tapped()), Durability: way.durability, Partitions: partitions}
				if way.here {
					cfg.StoreDir = dir
				}
				return open(t, cfg)
			}, divide)
		})
	}
}

// TestSplitInterrupted: a split that ends before any of its steps is refused to
// whoever does not want it, and finished by the next who does.
func TestSplitInterrupted(t *testing.T) {
	errCut := errors.New("cut off")
	for step := 0; ; step++ {
		dir := t.TempDir()
		s := startServer(t, dir, false)
		cfg := Config{Publish: connect(t, s), StoreDir: dir, Partitions: 2}
		l := open(t, cfg)
		var want []events.Event
		for n := range 60 {
			want = append(want, logtest.Telemetry(fmt.Sprint("car-", n%20), n/20))
		}
		logtest.EnqueueAll(t, l, want)
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
		cut := cfg
		cut.Partitions = 6
		left := step
		cut.Fault = func(string) error {
			if left--; left < 0 {
				return errCut
			}
			return nil
		}
		synced := 0
		cut.Sync = func() error { synced++; return nil }
		_, err := Split(t.Context(), cut)
		if err != nil && !errors.Is(err, errCut) {
			t.Fatal(err)
		}
		if synced != step-max(0, left) {
			t.Errorf("step %d: synced %d times", step, synced)
		}
		whole := err == nil
		again := cut
		again.Fault, again.Partitions = nil, 4
		if step > 0 && !whole {
			for _, n := range []int{2, 4} {
				other := again
				other.Partitions = n
				if _, err := Open(t.Context(), other); err == nil || !strings.Contains(err.Error(), "--partitions 6") {
					t.Errorf("step %d: opened with %d: %v", step, n, err)
				}
			}
			if _, err := Split(t.Context(), again); err == nil || !strings.Contains(err.Error(), "--partitions 6") {
				t.Errorf("step %d: split otherwise: %v", step, err)
			}
		}
		again.Partitions = 6
		if step == 0 || step%2 == 1 { // else Open finishes it
			if _, err := Split(t.Context(), again); err != nil {
				t.Fatal(err)
			}
		}
		l = open(t, again)
		logtest.EnqueueAll(t, l, []events.Event{logtest.Telemetry("car-3", 3)})
		got := 0
		for n := range 20 {
			next := 0
			for e, err := range l.Read(t.Context(), events.Stream{Kind: events.Telemetry, ID: fmt.Sprint("car-", n)}, events.Latest) {
				if err != nil {
					t.Fatal(err)
				}
				if e.ID != logtest.Telemetry(e.Stream.ID, next).ID {
					t.Errorf("step %d: event %d of car-%d is %s", step, next, n, e.Payload)
				}
				next++
				got++
			}
		}
		if got != 61 {
			t.Errorf("step %d: %d events, want 61", step, got)
		}
		if whole {
			if step < 8 {
				t.Errorf("the split has only %d steps", step)
			}
			return
		}
	}
}

// TestSplitUnderWriters: processes that go on writing while the log is split, and
// after it, never have an acknowledged event missing or twice, nor a device's order
// broken; what the log takes elsewhere is refused to them, not held up.
func TestSplitUnderWriters(t *testing.T) {
	for _, here := range []bool{true, false} {
		t.Run(fmt.Sprint("here=", here), func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			s := startServer(t, dir, !here)
			cfg := Config{Publish: connect(t, s), Partitions: 1, Window: 200}
			if here {
				cfg.StoreDir = dir
			}
			old := open(t, cfg)
			ctx, stop := context.WithTimeout(t.Context(), 60*time.Second)
			defer stop()
			var mu sync.Mutex
			acked, refused := map[string][]int{}, 0
			var split atomic.Bool
			var writers sync.WaitGroup
			for d := range 16 {
				device := fmt.Sprint("car-", d)
				writers.Go(func() {
					after := 0
					for n := 0; after < 20; n++ {
						if split.Load() {
							after++
						}
						done := make(chan error, 1)
						err := old.Enqueue(ctx, logtest.Telemetry(device, n), func(err error) { done <- err })
						if err == nil {
							select {
							case err = <-done:
							case <-ctx.Done():
								t.Errorf("%s waits for ever", device)
								return
							}
						}
						mu.Lock()
						if err == nil {
							acked[device] = append(acked[device], n)
						} else if refused++; !errors.Is(err, events.ErrClosed) || !strings.Contains(err.Error(), "--partitions 4") {
							t.Errorf("refused with %v", err)
						}
						mu.Unlock()
					}
				})
			}
			time.Sleep(300 * time.Millisecond) // in the middle of it
			to := cfg
			to.Partitions = 4
			if _, err := Split(ctx, to); err != nil {
				t.Fatal(err)
			}
			split.Store(true)
			writers.Wait()
			l := open(t, to)
			for d := range 16 {
				device := fmt.Sprint("car-", d)
				there := map[string]int{}
				last := -1
				for e, err := range l.Read(ctx, events.Stream{Kind: events.Telemetry, ID: device}, events.Latest) {
					if err != nil {
						t.Fatal(err)
					}
					there[e.ID]++
					var n int
					if _, err := fmt.Sscanf(string(e.Payload[bytes.LastIndexByte(e.Payload, ':')+1:]), "%d}", &n); err != nil || n <= last {
						t.Errorf("%s: %s after %d: %v", device, e.Payload, last, err)
					}
					last = n
				}
				if len(acked[device]) == 0 {
					t.Errorf("%s was never acknowledged", device)
				}
				for _, n := range acked[device] {
					if there[logtest.Telemetry(device, n).ID] != 1 {
						t.Errorf("%s: acknowledged event %d is there %d times", device, n, there[logtest.Telemetry(device, n).ID])
					}
				}
			}
			if refused == 0 {
				t.Error("nothing was refused")
			}
			kept := 0
			for d := range 16 {
				if l.layout.PartitionOf(events.Slot(fmt.Sprint("car-", d))) == 0 {
					kept++
					if n := acked[fmt.Sprint("car-", d)]; n[len(n)-1] < len(n)-1 {
						t.Errorf("car-%d stays in its partition and was refused", d)
					}
				}
			}
			if kept == 0 || kept == 16 {
				t.Fatalf("%d devices stay", kept)
			}
		})
	}
}

// TestNarrow: what is written while a stream is narrowed is in the log once.
func TestNarrow(t *testing.T) {
	dir := t.TempDir()
	l := open(t, Config{Publish: connect(t, startServer(t, dir, false)), StoreDir: dir, Partitions: 1, Durability: Fast})
	layout, err := numbers([]int{1}).Split(4, nowhere)
	if err != nil {
		t.Fatal(err)
	}
	device := "car-0"
	for n := 0; layout.PartitionOf(events.Slot(device)) != 0; n++ {
		device = fmt.Sprint("car-", n)
	}
	var written []string
	progress, ended := make(chan struct{}), make(chan struct{})
	ctx, stop := context.WithCancel(t.Context())
	var writer sync.WaitGroup
	writer.Go(func() { // one at a time, so that each is a batch of its own: the server would notice a message of a longer one twice
		defer close(ended)
		for n := 0; ctx.Err() == nil; n++ {
			e, done := logtest.Telemetry(device, n), make(chan error, 1)
			err := l.Enqueue(t.Context(), e, func(err error) { done <- err })
			if err == nil {
				err = <-done
			}
			if err != nil {
				t.Error(err)
				return
			}
			written = append(written, e.ID)
			select {
			case progress <- struct{}{}:
			default:
			}
		}
	})
	for range 40 {
		for range 5 {
			select {
			case <-progress:
			case <-ended:
			}
		}
		for _, change := range []func() error{
			func() error { return l.closeForSplit(t.Context(), layout, 0) },
			func() error { return l.narrow(t.Context(), layout, "1,4", 0) },
			func() error { return l.closeForSplit(t.Context(), l.layout, 0) },
			func() error { return l.narrow(t.Context(), l.layout, "1", 0) },
		} {
			if err := change(); err != nil {
				t.Fatal(err)
			}
		}
	}
	stop()
	writer.Wait()
	var got []string
	for e, err := range l.Read(t.Context(), events.Stream{Kind: events.Telemetry, ID: device}, events.Latest) {
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, e.ID)
	}
	if !slices.Equal(got, written) {
		t.Errorf("%d events are there, want %d in their order", len(got), len(written))
	}
}

// TestSplitRefilled: a log that is being refilled is split by nobody but who refills
// it, at the seams that it had.
func TestSplitRefilled(t *testing.T) {
	dir := t.TempDir()
	s := startServer(t, dir, false)
	cfg := Config{Publish: connect(t, s), StoreDir: dir, Partitions: 1, Refill: true}
	if counts, err := Numbers(t.Context(), cfg); err != nil || counts != nil {
		t.Errorf("no log has the partitions %v, %v", counts, err)
	}
	l := open(t, cfg)
	if err := l.BeginRefill(t.Context(), "archive"); err != nil {
		t.Fatal(err)
	}
	if err := l.Refill(t.Context(), events.Position{Epoch: 1, Seq: 40}, after(archived(0), -1), func(uint64) {}); err != nil {
		t.Fatal(err)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	other := cfg
	other.Refill, other.Partitions = false, 4
	if _, err := Split(t.Context(), other); err == nil || !strings.Contains(err.Error(), "import") {
		t.Errorf("split while it is refilled: %v", err)
	}
	cfg.Partitions, cfg.Seams = 4, map[uint16]events.Seam{1: {Seq: 11}, 2: {Seq: 12}, 3: {Seq: 12}}
	errCut := errors.New("cut off")
	cfg.Fault = func(step string) error {
		if step == "make TELEMETRY_2" {
			return errCut
		}
		return nil
	}
	if _, err := Split(t.Context(), cfg); !errors.Is(err, errCut) {
		t.Fatal(err)
	}
	if _, err := Open(t.Context(), other); err == nil || !strings.Contains(err.Error(), "import") {
		t.Errorf("opened while it is refilled: %v", err)
	}
	cfg.Fault = nil
	if counts, err := Numbers(t.Context(), cfg); err != nil || fmt.Sprint(counts) != "[1 4]" {
		t.Errorf("the log has the partitions %v, %v", counts, err)
	}
	l = open(t, cfg)
	for p, seam := range cfg.Seams {
		if got, ok := l.Layout().Seam(p); !ok || got != seam {
			t.Errorf("seam of partition %d: %+v, want %+v", p, got, seam)
		}
		if l.epochs[p] != 2 {
			t.Errorf("partition %d is of epoch %d", p, l.epochs[p])
		}
	}
}
