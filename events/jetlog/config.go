package jetlog

import (
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/tachograph/tachograph/events"
)

// Durability is what an acknowledged event survives.
type Durability int

const (
	Disk Durability = iota // power failure: synced to disk before it is acknowledged
	OS                     // kill -9 of any process: written to the operating system
	Fast                   // a clean stop: the server may still hold it in memory
)

func (d Durability) String() string {
	return [...]string{"disk", "os", "fast"}[d]
}

// ParseDurability reads "disk", "os" or "fast".
func ParseDurability(s string) (Durability, error) {
	for d := Disk; d <= Fast; d++ {
		if s == d.String() {
			return d, nil
		}
	}
	return 0, fmt.Errorf("durability %q is none of disk, os, fast", s)
}

// Config says where the log is and what it promises.
type Config struct {
	// Publish carries appends, Read everything that is read. They may be the
	// same; in one process with the server, publishing in-process and reading
	// over TCP is fastest. Publish must not buffer while it is disconnected
	// (nats.ReconnectBufSize(-1)), else an append of unknown outcome could
	// still happen after it was looked for.
	Publish, Read *nats.Conn

	Durability Durability

	// StoreDir is the JetStream store directory of a server on this host, as
	// its configuration names it; Account is the account of the connections
	// ("" is $G). With them, Disk syncs the block files itself. Without, Disk
	// uses atomic batches, which a server with sync_interval "always" syncs
	// before it answers.
	StoreDir string
	Account  string

	Partitions int   // of telemetry, 1 to 256; 0 is 1. A log that has another number is refused; see Split.
	Replicas   int   // of every stream; 0 is 1
	MaxBytes   int64 // of every stream; 0 is no limit but the disk's
	Window     int   // events enqueued and not yet acknowledged, per partition; 0 is 32,768

	// Interest, of a server in this process, makes public what telemetry
	// somebody listens to (see Announce) and nothing else. Without it the server
	// republishes every message, which costs the append path a quarter.
	Interest Interest

	// Refill opens a log that an interrupted refill left half full, too: see
	// Log.BeginRefill. Any other use of such a log is refused.
	Refill bool

	// Seams are those that splits of a log which is being refilled shall have: what
	// they were, not where it ends now.
	Seams map[uint16]events.Seam

	Logger *slog.Logger

	// Sync has everything that a server of this host has written reach the disk.
	// It is called after each step of a split, and of a rebase; nil where that is the
	// server's own matter.
	Sync func() error

	// Settle is how long a base must be known before control facts that it stands for
	// are purged; 0 is 2 minutes, the interval in which a server syncs by itself. All
	// processes must have the same.
	Settle time.Duration

	// Fault, for tests, is asked before each step of Split, and at each of a rebase;
	// its error is the step's.
	Fault func(step string) error

	// BeforeSync and AfterSync, for tests, are called around every fsync of a
	// stream with the paths that it covers.
	BeforeSync, AfterSync func(stream string, files []string)
}

func (c *Config) complete() error {
	if c.Read == nil {
		c.Read = c.Publish
	}
	if c.Partitions == 0 {
		c.Partitions = 1
	}
	if c.Replicas == 0 {
		c.Replicas = 1
	}
	if c.Settle == 0 {
		c.Settle = 2 * time.Minute
	}
	if c.Window == 0 {
		c.Window = 32768
	}
	if c.Fault == nil {
		c.Fault = func(string) error { return nil }
	}
	if c.Account == "" {
		c.Account = "$G"
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	var errs []error
	if c.Publish == nil {
		errs = append(errs, errors.New("no connection"))
	}
	if c.Partitions < 1 || c.Partitions > 256 {
		errs = append(errs, fmt.Errorf("%d partitions: 1 to 256 are possible", c.Partitions))
	}
	if c.Durability < Disk || c.Durability > Fast {
		errs = append(errs, fmt.Errorf("unknown durability %d", c.Durability))
	}
	return errors.Join(errs...)
}
