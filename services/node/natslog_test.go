package node

import (
	"bytes"
	"errors"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/prometheus/client_golang/prometheus"
)

// TestNATSFlood: a device that is refused ten thousand times is counted so often,
// and writes only a few lines.
func TestNATSFlood(t *testing.T) {
	s := newStage(t)
	var said bytes.Buffer
	s.embedded.voice.logger = slog.New(slog.NewTextHandler(&said, nil))
	nc := s.dial(t, "car.1", "secret", nats.ErrorHandler(func(*nats.Conn, *nats.Subscription, error) {}))
	const times = 10_000
	for range times {
		if err := nc.Publish("ingest.car-2.position", nil); err != nil {
			t.Fatal(err)
		}
	}
	if err := nc.FlushTimeout(20 * time.Second); err != nil {
		t.Fatal(err)
	}
	if _, err := nats.Connect(s.embedded.server.ClientURL(), nats.UserInfo("car.1", "wrong")); !errors.Is(err, nats.ErrAuthorization) {
		t.Fatal(err)
	}
	r := prometheus.NewRegistry()
	r.MustRegister(s.embedded.voice.refused)
	families, err := r.Gather()
	if err != nil {
		t.Fatal(err)
	}
	counted := map[string]float64{}
	for _, m := range families[0].GetMetric() {
		counted[m.GetLabel()[0].GetValue()] = m.GetCounter().GetValue()
	}
	if counted["permission"] != times || counted["authentication"] != 1 {
		t.Errorf("counted %v", counted)
	}
	s.embedded.voice.mu.Lock() // nothing is written meanwhile
	defer s.embedded.voice.mu.Unlock()
	if lines := strings.Count(said.String(), "\n"); lines < 1 || lines > 60 {
		t.Errorf("%d lines", lines)
	}
}
