package projections

import (
	"errors"
	"fmt"
	"runtime/debug"
	"sync"

	"github.com/tachograph/tachograph/events"
)

// A Breakdown is an event at which the code of a projection has panicked.
type Breakdown struct {
	Position events.Position `json:"position"`
	Device   string          `json:"device"`
	Type     string          `json:"type"`
	ID       string          `json:"id"`
	Panic    string          `json:"panic"` // what it said
}

// A BreakdownError is a panic of a projection's code as an error: of the code, not
// of the event, which stays in the log and is read when the code is mended.
type BreakdownError struct {
	Breakdown
	Stack []byte // of the panic, for the log
}

func (e *BreakdownError) Error() string {
	what := ""
	if e.ID != "" {
		what = fmt.Sprintf(" at event %s of %s, %s at %s", e.ID, e.Device, e.Type, e.Position)
	}
	return fmt.Sprintf("the code of the projection broke%s: %s (remedy: a release that is mended, or --on-panic park, which passes over the event and parks it)", what, e.Panic)
}

// Guard calls f and makes a *BreakdownError of a panic in it. e is the event that
// is dealt with; nil where it is not known.
func Guard(e *events.Event, f func() error) (err error) {
	defer Catch(e, &err)
	return f()
}

// Catch, deferred, is Guard for the function that defers it; the event need not
// leave the stack for it.
func Catch(e *events.Event, err *error) {
	p := recover()
	if p == nil {
		return
	}
	broken := &BreakdownError{Stack: debug.Stack()}
	broken.Panic = fmt.Sprint(p)
	if e != nil {
		broken.Position, broken.Device, broken.Type, broken.ID = e.Position, e.Stream.ID, e.Type, e.ID
	}
	*err = broken
}

// Broken tells whether an error is that of a breakdown.
func Broken(err error) (*BreakdownError, bool) {
	var broken *BreakdownError
	return broken, errors.As(err, &broken)
}

// OnPanic is what a projection does at a breakdown. The zero value stops it.
type OnPanic struct {
	// Park passes over the event and parks it: as if it could not be decoded.
	Park bool

	// Tell hears of each event that is parked; nil: nobody.
	Tell func(Breakdown)
}

// Parked tells that an event was.
func (o OnPanic) Parked(b Breakdown) {
	if o.Tell != nil {
		o.Tell(b)
	}
}

// An Order is what a replay is to do.
type Order struct {
	Dry  bool    // compare only
	Rate float64 // events a second at most, over all partitions; 0 is no limit
	Park bool    // what the code breaks down at is parked; else the replay stops there
}

const breakdownsKept = 100

// A Casualties list collects breakdowns for a report.
type Casualties struct {
	mu    sync.Mutex
	count uint64
	list  []Breakdown
	seen  map[events.Position]bool
}

// Add counts a breakdown, each once however often it is met, and keeps the first
// hundred.
func (c *Casualties) Add(b Breakdown) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.seen == nil {
		c.seen = map[events.Position]bool{}
	}
	if c.seen[b.Position] {
		return
	}
	c.seen[b.Position] = true
	if c.count++; len(c.list) < breakdownsKept {
		c.list = append(c.list, b)
	}
}

// In returns a Progress that tells of them.
func (c *Casualties) In(p Progress) Progress {
	c.mu.Lock()
	defer c.mu.Unlock()
	p.Parked, p.Breakdowns = c.count, append([]Breakdown(nil), c.list...)
	return p
}
