package retention

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/tachograph/tachograph/events"
	"github.com/tachograph/tachograph/projections/forgotten"
)

// A ForgetConfig says what forgetting stands on. Log, Ledger and Logger are
// needed; the rest where requests are carried out.
type ForgetConfig struct {
	Log    events.Log
	Ledger *forgotten.Ledger

	// Holders must have read what is removed from the log: none of them then
	// misses it, and none brings it back.
	Holders []Holder

	// Erase removes events of a partition from the log, for good.
	Erase func(ctx context.Context, partition uint16, seqs []uint64, tell func(done int)) error

	// Restate has the device's presence said again, so that what was said in the
	// stretch is not the newest.
	Restate func(ctx context.Context, device string) error

	// Bases has those that were made of control facts, among them presence.
	Bases *Compactor

	Tables Tables
	View   func(ctx context.Context, r forgotten.Request) error // makes what the device is now anew
	Sweep  func(ctx context.Context, r forgotten.Request) error // has replaced values leave the disk
	Logger *slog.Logger
	Fault  func(step string) error // for tests: asked before each step, its error is the step's
}

// Tables are where rows of events are kept.
type Tables interface {
	// Count tells how many rows of each table would go, and the positions of
	// those that could not be read.
	Count(ctx context.Context, r forgotten.Request) (counts map[string]uint64, unread []events.Position, err error)

	// Erase removes them for good.
	Erase(ctx context.Context, r forgotten.Request, tell func(string)) error
}

// Forgetter forgets what devices sent: a request is a fact of the log first, and
// then carried out step by step, each of which can be repeated, until it is done,
// whatever is killed meanwhile.
type Forgetter struct {
	cfg ForgetConfig

	mu    sync.Mutex
	doing map[string]string // by request
}

// NewForgetter returns a forgetter; nothing is carried out before Run.
func NewForgetter(cfg ForgetConfig) *Forgetter {
	if cfg.Fault == nil {
		cfg.Fault = func(string) error { return nil }
	}
	return &Forgetter{cfg: cfg, doing: map[string]string{}}
}

// Ledger is that of all requests.
func (f *Forgetter) Ledger() *forgotten.Ledger { return f.cfg.Ledger }

// Ask has what a device sent be forgotten: what arrived from a time (zero: the
// beginning) up to and without another (zero, or in the future: now). Times are
// cut to microseconds, as exact as they are kept.
//
// Errors: events.ErrInvalid when the stretch is empty, and those of
// events.Log.Append.
func (f *Forgetter) Ask(ctx context.Context, device string, from, to time.Time, by string) (forgotten.Request, error) {
	now := time.Now().UTC().Truncate(time.Microsecond)
	if to.IsZero() || to.After(now) {
		to = now
	}
	r := forgotten.Request{ID: events.UniqueID(), Device: device, Asked: forgotten.Asked{
		From: from.UTC().Truncate(time.Microsecond), To: to.UTC().Truncate(time.Microsecond), By: by, At: now,
	}}
	if from.IsZero() {
		r.From = time.Time{}
	}
	if !r.From.Before(r.To) {
		return r, fmt.Errorf("forget %s: from %s to %s is no time: %w", device, r.From.Format(time.RFC3339Nano), r.To.Format(time.RFC3339Nano), events.ErrInvalid)
	}
	if err := f.append(ctx, r, events.Fresh, forgotten.TypeAsked, r.Asked); err != nil {
		return r, err
	}
	return f.cfg.Ledger.Await(ctx, r.ID)
}

func (f *Forgetter) append(ctx context.Context, r forgotten.Request, expect events.Expect, typ string, fact any) error {
	e, err := forgotten.Event(r.Device, r.ID, typ, fact)
	if err != nil {
		return err
	}
	_, err = f.cfg.Log.Append(ctx, expect, e)
	return err
}

// Doing tells what is being done about a request, for people.
func (f *Forgetter) Doing(id string) string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.doing[id]
}

func (f *Forgetter) tell(id, what string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.doing[id] = what
}

// Run carries out requests, one at a time, until ctx ends (nil). What fails is
// tried again.
func (f *Forgetter) Run(ctx context.Context) error {
	for ctx.Err() == nil {
		open, changed := f.cfg.Ledger.Open()
		if len(open) == 0 {
			select {
			case <-changed:
			case <-ctx.Done():
			}
			continue
		}
		r := open[0]
		err := f.carryOut(ctx, r)
		var conflict *events.ConflictError // another process was first, or this one an attempt ago
		switch {
		case err == nil, errors.As(err, &conflict):
			select { // the ledger follows
			case <-changed:
			case <-time.After(retryForget):
			case <-ctx.Done():
			}
		case ctx.Err() == nil:
			f.cfg.Logger.Warn("forgetting does not go on; trying again", "device", r.Device, "request", r.ID, "error", err)
			f.tell(r.ID, "trying again: "+err.Error())
			select {
			case <-time.After(retryForget):
			case <-ctx.Done():
			}
		}
	}
	return nil
}

