package latest

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/tachograph/tachograph/events"
	"github.com/tachograph/tachograph/projections"
	"github.com/tachograph/tachograph/projections/catalog"
	"github.com/tachograph/tachograph/schemas"
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

// What is read ahead of the fold at most.
const (
	maxPending      = 16_384
	maxPendingBytes = 8 << 20
)

// Projection folds one partition into the bucket.
type Projection struct {
	cfg    Config
	store  *store
	folder *folder

	mu      sync.Mutex
	status  projections.Status
	arrived time.Time // of the newest event written

	pending, spare []event // read, not folded
	pendingBytes   int
	due            chan struct{} // pending has its first event, or is full
	taken          chan struct{} // pending was taken

	// Of the folding goroutine alone.
	cursor  events.Cursor // folded
	written events.Cursor
	newest  time.Time // arrival of the cursor's event
	ahead   []claim   // not met yet, by sequence
	suspect uint64    // up to this sequence events are folded one by one: at one of them the code broke
	kept    []State   // to become snapshots; their values are not shared
}

type event struct {
	events.Event
	schema *schemas.Schema
}

var _ projections.Runner = (*Projection)(nil)

// New returns a projection; nothing happens before Run. The error names all
// that is wrong with cfg.
func New(cfg Config) (*Projection, error) {
	if err := cfg.complete(); err != nil {
		return nil, fmt.Errorf("latest: %w", err)
	}
	return &Projection{
		cfg:    cfg,
		status: projections.Status{Name: "latest", Partition: cfg.Partition},
		due:    make(chan struct{}, 1), taken: make(chan struct{}, 1),
	}, nil
}

// Name implements projections.Runner.
func (p *Projection) Name() string { return "latest" }

// Status implements projections.Runner.
func (p *Projection) Status() projections.Status {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	bounds, err := p.cfg.Log.Bounds(ctx, p.cfg.Partition)
	p.mu.Lock()
	defer p.mu.Unlock()
	s := p.status
	if err == nil {
		s.Tail = bounds.Newest.Seq
	}
	if s.Tail > s.Position.Seq {
		s.Lag = s.Tail - s.Position.Seq
		if len(p.pending) > 0 {
			s.LagSeconds = max(0, time.Since(p.pending[0].Received).Seconds())
		} else if !p.arrived.IsZero() {
			s.LagSeconds = max(0, time.Since(p.arrived).Seconds())
		}
	}
	s.CaughtUp = s.CaughtUp && s.Lag == 0 && err == nil
	return s
}

// Run folds until ctx ends, then writes what it has folded (nil). It waits for
// a bucket that is not there, however long. It returns an error only for what
// waiting does not mend: events.ErrDiverged when the log is not the one that
// the bucket was folded from, *events.TruncatedError when it was purged before
// it was read, a document that cannot be read. The error names the remedy.
//
// Run again after it returned goes on where it was. It must not run twice at once.
func (p *Projection) Run(ctx context.Context) error {
	for {
		err := projections.Guard(nil, func() error { return p.run(ctx) })
		var broke *suspectError
		if !errors.As(err, &broke) {
			return p.end(ctx, err)
		}
		// What is in memory may be half folded. The bucket is not.
		p.suspect = broke.upTo
	}
}

// A suspectError tells that the code broke while many events were folded together.
type suspectError struct {
	upTo uint64
	err  error
}

func (e *suspectError) Error() string { return e.err.Error() }

