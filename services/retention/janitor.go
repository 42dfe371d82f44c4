package retention

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"sync"
	"time"

	"github.com/tachograph/tachograph/events"
)

// A Log is what the janitor needs of it; jetlog has it.
type Log interface {
	Partitions() []uint16
	Bounds(ctx context.Context, partition uint16) (events.Bounds, error)
	Locate(ctx context.Context, partition uint16, from events.From) (events.Cursor, error)
	Purge(ctx context.Context, upTo events.Position) (events.Bounds, error)
}

// A Holder needs the log beyond a position.
type Holder struct {
	Name string // "archive", "latest"

	// Reached returns the position up to which the holder does not need a
	// partition any more: what it has of it is where the holder itself looks
	// after a restart. An error holds everything.
	Reached func(ctx context.Context, partition uint16) (events.Position, error)
}

// Everything is what a holder has reached that needs nothing.
func Everything(partition uint16) events.Position {
	return events.Position{Epoch: math.MaxUint32, Partition: partition, Seq: math.MaxUint64}
}

// Config of a janitor. Log and Logger are needed.
type Config struct {
	Log     Log
	Keep    time.Duration // what is younger stays; 0: everything does, and the janitor only tells
	Every   time.Duration // between passes; 0 is a minute
	Holders []Holder

	// Control compacts control facts with each pass; nil: they all stay.
	Control *Compactor

	// Sync returns once what the holders have reached is on disk. nil where that
	// is a server's own matter.
	Sync func() error

	Logger *slog.Logger
}

// A Partition is what the log holds of one, and what keeps the rest from going.
type Partition struct {
	Partition uint16          `json:"partition"`
	Oldest    events.Position `json:"oldest"` // the first position that was not purged
	Newest    events.Position `json:"newest"`
	Purged    uint64          `json:"purged"`  // up to and with this sequence; 0: never
	Due       uint64          `json:"due"`     // up to and with this sequence everything is older than is kept
	HeldBy    string          `json:"held_by"` // who needs some of what is due
	Why       string          `json:"why"`
}

// Held is how many sequences are due and held.
func (p Partition) Held() uint64 {
	if p.HeldBy == "" || p.Due < p.Oldest.Seq {
		return 0
	}
	return p.Due + 1 - p.Oldest.Seq
}

// Janitor purges the telemetry of one log, and has its control facts compacted.
type Janitor struct {
	cfg Config

	mu   sync.Mutex
	last map[uint16]Partition // of the last pass
}

// New returns a janitor; nothing happens before Run.
func New(cfg Config) *Janitor {
	if cfg.Every == 0 {
		cfg.Every = time.Minute
	}
	return &Janitor{cfg: cfg, last: map[uint16]Partition{}}
}

// Keep is how long telemetry is kept; 0 is for ever.
func (j *Janitor) Keep() time.Duration { return j.cfg.Keep }

// Run makes a pass at once and then each interval, until ctx ends (nil).
func (j *Janitor) Run(ctx context.Context) error {
	tick := time.NewTicker(j.cfg.Every)
	defer tick.Stop()
	for failed := false; ; {
		err := j.Pass(ctx, time.Now())
		if err != nil && ctx.Err() == nil && !failed {
			j.cfg.Logger.Warn("the log is not purged; trying again", "error", err)
		}
		failed = err != nil
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

// Pass purges once what may go at a moment.
func (j *Janitor) Pass(ctx context.Context, now time.Time) error {
	var errs []error
	if j.cfg.Control != nil {
		errs = append(errs, j.cfg.Control.Pass(ctx, now))
	}
	for _, p := range j.cfg.Log.Partitions() {
		if p >= events.ControlPartition || j.cfg.Keep == 0 {
			continue
		}
		if err := j.pass(ctx, p, now.Add(-j.cfg.Keep)); err != nil {
			errs = append(errs, fmt.Errorf("purge partition %d: %w", p, err))
		}
	}
	return errors.Join(errs...)
}

func (j *Janitor) pass(ctx context.Context, partition uint16, before time.Time) error {
	bounds, err := j.cfg.Log.Bounds(ctx, partition)
	if err != nil {
		return err
	}
	last, err := j.cfg.Log.Locate(ctx, partition, events.Since(before))
	if err != nil {
		return err
	}
	due := last.Position.Seq
	told := Partition{Due: due}
	goal := bounds.Oldest
	goal.Seq = due
	if due >= bounds.Oldest.Seq {
		goal.Seq, told.HeldBy, told.Why = held(ctx, j.cfg.Holders, goal)
	}
	j.tell(partition, told)
	if goal.Seq < bounds.Oldest.Seq {
		return nil
	}
	if j.cfg.Sync != nil {
		if err := j.cfg.Sync(); err != nil {
			told.HeldBy, told.Why = "disk", err.Error()
			j.tell(partition, told)
			return err
		}
	}
	after, err := j.cfg.Log.Purge(ctx, goal)
	if err != nil {
		return err
	}
	if n := after.Oldest.Seq - bounds.Oldest.Seq; n > 0 {
		j.cfg.Logger.Info("purged the log", "partition", partition, "oldest", after.Oldest.String(), "events", n)
	}
	return nil
}

func (j *Janitor) tell(partition uint16, p Partition) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.last[partition] = p
}

// Status tells of each telemetry partition what it holds now and what held it
// back in the last pass; of the control partition as well, where that is compacted.
func (j *Janitor) Status(ctx context.Context) ([]Partition, error) {
	var all []Partition
	for _, partition := range j.cfg.Log.Partitions() {
		if partition >= events.ControlPartition {
			continue
		}
		b, err := j.cfg.Log.Bounds(ctx, partition)
		if err != nil {
			return nil, err
		}
		j.mu.Lock()
		p := j.last[partition]
		j.mu.Unlock()
		p.Partition, p.Oldest, p.Newest, p.Purged = partition, b.Oldest, b.Newest, b.Oldest.Seq-1
		all = append(all, p)
	}
	if j.cfg.Control != nil && j.cfg.Control.Keep() > 0 {
		p, err := j.cfg.Control.Status(ctx)
		if err != nil {
			return nil, err
		}
		all = append(all, p)
	}
	return all, nil
}