const (
	retryForget = 2 * time.Second
	forgetPoll  = 100 * time.Millisecond
)

// carryOut does all that is left of a request, up to and with its next fact.
func (f *Forgetter) carryOut(ctx context.Context, r forgotten.Request) error {
	if err := f.awaitRead(ctx, r); err != nil {
		return err
	}
	f.tell(r.ID, "looking for it in the log")
	found, err := f.find(ctx, r)
	if err != nil {
		return err
	}
	presence, kept, err := f.presence(ctx, r)
	if err == nil && r.Began == nil && len(presence)+len(kept) > 0 {
		if err = f.cfg.Restate(ctx, r.Device); err == nil {
			presence, kept, err = f.presence(ctx, r)
		}
	}
	if err != nil {
		return err
	}
	counts, unread, err := f.cfg.Tables.Count(ctx, r)
	if err != nil {
		return err
	}
	letters, err := f.deadLetters(ctx, r, append(found.positions(), unread...))
	if err != nil {
		return err
	}
	if r.Began == nil {
		all := map[string]uint64{"log": uint64(len(found.positions())), "log dead letters": uint64(len(letters)), "log presence": uint64(len(union(presence, kept)))}
		for table, n := range counts {
			all["table "+table] = n
		}
		return f.append(ctx, r, events.At(r.Last()), forgotten.TypeBegan, forgotten.Began{At: time.Now().UTC(), Counts: all})
	}
	for _, step := range []struct {
		name string
		do   func() error
	}{
		{"dead letters", func() error { return f.erase(ctx, r, events.DeadLetterPartition, letters) }},
		{"presence", func() error { return f.erase(ctx, r, events.ControlPartition, presence) }},
		{"base", func() error {
			said := union(presence, kept) // a base that was made meanwhile may have either
			return f.cfg.Bases.Forget(ctx, r.Device, func(e events.Event) bool { return slices.Contains(said, e.Position.Seq) })
		}},
		{"log", func() error {
			for _, one := range slices.Backward(found) { // the newest first, see jetlog.Log.Erase
				if err := f.erase(ctx, r, one.partition, one.seqs); err != nil {
					return err
				}
			}
			return nil
		}},
		{"tables", func() error { return f.cfg.Tables.Erase(ctx, r, func(what string) { f.tell(r.ID, what) }) }},
		{"view", func() error { return f.cfg.View(ctx, r) }},
		{"sweep", func() error { return f.cfg.Sweep(ctx, r) }},
	} {
		f.tell(r.ID, "removing it: "+step.name)
		err := f.cfg.Fault(step.name)
		if err == nil {
			err = step.do()
		}
		if err != nil {
			return fmt.Errorf("forget %s: %s: %w", r.Device, step.name, err)
		}
	}
	f.tell(r.ID, "")
	f.cfg.Logger.Info("forgotten", "device", r.Device, "request", r.ID)
	return f.append(ctx, r, events.At(r.Last()), forgotten.TypeDone, forgotten.Done{At: time.Now().UTC()})
}

// awaitRead waits until every holder has read what the log has now of the
// device's partition and of control facts.
func (f *Forgetter) awaitRead(ctx context.Context, r forgotten.Request) error {
	for _, partition := range append(f.partitions(r.Device), events.ControlPartition) {
		if err := f.awaitPartition(ctx, r, partition); err != nil {
			return err
		}
	}
	return nil
}

func (f *Forgetter) awaitPartition(ctx context.Context, r forgotten.Request, partition uint16) error {
	bounds, err := f.cfg.Log.Bounds(ctx, partition)
	if err != nil {
		return err
	}
	for _, h := range f.cfg.Holders {
		for {
			at, err := h.Reached(ctx, partition)
			if err == nil && (at.Epoch > bounds.Newest.Epoch || at.Epoch == bounds.Newest.Epoch && at.Seq >= bounds.Newest.Seq || bounds.Newest.Seq == 0) {
				break
			}
			if err != nil {
				return fmt.Errorf("forget %s: learn how far %s is: %w", r.Device, h.Name, err)
			}
			f.tell(r.ID, fmt.Sprintf("waiting for %s, which has the log up to %s and needs it up to %s", h.Name, at, bounds.Newest))
			select {
			case <-time.After(forgetPoll):
			case <-ctx.Done():
				return ctx.Err()
			}
		}
	}
	return nil
}

