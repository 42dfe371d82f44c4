package latest

import (
	"errors"
	"log/slog"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/tachograph/tachograph/events"
	"github.com/tachograph/tachograph/projections"
	"github.com/tachograph/tachograph/projections/catalog"
)

// Config of a projection, which serves one partition of the log. Log, Catalog,
// KV and Logger are needed.
type Config struct {
	Log       events.Log
	Catalog   *catalog.Catalog
	KV        jetstream.KeyValue
	Partition uint16

	Tolerance time.Duration // see Rules
	Oldest    time.Time     // see Rules

	Flush     time.Duration // a device's document is written at most this often; default 250 ms
	Snapshots *Snapshots    // where states are kept every 2,048 events of a device; nil: nowhere

	Devices int // whose states are kept in memory; default 10,000. More are read back from the bucket.

	OnPanic projections.OnPanic

	Logger *slog.Logger

	// Trip, for tests, is called with each event before it is folded; it may panic.
	Trip func(*events.Event)

	// Fault, for tests, is asked before and after each step that can fail
	// ("seam", "resume", "load", "write", "position" and "... done") and, by several
	// goroutines, before each document ("put"); its error is the step's.
	Fault func(step string) error
}

func (c *Config) complete() error {
	var errs []error
	if c.Log == nil || c.Catalog == nil || c.KV == nil || c.Logger == nil {
		errs = append(errs, errors.New("log, catalog, bucket and logger are needed"))
	}
	if c.Tolerance < 0 || c.Flush < 0 || c.Devices < 0 {
		errs = append(errs, errors.New("tolerance, flush interval and number of devices cannot be negative"))
	}
	if c.Flush == 0 {
		c.Flush = 250 * time.Millisecond
	}
	if c.Devices == 0 {
		c.Devices = 10_000
	}
	if c.Fault == nil {
		c.Fault = func(string) error { return nil }
	}
	return errors.Join(errs...)
}
