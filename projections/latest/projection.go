package latest

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/tachograph/tachograph/events"
	"github.com/tachograph/tachograph/projections"
	"github.com/tachograph/tachograph/schemas"
)

// stopPatience is for how long what was read is still written after Run was
// told to stop.
const stopPatience = 3 * time.Second

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
	working, release := projections.Graceful(ctx, stopPatience)
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