// partitions are those that have what the device sent, oldest first.
func (f *Forgetter) partitions(device string) []uint16 {
	return events.Filter{Kinds: []events.Kind{events.Telemetry}, ID: device}.Partitions(f.cfg.Log.Layout())
}

// A finding is what goes from one partition of the log.
type finding struct {
	partition uint16
	epoch     uint32
	seqs      []uint64
}

// A findings is what goes from all of them.
type findings []finding

func (f findings) positions() (all []events.Position) {
	for _, one := range f {
		for _, seq := range one.seqs {
			all = append(all, events.Position{Epoch: one.epoch, Partition: one.partition, Seq: seq})
		}
	}
	return all
}

// find looks for the device's events that arrived in the stretch, and for those
// that arrived later and are the same as one of them.
func (f *Forgetter) find(ctx context.Context, r forgotten.Request) (all findings, err error) {
	ids := map[string]bool{}
	for _, partition := range f.partitions(r.Device) {
		found := finding{partition: partition}
		bounds, err := f.cfg.Log.Bounds(ctx, partition)
		if err != nil {
			return nil, err
		}
		found.epoch = bounds.Oldest.Epoch
		for e, err := range f.cfg.Log.ReadAfter(ctx, events.Stream{Kind: events.Telemetry, ID: r.Device}, bounds.Before(), events.EndOf(partition)) {
			if err != nil {
				return nil, fmt.Errorf("forget %s: %w", r.Device, err)
			}
			if r.Covers(e.Received) {
				ids[e.ID] = true
			} else if !ids[e.ID] || e.Received.Before(r.To) {
				continue
			}
			found.seqs = append(found.seqs, e.Position.Seq)
		}
		all = append(all, found)
	}
	return all, nil
}

// presence looks for what was said of the device's connections in the stretch, in
// the log and in its base. The newest is never among it: what is said next follows it.
func (f *Forgetter) presence(ctx context.Context, r forgotten.Request) (seqs, kept []uint64, err error) {
	newest := uint64(0)
	some, err := f.cfg.Bases.Presence(ctx, r.Device)
	if err != nil {
		return nil, nil, fmt.Errorf("forget %s: %w", r.Device, err)
	}
	for _, e := range some {
		if newest = e.Position.Seq; r.Covers(e.Received) {
			kept = append(kept, newest)
		}
	}
	bounds, err := f.cfg.Log.Bounds(ctx, events.ControlPartition)
	if err != nil {
		return nil, nil, err
	}
	for e, err := range f.cfg.Log.ReadAfter(ctx, events.Stream{Kind: events.Presence, ID: r.Device}, bounds.Before(), events.Latest) {
		if err != nil {
			return nil, nil, fmt.Errorf("forget %s: %w", r.Device, err)
		}
		if newest = max(newest, e.Position.Seq); r.Covers(e.Received) {
			seqs = append(seqs, e.Position.Seq)
		}
	}
	stays := func(seq uint64) bool { return seq == newest && r.Began != nil }
	return slices.DeleteFunc(seqs, stays), slices.DeleteFunc(kept, stays), nil
}

// union returns the sequences that are in one of two lists, or in both.
func union(a, b []uint64) []uint64 {
	all := slices.Concat(a, b)
	slices.Sort(all)
	return slices.Compact(all)
}

// deadLetters looks for the log's dead letters that come from positions.
func (f *Forgetter) deadLetters(ctx context.Context, r forgotten.Request, from []events.Position) (seqs []uint64, err error) {
	goes := map[string]bool{}
	for _, p := range from {
		goes[p.String()] = true
	}
	bounds, err := f.cfg.Log.Bounds(ctx, events.DeadLetterPartition)
	if err != nil {
		return nil, err
	}
	for e, err := range f.cfg.Log.ReadAfter(ctx, events.Stream{Kind: events.DeadLetter, ID: r.Device}, bounds.Before(), events.Latest) {
		if err != nil {
			return nil, fmt.Errorf("forget %s: %w", r.Device, err)
		}
		if goes[origin(e.Stream.Name)] {
			seqs = append(seqs, e.Position.Seq)
		}
	}
	return seqs, nil
}

// origin is the position in a dead letter's name, which is that of the event, a
// dash and the number of the sample.
func origin(name string) string {
	position, _, _ := strings.Cut(name, "-")
	return position
}

func (f *Forgetter) erase(ctx context.Context, r forgotten.Request, partition uint16, seqs []uint64) error {
	return f.cfg.Erase(ctx, partition, seqs, func(done int) {
		f.tell(r.ID, fmt.Sprintf("overwriting events of partition %d in the log, %d of %d", partition, done, len(seqs)))
	})
}
