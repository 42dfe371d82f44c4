package node

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/tachograph/tachograph/events/jetlog"
)

// Split divides the telemetry partitions of the log that the configuration names
// into as many as it says, and returns how many there were. No node may run on a
// data folder; of an existing NATS the gateways should be stopped. What interrupts
// it is mended by doing it again, or by the next start with that configuration.
func Split(ctx context.Context, cfg Config, logger *slog.Logger) (had int, err error) {
	cfg.Ports = "auto"
	if err := cfg.Validate(); err != nil {
		return 0, err
	}
	n := &Node{cfg: cfg, logger: logger, waiting: map[string]string{}, broken: make(chan struct{}), metrics: prometheus.NewRegistry()}
	defer func() {
		stopping, done := context.WithTimeout(context.WithoutCancel(ctx), 20*time.Second)
		defer done()
		err = errors.Join(err, n.Stop(stopping))
	}()
	if err := n.startFolder(ctx); err != nil {
		return 0, err
	}
	log, _, err := n.joinLog(ctx)
	if err != nil {
		return 0, err
	}
	return jetlog.Split(ctx, log)
}
