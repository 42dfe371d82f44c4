package jetlog

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"

	"github.com/tachograph/tachograph/events"
	"github.com/tachograph/tachograph/events/logtest"
)

// A disk remembers which bytes of which block file were synced: what a file
// held when an fsync of it began is safe once that fsync has ended.
type disk struct {
	mu     sync.Mutex
	begun  map[string]int64
	synced map[string]int64
}

func (d *disk) before(_ string, files []string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, f := range files {
		if info, err := os.Stat(f); err == nil {
			d.begun[f] = info.Size()
		}
	}
}

func (d *disk) after(_ string, files []string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, f := range files {
		d.synced[f] = max(d.synced[f], d.begun[f])
	}
}

// pull copies a store as a power failure would leave it: of every block only
// what was synced, and nothing of the files that the server rebuilds.
func (d *disk) pull(t *testing.T, from, to string) {
	t.Helper()
	d.mu.Lock()
	defer d.mu.Unlock()
	err := filepath.WalkDir(from, func(path string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(from, path)
		if err != nil {
			return err
		}
		target := filepath.Join(to, rel)
		switch {
		case e.IsDir():
			if e.Name() == "obs" {
				return fs.SkipDir
			}
			return os.MkdirAll(target, 0o750)
		case strings.HasSuffix(path, ".blk"):
			b, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			n := min(d.synced[path], int64(len(b)))
			if n == 0 {
				return nil
			}
			return os.WriteFile(target, b[:n], 0o640)
		case strings.HasPrefix(e.Name(), "meta."):
			b, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			return os.WriteFile(target, b, 0o640)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

// TestPowerFailure acknowledges events under load, pulls the plug at random
// moments, and finds every event that was acknowledged by then, byte for byte,
// in a log that has nothing but what was synced.
func TestPowerFailure(t *testing.T) {
	runs := 4
	if testing.Short() {
		runs = 1
	}
	for run := range runs {
		t.Run(fmt.Sprint(run), func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			s := startServer(t, dir, false)
			d := &disk{begun: map[string]int64{}, synced: map[string]int64{}}
			l := open(t, Config{
				Publish: connect(t, s, nats.InProcessServer(s)), Read: connect(t, s), StoreDir: dir, BeforeSync: d.before, AfterSync: d.after,
			})
			var mu sync.Mutex
			acked := map[string]int{}
			ctx, cancel := context.WithCancel(t.Context())
			var wg sync.WaitGroup
			for w := range 4 {
				wg.Go(func() {
					for i := 0; ctx.Err() == nil; i++ {
						device := fmt.Sprintf("car-%d", w)
						e := logtest.Telemetry(device, i)
						e.Payload = append(e.Payload, strings.Repeat(" ", 200*(run+1))...)
						e.ID = events.DeriveID(device, e.Type, e.Payload)
						err := l.Enqueue(ctx, e, func(err error) {
							if err == nil {
								mu.Lock()
								acked[device+"/"+e.ID]++
								mu.Unlock()
							}
						})
						if err != nil {
							return
						}
					}
				})
			}
			control, err := l.Append(t.Context(), events.Fresh, events.Event{
				Stream: events.Stream{Kind: events.Shadow, ID: "car"}, Type: "desired", ID: events.UniqueID(), Payload: []byte("{}")})
			if err != nil {
				t.Fatal(err)
			}
			promised := map[string]int{}
			for deadline := time.Now().Add(time.Minute); ; time.Sleep(time.Millisecond) {
				mu.Lock()
				if len(acked) >= 150+1700*run {
					for k, n := range acked {
						promised[k] = n
					}
				}
				mu.Unlock()
				if len(promised) > 0 || time.Now().After(deadline) {
					break
				}
			}
			pulled := t.TempDir()
			d.pull(t, dir, pulled)
			cancel()
			wg.Wait()
			if len(promised) < 100 {
				t.Fatalf("only %d events were acknowledged", len(promised))
			}

			s2 := startServer(t, pulled, false)
			l2 := open(t, Config{Publish: connect(t, s2), StoreDir: pulled})
			tail, err := l2.Tail(t.Context(), 0)
			if err != nil {
				t.Fatal(err)
			}
			for _, e := range logtest.Take(t, l2.Follow(t.Context(), 0, events.Cursor{}), int(tail.Seq)) {
				delete(promised, e.Stream.ID+"/"+e.ID) // the id is derived from the bytes that were read
			}
			if len(promised) > 0 {
				t.Fatalf("%d acknowledged events are gone", len(promised))
			}
			if tail, err := l2.Tail(t.Context(), events.ControlPartition); err != nil || tail.Seq != control.Seq {
				t.Fatalf("the control log ends at %v, %v; %v was acknowledged", tail, err, control)
			}
		})
	}
}

// TestNothingIsSaidBeforeTheSync holds an fsync up: until it ends, nobody is told.
func TestNothingIsSaidBeforeTheSync(t *testing.T) {
	dir := t.TempDir()
	s := startServer(t, dir, false)
	hold, entered := make(chan struct{}), make(chan struct{}, 64)
	l := open(t, Config{Publish: connect(t, s), StoreDir: dir, BeforeSync: func(stream string, _ []string) {
		if stream == "TELEMETRY_0" {
			entered <- struct{}{}
			<-hold
		}
	}})
	told := make(chan error, 1)
	if err := l.Enqueue(t.Context(), logtest.Telemetry("car", 1), func(err error) { told <- err }); err != nil {
		t.Fatal(err)
	}
	<-entered
	if tail, err := l.Tail(t.Context(), 0); err != nil || tail.Seq != 1 {
		t.Fatalf("it should be in the log by now: %v, %v", tail, err)
	}
	select {
	case <-told:
		t.Fatal("told before the sync ended")
	case <-time.After(50 * time.Millisecond):
	}
	close(hold)
	if err := <-told; err != nil {
		t.Fatal(err)
	}
}

// TestServerComesAndGoes restarts the server under load on the same port: every
// event is acknowledged in the end, and none is in the log twice.
func TestServerComesAndGoes(t *testing.T) {
	dir := t.TempDir()
	s := startServer(t, dir, false)
	port := s.Addr().String()
	nc := connect(t, s)
	l := open(t, Config{Publish: nc, StoreDir: dir})
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	const n = 6000
	var wg sync.WaitGroup
	errs := make(chan error, n)
	wg.Add(n)
	restarted := make(chan *server.Server, 1)
	go func() {
		time.Sleep(30 * time.Millisecond)
		for range 3 {
			s.Shutdown()
			s.WaitForShutdown()
			time.Sleep(100 * time.Millisecond)
			s = restart(t, dir, port)
			time.Sleep(200 * time.Millisecond)
		}
		restarted <- s
	}()
	for i := range n {
		if err := l.Enqueue(ctx, logtest.Telemetry("car", i), func(err error) { errs <- err; wg.Done() }); err != nil {
			t.Fatal(err)
		}
		if i%20 == 0 {
			time.Sleep(3 * time.Millisecond)
		}
	}
	wg.Wait()
	<-restarted
	for range n {
		if err := <-errs; err != nil {
			t.Fatal(err)
		}
	}
	tail, err := l.Tail(ctx, 0)
	if err != nil || tail.Seq != n {
		t.Fatalf("the log has %v events, %v; %d were acknowledged once each", tail, err, n)
	}
	seen := map[string]bool{}
	for _, e := range logtest.Take(t, l.Follow(ctx, 0, events.Cursor{}), n) {
		if seen[e.ID] {
			t.Fatalf("%s is there twice", e.ID)
		}
		seen[e.ID] = true
	}
}

func restart(t *testing.T, dir, addr string) *server.Server {
	_, port, _ := strings.Cut(addr, ":")
	var n int
	fmt.Sscan(port, &n)
	s, err := server.NewServer(&server.Options{Host: "127.0.0.1", Port: n, JetStream: true, StoreDir: dir, NoLog: true, NoSigs: true, MaxPayload: 8 << 20})
	if err != nil {
		t.Error(err)
		return nil
	}
	s.Start()
	if !s.ReadyForConnections(20 * time.Second) {
		t.Error("nats-server is not back")
	}
	t.Cleanup(func() { s.Shutdown(); s.WaitForShutdown() })
	return s
}

// TestFullLogRefuses: a full stream refuses with ErrFull and forgets nothing.
func TestFullLogRefuses(t *testing.T) {
	dir := t.TempDir()
	s := startServer(t, dir, false)
	l := open(t, Config{Publish: connect(t, s), StoreDir: dir, MaxBytes: 64 << 10})
	results := make(chan error, 2000)
	for i := range 2000 {
		if err := l.Enqueue(t.Context(), logtest.Telemetry("car", i), func(err error) { results <- err }); err != nil {
			t.Fatal(err)
		}
	}
	stored := 0
	for range 2000 {
		switch err := <-results; {
		case err == nil:
			stored++
		case !errors.Is(err, events.ErrFull):
			t.Fatal(err)
		}
	}
	tail, err := l.Tail(t.Context(), 0)
	if err != nil || stored == 0 || stored == 2000 || tail.Seq != uint64(stored) {
		t.Fatalf("%d acknowledged, the log has %v, %v", stored, tail, err)
	}
}
