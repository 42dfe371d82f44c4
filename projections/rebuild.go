package projections

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/tachograph/tachograph/events"
)

// ErrNothingToUndo is Undo's error when no replay has taken over that could be
// undone.
var ErrNothingToUndo = errors.New("no replay has been swapped in that could be undone")

// Errors of discarding what a replay has built.
var (
	ErrNothingToDiscard = errors.New("no replay has left anything half built")
	ErrSwapUnfinished   = errors.New("a replay was interrupted while it swapped") // finish it first
)

// A Progress is how far a replay is.
type Progress struct {
	Phase string  `json:"phase"` // building, comparing, swapping
	Done  uint64  `json:"done"`  // sequences, over all partitions
	Total uint64  `json:"total"`
	Rate  float64 `json:"rate"` // events a second, in this phase

	Trouble string `json:"trouble,omitempty"` // what it waits for to be mended

	Parked     uint64      `json:"parked,omitempty"`     // events at which the code broke down
	Breakdowns []Breakdown `json:"breakdowns,omitempty"` // the first hundred of them
}

// A TableReport is how one table, or one bucket of documents, differs between
// what serves and what was built anew.
type TableReport struct {
	Table    string   `json:"table"`
	Old      uint64   `json:"old"` // rows, or documents
	New      uint64   `json:"new"`
	OnlyOld  uint64   `json:"only_old"`
	OnlyNew  uint64   `json:"only_new"`
	Changed  uint64   `json:"changed"`
	Examples []string `json:"examples,omitempty"` // epoch.partition.seq row, or the document's key; at most 10
}

// Equal tells whether both hold the same.
func (r TableReport) Equal() bool { return r.OnlyOld+r.OnlyNew+r.Changed == 0 && r.Old == r.New }

// A Rebuild is projections that build anew what others of their kind serve, each
// a partition.
type Rebuild struct {
	runners []Runner
	stop    context.CancelFunc
	all     sync.WaitGroup

	mu   sync.Mutex
	err  error
	died chan struct{} // closed at the first error
}

// StartRebuild runs the projections until Stop or until ctx ends.
func StartRebuild(ctx context.Context, runners []Runner) *Rebuild {
	ctx, stop := context.WithCancel(ctx)
	r := &Rebuild{runners: runners, stop: stop, died: make(chan struct{})}
	for _, runner := range runners {
		r.all.Go(func() {
			if err := Guard(nil, func() error { return runner.Run(ctx) }); err != nil {
				r.mu.Lock()
				defer r.mu.Unlock()
				if r.err == nil {
					r.err = err
					close(r.died)
				}
			}
		})
	}
	return r
}

// Stop ends the projections and waits until they have; a later one goes on where
// they were. It returns what one of them ended with. It may be called again.
func (r *Rebuild) Stop() error {
	r.stop()
	r.all.Wait()
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.err
}

// Done adds to a Progress what is built, and what there is to build.
func (r *Rebuild) Done(p Progress) Progress {
	for _, runner := range r.runners {
		s := runner.Status()
		p.Done, p.Total = p.Done+s.Position.Seq, p.Total+s.Tail
	}
	return p
}

// near is how far from the live end a rebuild may be when it is compared.
const near = 1000

// NearEnd is a goal of CatchUp: all but the newest events of a partition.
func NearEnd(s Status) bool {
	return s.Position.Seq+near > s.Tail && (s.CaughtUp || s.Tail == 0 || s.Position.Seq > 0)
}

// At returns the goal of having reached positions, of those partitions that are
// named. The event at one may have been forgotten, and be the newest.
func At(positions []events.Position) func(Status) bool {
	return func(s Status) bool {
		for _, g := range positions {
			if g.Partition == s.Partition && before(s.Position, g) && !s.atEnd() {
				return false
			}
		}
		return true
	}
}

func (s *Status) atEnd() bool {
	return s.CaughtUp && s.Lag == 0 && (s.Position.Seq > 0 || s.Tail == 0)
}

// CatchUp waits until each of the projections has reached the goal. progress
// hears of it, as the phase, five times a second.
//
// Errors: that of ctx, and what a projection ended with.
func (r *Rebuild) CatchUp(ctx context.Context, phase string, goal func(Status) bool, progress func(Progress)) error {
	tick := time.NewTicker(200 * time.Millisecond)
	defer tick.Stop()
	var began time.Time // when the first rows were there
	first, rate := uint64(0), 0.0
	for {
		done, total, reached, trouble := uint64(0), uint64(0), true, ""
		for _, runner := range r.runners {
			s := runner.Status()
			done, total, reached = done+s.Position.Seq, total+s.Tail, reached && goal(s)
			if trouble == "" {
				trouble = s.LastError
			}
		}
		if began.IsZero() && done > 0 {
			began, first = time.Now(), done
		} else if took := time.Since(began).Seconds(); !began.IsZero() && took > 0 {
			rate = float64(done-min(done, first)) / took
		}
		progress(Progress{Phase: phase, Done: done, Total: total, Rate: rate, Trouble: trouble})
		if reached {
			return nil
		}
		select {
		case <-tick.C:
		case <-r.died:
			return r.Stop()
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func before(p, q events.Position) bool {
	return p.Epoch < q.Epoch || p.Epoch == q.Epoch && p.Seq < q.Seq
}
