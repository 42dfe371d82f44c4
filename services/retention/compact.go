package retention

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"log/slog"
	"sync"
	"time"

	"github.com/tachograph/tachograph/events"
	"github.com/tachograph/tachograph/events/jetlog"
	"github.com/tachograph/tachograph/projections/compact"
	"github.com/tachograph/tachograph/projections/forgotten"
)

// A ControlLog is what compacting needs of a log; jetlog has it.
type ControlLog interface {
	Bounds(ctx context.Context, partition uint16) (events.Bounds, error)
	Locate(ctx context.Context, partition uint16, from events.From) (events.Cursor, error)
	Follow(ctx context.Context, partition uint16, after events.Cursor) iter.Seq2[events.Event, error]
	Base(ctx context.Context) (events.Base, error)
	Rebase(ctx context.Context, over events.Base, upTo events.Position, facts iter.Seq2[events.Event, error]) error
	DropBases(ctx context.Context) error
	Purgeable(ctx context.Context, upTo events.Position) (events.Position, error)
	Purge(ctx context.Context, upTo events.Position) (events.Bounds, error)
}

// A CompactConfig says what compacting stands on. Log and Logger are needed.
type CompactConfig struct {
	Log     ControlLog
	Keep    time.Duration // facts that are younger stay; 0: all do
	Least   uint64        // facts for which it is worth while; 0 is 10,000
	Holders []Holder
	Ledger  *forgotten.Ledger // of what was asked to be forgotten; nil: nothing ever is
	Room    func() error      // tells that there is none on the disk for another base; nil: there is
	Sync    func() error      // see Config
	Logger  *slog.Logger
}

// A Compactor keeps the control facts of a log from growing without bound. What folds
// need of the oldest of them becomes the log's base; then they are purged, as
// telemetry is. Every process may have one: of several at the same time one wins.
type Compactor struct {
	cfg CompactConfig

	mu sync.Mutex // held while a base is made

	told sync.Mutex
	last Partition
}

// NewCompactor returns a compactor; nothing happens before a pass.
func NewCompactor(cfg CompactConfig) *Compactor {
	if cfg.Least == 0 {
		cfg.Least = 10_000
	}
	return &Compactor{cfg: cfg}
}

// Keep is how long control facts are kept; 0 is for ever.
func (c *Compactor) Keep() time.Duration { return c.cfg.Keep }

// Pass compacts once what may be compacted at a moment, and purges what the base
// stands for.
func (c *Compactor) Pass(ctx context.Context, now time.Time) error {
	if c.cfg.Keep == 0 {
		return nil
	}
	fail := func(err error) error { return fmt.Errorf("compact control facts: %w", err) }
	bounds, err := c.cfg.Log.Bounds(ctx, events.ControlPartition)
	if err != nil {
		return fail(err)
	}
	last, err := c.cfg.Log.Locate(ctx, events.ControlPartition, events.Since(now.Add(-c.cfg.Keep)))
	if err != nil {
		return fail(err)
	}
	goal := bounds.Oldest
	goal.Seq = last.Position.Seq
	told := Partition{Due: goal.Seq}
	if goal.Seq >= bounds.Oldest.Seq {
		goal.Seq, told.HeldBy, told.Why = held(ctx, c.cfg.Holders, goal)
	}
	c.tell(told)
	goal.Seq = min(goal.Seq, max(bounds.Newest.Seq, 1)-1) // the newest stays
	if err := c.rebase(ctx, bounds, goal); err != nil {
		return fail(err)
	}
	base, err := c.cfg.Log.Base(ctx)
	if err != nil {
		return fail(err)
	}
	goal.Seq = min(goal.Seq, base.UpTo.Seq)
	if goal.Seq < bounds.Oldest.Seq {
		return nil
	}
	may, err := c.cfg.Log.Purgeable(ctx, goal)
	if err != nil || may.Seq < bounds.Oldest.Seq {
		return err
	}
	if c.cfg.Sync != nil {
		if err := c.cfg.Sync(); err != nil {
			told.HeldBy, told.Why = "disk", err.Error()
			c.tell(told)
			return fail(err)
		}
	}
	after, err := c.cfg.Log.Purge(ctx, goal)
	if errors.Is(err, jetlog.ErrUnsettled) {
		return nil
	}
	if err != nil {
		return fail(err)
	}
	if n := after.Oldest.Seq - bounds.Oldest.Seq; n > 0 {
		c.cfg.Logger.Info("purged control facts", "oldest", after.Oldest.String(), "facts", n)
	}
	return nil
}

// held returns the sequence up to which every holder has what is due, and who has
// least.
func held(ctx context.Context, holders []Holder, due events.Position) (seq uint64, by, why string) {
	for _, h := range holders {
		at, err := h.Reached(ctx, due.Partition)
		switch {
		case err != nil:
			due.Seq, by, why = 0, h.Name, "how far it is cannot be learned: "+err.Error()
		case at.Epoch < due.Epoch && due.Seq > 0:
			due.Seq, by, why = 0, h.Name, fmt.Sprintf("it stands in epoch %d, the log is of epoch %d", at.Epoch, due.Epoch)
		case at.Epoch == due.Epoch && at.Seq < due.Seq:
			due.Seq, by, why = at.Seq, h.Name, fmt.Sprintf("it has everything up to %s only", at)
		}
	}
	return due.Seq, by, why
}

