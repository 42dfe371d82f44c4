package jetlog

import (
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"

	"github.com/tachograph/tachograph/events"
	"github.com/tachograph/tachograph/events/logtest"
)

// startServer runs a real nats-server with JetStream on files in dir.
func startServer(t testing.TB, dir string, syncAlways bool) *server.Server {
	t.Helper()
	s, err := server.NewServer(&server.Options{
		Host: "127.0.0.1", Port: -1, JetStream: true, StoreDir: dir, NoLog: true, NoSigs: true,
		SyncAlways: syncAlways, MaxPayload: 8 << 20,
	})
	if err != nil {
		t.Fatal(err)
	}
	s.Start()
	if !s.ReadyForConnections(20 * time.Second) {
		t.Fatal("nats-server is not ready")
	}
	t.Cleanup(func() { s.Shutdown(); s.WaitForShutdown() })
	return s
}

func connect(t testing.TB, s *server.Server, opts ...nats.Option) *nats.Conn {
	t.Helper()
	opts = append(opts, nats.ReconnectBufSize(-1), nats.MaxReconnects(-1), nats.ReconnectWait(20*time.Millisecond))
	nc, err := nats.Connect(s.ClientURL(), opts...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	return nc
}

func open(t testing.TB, cfg Config) *Log {
	t.Helper()
	l, err := Open(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l
}

func TestLog(t *testing.T) {
	for _, way := range []struct {
		name       string
		durability Durability
		here       bool // the server's files are ours to sync
		read       []nats.Option
	}{
		{"Disk", Disk, true, nil}, {"DiskElsewhere", Disk, false, nil}, {"OS", OS, true, nil}, {"Fast", Fast, true, nil},
		{"Tapped", OS, true, []nats.Option{Tapped()}},
	} {
		t.Run(way.name, func(t *testing.T) {
			if testing.Short() && way.durability != Disk && way.read == nil {
				t.Skip("as Disk, but for what it waits for: make test runs this")
			}
			t.Parallel()
			logtest.Run(t, func(t *testing.T, partitions int) events.Log {
				dir := t.TempDir()
				s := startServer(t, dir, !way.here)
				cfg := Config{Publish: connect(t, s, nats.InProcessServer(s)), Read: connect(t, s, way.read...), Durability: way.durability, Partitions: partitions}
				if way.here {
					cfg.StoreDir = dir
				}
				return open(t, cfg)
			})
		})
	}
}

// TestReadsLeaveNothing: a reader is gone when its read has ended. A server has
// room for so many.
func TestReadsLeaveNothing(t *testing.T) {
	nc := connect(t, startServer(t, t.TempDir(), false))
	l := open(t, Config{Publish: nc, Read: nc, Durability: OS})
	stream := events.Stream{Kind: events.Registry, ID: "car-1"}
	if _, err := l.Append(t.Context(), events.Any, events.Event{Stream: stream, Type: "added", ID: events.UniqueID(), Payload: []byte("{}")}); err != nil {
		t.Fatal(err)
	}
	for range 50 {
		for _, err := range l.Read(t.Context(), stream, events.Latest) {
			if err != nil {
				t.Fatal(err)
			}
		}
	}
	control, err := l.reader.Stream(t.Context(), streamName(events.ControlPartition))
	if err != nil {
		t.Fatal(err)
	}
	if n := control.CachedInfo().State.Consumers; n > 2 {
		t.Errorf("%d consumers are left", n)
	}
}
