package jetlog

import (
	"errors"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"

	"github.com/tachograph/tachograph/events"
	"github.com/tachograph/tachograph/events/logtest"
)

// TestShorterBeneathReader: a reader lives through the end of its server, and
// the log that comes back lacks what was read last. Whether others have taken
// its places or not, the reader is told, and passes over nothing.
func TestShorterBeneathReader(t *testing.T) {
	for name, added := range map[string]int{"nothing added": 0, "fewer than are gone": 5, "as many": 20, "more": 50} {
		t.Run(name, func(t *testing.T) { t.Parallel(); shorterBeneathReader(t, added) })
		t.Run(name+", tapped", func(t *testing.T) { t.Parallel(); shorterBeneathReader(t, added, Tapped()) })
	}
}

func shorterBeneathReader(t *testing.T, added int, read ...nats.Option) {
	dir, short := t.TempDir(), filepath.Join(t.TempDir(), "short")
	serve := func(port int) *server.Server {
		t.Helper()
		s, err := server.NewServer(&server.Options{Host: "127.0.0.1", Port: port, JetStream: true, StoreDir: dir, NoLog: true, NoSigs: true})
		if err != nil {
			t.Fatal(err)
		}
		s.Start()
		if !s.ReadyForConnections(time.Minute) {
			t.Fatal("nats-server is not ready")
		}
		return s
	}
	end := func(s *server.Server) { s.Shutdown(); s.WaitForShutdown() }
	s := serve(server.RANDOM_PORT)
	port := s.Addr().(*net.TCPAddr).Port
	l := open(t, Config{Publish: connect(t, s), Read: connect(t, s, read...), Durability: OS})
	send := func(from, n int) {
		t.Helper()
		var all []events.Event
		for i := range n {
			all = append(all, logtest.Telemetry("car", from+i))
		}
		logtest.EnqueueAll(t, l, all)
	}
	send(0, 30)
	end(s)
	if err := os.CopyFS(short, os.DirFS(dir)); err != nil {
		t.Fatal(err)
	}
	s = serve(port)
	send(30, 20)

	got, ended := make(chan events.Position, 200), make(chan error, 1)
	go func() {
		for e, err := range l.Follow(t.Context(), 0, events.Cursor{}) {
			if err != nil {
				ended <- err
				return
			}
			got <- e.Position
		}
	}()
	for range 50 {
		<-got
	}
	end(s)
	if err := errors.Join(os.RemoveAll(filepath.Join(dir, "jetstream")), os.CopyFS(filepath.Join(dir, "jetstream"), os.DirFS(filepath.Join(short, "jetstream")))); err != nil {
		t.Fatal(err)
	}
	s = serve(port)
	defer func() { end(s) }()
	if added > 0 {
		send(1000, added)
	}
	select {
	case err := <-ended:
		if !errors.Is(err, events.ErrDiverged) {
			t.Errorf("the reader ended with %v", err)
		}
	case p := <-got:
		t.Errorf("the reader went on with %s", p)
	case <-time.After(time.Minute):
		t.Error("nobody told the reader")
	}
}
