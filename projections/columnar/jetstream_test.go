package columnar

import (
	"context"
	"fmt"
	"net"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"

	"github.com/tachograph/tachograph/events"
	"github.com/tachograph/tachograph/events/jetlog"
)

func startNATS(t testing.TB, dir string, port int) *server.Server {
	t.Helper()
	s, err := server.NewServer(&server.Options{Host: "127.0.0.1", Port: port, JetStream: true, StoreDir: dir, NoLog: true, NoSigs: true})
	if err != nil {
		t.Fatal(err)
	}
	s.Start()
	if !s.ReadyForConnections(20 * time.Second) {
		t.Fatal("nats-server is not ready")
	}
	return s
}

func connectNATS(t testing.TB, s *server.Server, opts ...nats.Option) *nats.Conn {
	t.Helper()
	nc, err := nats.Connect(s.ClientURL(), append(opts, nats.ReconnectBufSize(-1), nats.MaxReconnects(-1), nats.ReconnectWait(20*time.Millisecond))...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	return nc
}

// TestOverJetStream writes from a real log whose server is stopped and started
// again. What the sender cannot be sure of it sends again, as devices do.
func TestOverJetStream(t *testing.T) {
	b := newBench(t)
	dir := t.TempDir()
	s := startNATS(t, dir, server.RANDOM_PORT)
	defer func() { s.Shutdown(); s.WaitForShutdown() }()
	log, err := jetlog.Open(t.Context(), jetlog.Config{Publish: connectNATS(t, s), Read: connectNATS(t, s), Durability: jetlog.OS, StoreDir: dir})
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	w, err := New(Config{Log: log, Catalog: b.catalog, Server: b.server, MaxAge: 20 * time.Millisecond, Stall: time.Second})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- w.Run(ctx) }()

	const n = 3_000
	port := s.Addr().(*net.TCPAddr).Port
	for i := range n {
		if i == n/2 {
			s.Shutdown()
			s.WaitForShutdown()
			s = startNATS(t, dir, port)
		}
		payload := fmt.Appendf(nil, `{"time":%d,"speed":1}`, 1700000000000+i)
		e := events.Event{
			Stream: events.Stream{Kind: events.Telemetry, ID: "car"}, Type: "position", Schema: 1,
			ID: events.DeriveID("car", "position", payload), Payload: payload,
		}
		for {
			done := make(chan error, 1)
			err := log.Enqueue(t.Context(), e, func(err error) { done <- err })
			if err == nil {
				err = <-done
			}
			if err == nil {
				break
			}
			time.Sleep(20 * time.Millisecond)
		}
	}
	for deadline := time.Now().Add(3 * time.Minute); w.Status().Lag > 0 || w.Status().Position.Seq < n; time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not caught up: %+v", w.Status())
		}
	}
	b.expect("SELECT count(), uniqExact(time), min(time) = toDateTime64(1700000000, 6, 'UTC') FROM tacho.position", fmt.Sprintf("(%d,%d,1)", n, n))
	b.expect("SELECT countIf(NOT repeat), count() = uniqExact(_seq) FROM tacho.events", fmt.Sprintf("(%d,1)", n))
	cancel()
	if err := <-ended; err != nil {
		t.Fatal(err)
	}
}