func (p *Projection) run(ctx context.Context) error {
	p.store, p.folder = newStore(p.cfg.KV, p.cfg.Devices, p.cfg.Fault), newFolder(Rules{Tolerance: p.cfg.Tolerance, Oldest: p.cfg.Oldest})
	p.mu.Lock()
	p.pending, p.pendingBytes = nil, 0
	p.mu.Unlock()
	if err := p.persist(ctx, "seam", func() error { return p.awaitSeam(ctx) }); err != nil {
		return err
	}
	if err := p.persist(ctx, "resume", func() error { return p.resume(ctx) }); err != nil {
		return err
	}
	p.kept = nil
	p.written = p.cursor
	p.mu.Lock()
	p.status.Position = p.cursor.Position
	p.status.Resumed, p.status.CaughtUp, p.status.LastError = true, true, ""
	p.mu.Unlock()

	reading, stop := context.WithCancel(ctx)
	read := make(chan error, 1)
	after := p.cursor
	go func() { read <- projections.Guard(nil, func() error { return p.read(reading, after) }) }()
	working, release := graceful(ctx, stopPatience)
	defer release()
	ended := false
	err := projections.Guard(nil, func() (err error) {
		ended, err = p.work(working, read)
		return err
	})
	stop()
	if !ended {
		<-read
	}
	return err
}

// end makes Run's error of what ended it.
func (p *Projection) end(ctx context.Context, err error) error {
	if err == nil || ctx.Err() != nil && !permanent(err) && !errors.Is(err, events.ErrDiverged) {
		return nil
	}
	var truncated *events.TruncatedError
	switch {
	case errors.As(err, &truncated):
		err = fmt.Errorf("the log was purged before it was folded (remedy: refill it from the archive, tacho.events, or restore the bucket %q, then start again): %w", Bucket, err)
	case errors.Is(err, events.ErrDiverged):
		err = fmt.Errorf("the log is not the one that the view was folded from (remedy: %s): %w", remedy, err)
	}
	p.mu.Lock()
	p.status.Resumed, p.status.CaughtUp, p.status.LastError = false, false, err.Error()
	p.mu.Unlock()
	p.cfg.Logger.Error("projection stopped", "projection", "latest", "partition", p.cfg.Partition, "error", err)
	return fmt.Errorf("latest partition %d: %w", p.cfg.Partition, err)
}

// read takes events from the log until ctx ends.
func (p *Projection) read(ctx context.Context, after events.Cursor) error {
	for e, err := range p.cfg.Log.Follow(ctx, p.cfg.Partition, after) {
		if err != nil {
			return err
		}
		next := event{Event: e}
		if e.Stream.Kind == events.Telemetry && e.Schema > 0 {
			var ok bool
			if next.schema, ok = p.cfg.Catalog.Schemas().Version(e.Type, e.Schema); !ok {
				next.schema, err = p.cfg.Catalog.Await(ctx, e.Type, e.Schema, func(err error) {
					p.failed("decode", fmt.Errorf("event %s of %s waits: %w", e.Position, e.Stream.ID, err))
				})
				if err != nil {
					return err
				}
			}
		}
		p.mu.Lock()
		for p.full() {
			p.mu.Unlock()
			select {
			case <-p.taken:
			case <-ctx.Done():
				return nil
			}
			p.mu.Lock()
		}
		p.pending = append(p.pending, next)
		p.pendingBytes += len(e.Payload)
		wake := len(p.pending) == 1 || p.full()
		p.mu.Unlock()
		if wake {
			signal(p.due)
		}
	}
	return nil
}

// full needs the lock.
func (p *Projection) full() bool {
	return len(p.pending) >= maxPending || p.pendingBytes >= maxPendingBytes
}

