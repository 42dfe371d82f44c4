// Package replays runs replays of projections, one at a time each, and tells how
// far they are.
package replays

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"time"

	"github.com/tachograph/tachograph/projections"
)

// What a caller can act on.
var (
	ErrRunning = errors.New("a replay is running") // wait for it, or cancel it
	ErrIdle    = errors.New("no replay is running")
)

// Projections lists those that can be replayed.
var Projections = []string{"columnar", "latest", "shadow"}

// A State is where the last replay stands.
type State string

// The states.
const (
	Idle      State = "idle" // there was none since the process started
	Running   State = "running"
	Done      State = "done"
	Failed    State = "failed"
	Cancelled State = "cancelled" // the next one goes on where it was
)

// A Status tells of the last replay of a projection.
type Status struct {
	Projection string                    `json:"projection"`
	State      State                     `json:"state"`
	DryRun     bool                      `json:"dry_run"`
	Progress   projections.Progress      `json:"progress"`
	Tables     []projections.TableReport `json:"tables"` // once they were compared
	Error      string                    `json:"error,omitempty"`
	Started    time.Time                 `json:"started,omitzero"`
	Ended      time.Time                 `json:"ended,omitzero"`
}

// A Rebuilder builds a projection anew beside the one that serves.
type Rebuilder interface {
	// Check tells whether the log has all that Build needs.
	Check(context.Context) error
	// Build builds, compares and, unless dry, lets what is built serve. Interrupted,
	// it goes on where it was.
	Build(ctx context.Context, order projections.Order, progress func(projections.Progress)) ([]projections.TableReport, error)
	// Undo takes the last Build back.
	Undo(context.Context) error
	// Discard removes what a Build has made that did not come to its end.
	Discard(context.Context) error
}

// Replays are those of one projection.
type Replays struct {
	name   string
	work   Rebuilder
	logger *slog.Logger

	mu     sync.Mutex
	status Status
	cancel context.CancelFunc
	ended  chan struct{} // of the running one
}

// New returns the replays of the projection of a name.
func New(name string, work Rebuilder, logger *slog.Logger) *Replays {
	return &Replays{name: name, work: work, logger: logger, status: Status{Projection: name, State: Idle, Tables: []projections.TableReport{}}}
}

// Status tells of the last replay.
func (r *Replays) Status() Status {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.status
}

// Check tells whether the log has all that a replay needs.
//
// Errors: *events.TruncatedError when it was purged, and those of the projection.
func (r *Replays) Check(ctx context.Context) error { return r.work.Check(ctx) }

// Start begins a replay; a dry one compares and swaps nothing.
//
// Errors: ErrRunning.
func (r *Replays) Start(order projections.Order) (Status, error) {
	return r.begin(order.Dry, func(ctx context.Context) ([]projections.TableReport, error) {
		return r.work.Build(ctx, order, r.progress)
	})
}

// Undo swaps back what served before the last replay.
//
// Errors: ErrRunning, projections.ErrNothingToUndo, *events.TruncatedError when what
// came since has been purged from the log, and those of the projection.
func (r *Replays) Undo(ctx context.Context) error { return r.alone(ctx, r.work.Undo) }

// Discard removes what a replay that was ended has built, and its room on the disk:
// the next one begins anew. What served before a replay stays for Undo.
//
// Errors: ErrRunning, projections.ErrNothingToDiscard, projections.ErrSwapUnfinished,
// and those of the projection.
func (r *Replays) Discard(ctx context.Context) error { return r.alone(ctx, r.work.Discard) }

// alone does something in the place of a replay, and waits for it.
func (r *Replays) alone(ctx context.Context, work func(context.Context) error) error {
	done := make(chan error, 1)
	_, err := r.begin(false, func(ctx context.Context) ([]projections.TableReport, error) {
		err := work(ctx)
		done <- err
		return nil, err
	})
	if err != nil {
		return err
	}
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (r *Replays) progress(p projections.Progress) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.status.Progress = p
}

func (r *Replays) begin(dry bool, work func(context.Context) ([]projections.TableReport, error)) (Status, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.status.State == Running {
		return r.status, ErrRunning
	}
	ctx, cancel := context.WithCancel(context.Background())
	r.cancel, r.ended = cancel, make(chan struct{})
	r.status = Status{Projection: r.name, State: Running, DryRun: dry, Started: time.Now().UTC(), Tables: []projections.TableReport{}}
	ended := r.ended
	go func() {
		defer close(ended)
		defer cancel()
		tables, err := work(ctx)
		r.end(ctx, tables, err)
	}()
	return r.status, nil
}

func (r *Replays) end(ctx context.Context, tables []projections.TableReport, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if tables != nil {
		r.status.Tables = tables
	}
	r.status.Ended = time.Now().UTC()
	switch {
	case err == nil:
		r.status.State = Done
	case ctx.Err() != nil:
		r.status.State = Cancelled
	default:
		r.status.State, r.status.Error = Failed, err.Error()
		r.logger.Error("replay failed; it can be started again and goes on where it was", "projection", r.name, "error", err)
	}
}

// Cancel ends the running replay and waits until it has; the next one goes on
// where it was. A swap that has begun is finished.
//
// Errors: ErrIdle; that of ctx.
func (r *Replays) Cancel(ctx context.Context) error {
	r.mu.Lock()
	running, cancel, ended := r.status.State == Running, r.cancel, r.ended
	r.mu.Unlock()
	if !running {
		return ErrIdle
	}
	cancel()
	select {
	case <-ended:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Stop cancels what runs, if anything does.
func (r *Replays) Stop(ctx context.Context) error {
	if err := r.Cancel(ctx); err != nil && !errors.Is(err, ErrIdle) {
		return err
	}
	return nil
}
