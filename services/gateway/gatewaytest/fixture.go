// Package gatewaytest runs a whole gateway for tests, and finds the MQTT clients
// that nobody here wrote.
package gatewaytest

import (
	"context"
	"log/slog"
	"net"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/tachograph/tachograph/events"
	"github.com/tachograph/tachograph/events/jetlog"
	"github.com/tachograph/tachograph/projections/catalog"
	"github.com/tachograph/tachograph/services/auth"
	"github.com/tachograph/tachograph/services/gateway"
)

// A Fixture is a gateway with what it stands on, serving MQTT on loopback.
type Fixture struct {
	*gateway.Gateway
	Log     events.Log
	Catalog *catalog.Catalog
	Auth    *auth.Directory
	MQTT    string // host:port
	metrics *prometheus.Registry
	stop    func() error
}

// Start serves a gateway over log until the test ends. prepare may give it
// services.
func Start(t testing.TB, log events.Log, limits gateway.Limits, prepare ...func(*gateway.Gateway)) *Fixture {
	t.Helper()
	logger := slog.New(slog.DiscardHandler)
	f := &Fixture{Log: log, metrics: prometheus.NewRegistry()}
	ctx, cancel := context.WithCancel(context.Background())
	var err error
	if f.Catalog, err = catalog.Open(ctx, log, logger); err != nil {
		t.Fatal(err)
	}
	if f.Auth, err = auth.Open(ctx, log, logger); err != nil {
		t.Fatal(err)
	}
	f.Gateway = gateway.New(gateway.Config{
		Log: log, Catalog: f.Catalog, Auth: f.Auth, Limits: limits, Logger: logger, Metrics: f.metrics,
	})
	for _, p := range prepare {
		p(f.Gateway)
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	f.MQTT = ln.Addr().String()
	folding, stopFolding := context.WithCancel(context.Background())
	ended := make(chan error, 3)
	go func() { ended <- f.Catalog.Run(folding) }()
	go func() { ended <- f.Auth.Run(folding) }()
	served := make(chan error, 1)
	go func() { served <- f.ServeMQTT(ctx, ln) }()
	stopped := false
	f.stop = func() error {
		if stopped {
			return nil
		}
		stopped = true
		cancel()
		return <-served
	}
	t.Cleanup(func() {
		if err := f.stop(); err != nil {
			t.Error(err)
		}
		stopFolding()
		for range 2 {
			if err := <-ended; err != nil {
				t.Error(err)
			}
		}
	})
	return f
}

// Stop drains the gateway, as a node does that stops.
func (f *Fixture) Stop() error { return f.stop() }

// Add adds a device and returns its token.
func (f *Fixture) Add(t testing.TB, device string) string {
	t.Helper()
	token, err := f.Auth.Add(context.Background(), device)
	if err != nil {
		t.Fatal(err)
	}
	return token
}

// Stored returns a device's telemetry, oldest first.
func (f *Fixture) Stored(t testing.TB, device string) (all []events.Event) {
	t.Helper()
	for e, err := range f.Log.Read(context.Background(), events.Stream{Kind: events.Telemetry, ID: device}, events.Latest) {
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, e)
	}
	return all
}

// Metric returns the sum of a counter or gauge over the series that have all of
// the labels, given as name, value, name, value.
func (f *Fixture) Metric(t testing.TB, name string, labels ...string) (sum float64) {
	t.Helper()
	families, err := f.metrics.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, family := range families {
		if family.GetName() != "tacho_gateway_"+name {
			continue
		}
		for _, m := range family.GetMetric() {
			have := map[string]string{}
			for _, l := range m.GetLabel() {
				have[l.GetName()] = l.GetValue()
			}
			matches := true
			for i := 0; i+1 < len(labels); i += 2 {
				matches = matches && have[labels[i]] == labels[i+1]
			}
			if matches {
				sum += m.GetCounter().GetValue() + m.GetGauge().GetValue()
			}
		}
	}
	return sum
}

// Eventually waits until ok answers true.
func Eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("never: " + what)
		}
	}
}

// JetLog opens a log on an embedded nats-server with files, closed when the test
// ends.
func JetLog(t testing.TB, durability jetlog.Durability, maxBytes int64) *jetlog.Log {
	t.Helper()
	dir := t.TempDir()
	s, err := server.NewServer(&server.Options{
		Host: "127.0.0.1", Port: -1, JetStream: true, StoreDir: dir, NoLog: true, NoSigs: true, MaxPayload: 8 << 20,
	})
	if err != nil {
		t.Fatal(err)
	}
	s.Start()
	if !s.ReadyForConnections(20 * time.Second) {
		t.Fatal("nats-server is not ready")
	}
	t.Cleanup(func() { s.Shutdown(); s.WaitForShutdown() })
	publish, err := nats.Connect("", nats.InProcessServer(s), nats.ReconnectBufSize(-1))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(publish.Close)
	read, err := nats.Connect(s.ClientURL())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(read.Close)
	l, err := jetlog.Open(t.Context(), jetlog.Config{Publish: publish, Read: read, Durability: durability, StoreDir: dir, MaxBytes: maxBytes})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	return l
}