// rebase makes a base up to a position, if that lets something be purged and is worth
// while: reading all that stays, and writing it again, for half as much at least.
func (c *Compactor) rebase(ctx context.Context, bounds events.Bounds, goal events.Position) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	base, err := c.cfg.Log.Base(ctx)
	if err != nil || goal.Seq <= base.UpTo.Seq || goal.Seq-base.UpTo.Seq < max(c.cfg.Least, base.Facts/2) {
		return err
	}
	may, err := c.cfg.Log.Purgeable(ctx, goal)
	if err != nil || may.Seq < bounds.Oldest.Seq || may.Seq <= base.UpTo.Seq {
		return err
	}
	if c.cfg.Room != nil {
		if err := c.cfg.Room(); err != nil {
			return err
		}
	}
	asked, open := c.requests()
	if open {
		return nil // what is being forgotten must not be said again
	}
	began := time.Now()
	var facts compact.Compaction
	if err := c.read(ctx, base, goal, &facts); err != nil {
		return err
	}
	kept, err := facts.Facts()
	if err != nil {
		return err
	}
	if now, _ := c.requests(); now != asked {
		return nil
	}
	err = c.cfg.Log.Rebase(ctx, base, goal, each(kept))
	if errors.Is(err, events.ErrRebased) {
		c.cfg.Logger.Info("another process has compacted the control facts")
		return nil
	}
	if err == nil {
		c.cfg.Logger.Info("compacted control facts", "up_to", goal.String(), "facts", facts.Taken(), "kept", len(kept), "took", time.Since(began).String())
	}
	return err
}

func each(all []events.Event) iter.Seq2[events.Event, error] {
	return func(yield func(events.Event, error) bool) {
		for _, e := range all {
			if !yield(e, nil) {
				return
			}
		}
	}
}

// requests tells how many there are that something be forgotten, and whether one is
// being carried out.
func (c *Compactor) requests() (n int, open bool) {
	if c.cfg.Ledger == nil {
		return 0, false
	}
	undone, _ := c.cfg.Ledger.Open()
	return len(c.cfg.Ledger.All()), len(undone) > 0
}

// read takes all facts up to a position: what folds begin with, and what the log has
// after that. It is read as folds read it, to the first fact that is there at the
// goal or after it, so that nothing can be cut short.
func (c *Compactor) read(ctx context.Context, base events.Base, goal events.Position, facts *compact.Compaction) error {
	if base.UpTo.Seq > 0 {
		for e, err := range base.Read(ctx, nil) {
			if err != nil {
				return err
			}
			facts.Add(e)
		}
	}
	for e, err := range c.cfg.Log.Follow(ctx, events.ControlPartition, events.Cursor{Position: base.UpTo}) {
		if err != nil {
			return err
		}
		if e.Position.Seq <= goal.Seq {
			facts.Add(e)
		}
		if e.Position.Seq >= goal.Seq {
			return nil
		}
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	return fmt.Errorf("the log ended before %s: %w", goal, events.ErrClosed)
}

func (c *Compactor) tell(p Partition) {
	c.told.Lock()
	defer c.told.Unlock()
	c.last = p
}

// Status tells of the control partition what Janitor.Status does of telemetry.
func (c *Compactor) Status(ctx context.Context) (Partition, error) {
	b, err := c.cfg.Log.Bounds(ctx, events.ControlPartition)
	if err != nil {
		return Partition{}, err
	}
	c.told.Lock()
	p := c.last
	c.told.Unlock()
	p.Partition, p.Oldest, p.Newest, p.Purged = events.ControlPartition, b.Oldest, b.Newest, b.Oldest.Seq-1
	return p, nil
}

// Presence returns what the base has of a device's presence, oldest first.
func (c *Compactor) Presence(ctx context.Context, device string) (all []events.Event, err error) {
	base, err := c.cfg.Log.Base(ctx)
	if err != nil || base.UpTo.Seq == 0 {
		return nil, err
	}
	for e, err := range base.Read(ctx, &events.Stream{Kind: events.Presence, ID: device}) {
		if err != nil {
			return nil, err
		}
		all = append(all, e)
	}
	return all, nil
}

// Forget makes the base anew without what goes of a device's presence, and removes
// all that were. It comes after what goes was removed from the log: a base that is
// being made meanwhile, by whomever, does not come to be.
func (c *Compactor) Forget(ctx context.Context, device string, goes func(events.Event) bool) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	for again := true; again; {
		base, err := c.cfg.Log.Base(ctx)
		if err != nil {
			return err
		}
		if base.UpTo.Seq == 0 {
			break
		}
		stream, found := events.Stream{Kind: events.Presence, ID: device}, false
		for e, err := range base.Read(ctx, &stream) {
			if err != nil {
				return err
			}
			found = found || goes(e)
		}
		if !found {
			break
		}
		err = c.cfg.Log.Rebase(ctx, base, base.UpTo, func(yield func(events.Event, error) bool) {
			for e, err := range base.Read(ctx, nil) {
				if err == nil && e.Stream == stream && goes(e) {
					continue
				}
				if !yield(e, err) {
					return
				}
			}
		})
		if again = errors.Is(err, events.ErrRebased); err != nil && !again {
			return err
		}
	}
	return c.cfg.Log.DropBases(ctx)
}