func signal(c chan<- struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// work folds what was read and writes the documents, at once when the last
// write is long enough ago, else when it is. While it writes, the next events
// gather: a slow bucket gets fewer writes by itself.
func (p *Projection) work(ctx context.Context, read <-chan error) (ended bool, err error) {
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	var next time.Time // the earliest write
	for {
		p.mu.Lock()
		n, full := len(p.pending), p.full()
		p.mu.Unlock()
		wait := time.Until(next)
		switch {
		case n > 0 && (full || ended || wait <= 0):
			if err := p.fold(ctx); err != nil {
				return ended, err
			}
			if wait <= 0 || ended || len(p.store.dirty) >= p.cfg.Devices {
				next = time.Now().Add(p.cfg.Flush)
				if err := p.write(ctx); err != nil {
					return ended, err
				}
			}
			continue
		case p.cursor != p.written && (ended || wait <= 0):
			next = time.Now().Add(p.cfg.Flush)
			if err := p.write(ctx); err != nil {
				return ended, err
			}
			if ended { // whether the position could be written or not, see check
				return true, err
			}
			continue
		case ended:
			return true, err
		case n > 0 || p.cursor != p.written:
			timer.Reset(wait)
		}
		select {
		case <-p.due:
		case <-timer.C:
		case err = <-read:
			ended = true
		}
	}
}

// fold applies the events that were read to the states in memory.
func (p *Projection) fold(ctx context.Context) error {
	p.mu.Lock()
	evs := p.pending
	p.pending, p.spare, p.pendingBytes = p.spare[:0], nil, 0
	p.mu.Unlock()
	signal(p.taken)

	if err := p.load(ctx, evs); err != nil {
		return err
	}
	last := evs[len(evs)-1].Position.Seq
	err := projections.Guard(nil, func() error { return p.foldAll(evs) })
	if broken, ok := projections.Broken(err); ok && broken.ID == "" && p.suspect < last {
		return &suspectError{last, err}
	}
	if err != nil {
		return err
	}
	f := p.folder
	p.mu.Lock()
	p.status.Events += uint64(len(evs))
	p.status.Rows += f.rows
	p.status.Parked += f.bad
	clear(evs)
	p.spare = evs[:0]
	p.mu.Unlock()
	return nil
}

// foldAll is fold without its bookkeeping.
func (p *Projection) foldAll(evs []event) error {
	f := p.folder
	f.rows, f.bad = 0, 0
	for i := range evs {
		e := &evs[i]
		if err := p.check(&e.Event); err != nil {
			return err
		}
		p.cursor, p.newest = events.Cursor{Position: e.Position, ID: e.ID}, e.Received
		if e.Stream.Kind != events.Telemetry {
			continue
		}
		if in, _ := p.store.touch(e.Stream.ID); before(in.state.Position, e.Position) {
			if e.Position.Seq <= p.suspect {
				if err := p.foldAlone(in.state, e); err != nil {
					return err
				}
				f = p.folder
			} else {
				p.add(in.state, e)
			}
			p.store.mark(in)
			if p.cfg.Snapshots != nil && in.state.Events%snapshotEvery == 0 {
				f.evolve()
				p.kept = append(p.kept, in.state.clone())
			}
		}
	}
	f.evolve()
	return nil
}

func (p *Projection) add(s *State, e *event) {
	if p.cfg.Trip != nil {
		p.cfg.Trip(&e.Event)
	}
	p.folder.add(s, &e.Event, e.schema)
}

// foldAlone folds one event. Where the code breaks at it, the state is as if the
// event could not be decoded, or the projection ends.
func (p *Projection) foldAlone(s *State, e *event) error {
	before := s.clone()
	err := projections.Guard(&e.Event, func() error {
		p.add(s, e)
		p.folder.evolve()
		return nil
	})
	broken, ok := projections.Broken(err)
	if !ok {
		return err
	}
	p.cfg.Logger.Error("the code of the projection broke at an event", "projection", "latest", "device", broken.Device, "position", broken.Position.String(),
		"parked", p.cfg.OnPanic.Park, "panic", broken.Panic, "stack", string(broken.Stack))
	if !p.cfg.OnPanic.Park {
		return err
	}
	rows, bad := p.folder.rows, p.folder.bad
	p.folder = newFolder(Rules{Tolerance: p.cfg.Tolerance, Oldest: p.cfg.Oldest})
	p.folder.rows, p.folder.bad = rows, bad+1
	*s = before
	s.arrive(&e.Event)
	p.cfg.OnPanic.Parked(broken.Breakdown)
	return nil
}

// load sees to it that the states of all devices of evs are in memory.
func (p *Projection) load(ctx context.Context, evs []event) error {
	asked := map[string]bool{}
	var missing []string
	for i := range evs {
		device := evs[i].Stream.ID
		if _, ok := p.store.entries[device]; !ok && !asked[device] && evs[i].Stream.Kind == events.Telemetry {
			asked[device] = true
			missing = append(missing, strings.Clone(device)) // the event points into memory of others
		}
	}
	if len(missing) == 0 {
		return nil
	}
	return p.persist(ctx, "load", func() error { return p.store.load(ctx, missing) })
}

// write brings what was folded into the bucket: the documents first, then the
// position. However long it takes; it gives up only when stopping takes too long.
func (p *Projection) write(ctx context.Context) error {
	err := p.persist(ctx, "write", func() error { return p.store.write(ctx, p.tooLarge) })
	if err != nil {
		return err
	}
	p.store.shrink()
	p.keep(ctx)
	if len(p.ahead) > 0 {
		return nil // see check
	}
	if err := p.persist(ctx, "position", func() error { return p.writePosition(ctx) }); err != nil {
		return err
	}
	p.written = p.cursor
	p.mu.Lock()
	defer p.mu.Unlock()
	p.status.Position = p.cursor.Position
	p.status.CaughtUp, p.status.LastError = true, ""
	p.arrived = p.newest
	return nil
}

// keep makes snapshots of states. One that cannot be kept makes looks at the past
// longer and nothing else, so it is not tried again.
func (p *Projection) keep(ctx context.Context) {
	for i := range p.kept {
		if err := p.cfg.Snapshots.put(ctx, &p.kept[i]); err != nil {
			p.cfg.Logger.Warn("no snapshot", "projection", "latest", "error", err)
			break
		}
	}
	clear(p.kept)
	p.kept = p.kept[:0]
}

func (p *Projection) writePosition(ctx context.Context) error {
	text, err := json.Marshal(p.cursor)
	if err != nil {
		return err
	}
	_, err = p.cfg.KV.Put(ctx, positionKey(p.cfg.Partition), text)
	return err
}

func (p *Projection) tooLarge(device string, err error) {
	p.mu.Lock()
	p.status.Errors++
	p.mu.Unlock()
	p.cfg.Logger.Error("document is too large for the bucket; the one that is there stays", "projection", "latest", "device", device, "error", err)
}

// persist tries a step until it succeeds, fails for good or ctx ends, with a
// growing pause.
func (p *Projection) persist(ctx context.Context, step string, try func() error) error {
	pause := 50 * time.Millisecond
	for {
		err := p.cfg.Fault(step)
		if err == nil {
			if err = try(); err == nil {
				err = p.cfg.Fault(step + " done")
			}
		}
		switch {
		case err == nil:
			return nil
		case permanent(err), errors.Is(err, events.ErrDiverged), ctx.Err() != nil:
			return fmt.Errorf("%s: %w", step, err)
		}
		p.failed(step, err)
		select {
		case <-ctx.Done():
			return fmt.Errorf("%s: %w", step, err)
		case <-time.After(pause):
		}
		pause = min(2*pause, 5*time.Second)
	}
}

func (p *Projection) failed(step string, err error) {
	p.mu.Lock()
	p.status.Errors++
	p.status.CaughtUp = false
	p.status.LastError = step + ": " + err.Error()
	n := p.status.Errors
	p.mu.Unlock()
	if n&(n-1) == 0 { // the 1st, 2nd, 4th, 8th ...
		p.cfg.Logger.Warn("cannot go on yet; trying again", "projection", "latest", "step", step, "error", err, "failures", n)
	}
}

// stopPatience is for how long what was read is still written after Run was
// told to stop.
const stopPatience = 3 * time.Second

// graceful returns a context that outlives ctx by d.
func graceful(ctx context.Context, d time.Duration) (context.Context, context.CancelFunc) {
	out, cancel := context.WithCancel(context.WithoutCancel(ctx))
	var timer *time.Timer
	var mu sync.Mutex
	stop := context.AfterFunc(ctx, func() {
		mu.Lock()
		defer mu.Unlock()
		timer = time.AfterFunc(d, cancel)
	})
	return out, func() {
		stop()
		mu.Lock()
		defer mu.Unlock()
		if timer != nil {
			timer.Stop()
		}
		cancel()
	}
}
