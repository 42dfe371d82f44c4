// Package projections says what all projections have in common. A projection
// reads one partition of the log and writes one read model; its position is
// kept where its result is.
package projections

import (
	"context"

	"github.com/tachograph/tachograph/events"
)

// A Runner is a projection of one partition at work.
type Runner interface {
	Name() string

	// Run folds until ctx ends (nil) or something is wrong that waiting does not
	// mend, such as events.ErrDiverged.
	Run(ctx context.Context) error

	Status() Status
}

// Status is how far a projection is and what it has seen.
type Status struct {
	Name       string          `json:"name"`
	Partition  uint16          `json:"partition"`
	Position   events.Position `json:"position"` // everything up to it is in the result
	Tail       uint64          `json:"tail"`     // the log's newest sequence when it was last asked
	Lag        uint64          `json:"lag"`      // events
	LagSeconds float64         `json:"lag_seconds"`
	Events     uint64          `json:"events"`
	Rows       uint64          `json:"rows"`
	Parked     uint64          `json:"parked"`  // messages or samples that did not decode
	Repeats    uint64          `json:"repeats"` // messages that the device had sent before
	Errors     uint64          `json:"errors"`  // attempts that failed and were repeated
	LastError  string          `json:"last_error,omitempty"`
	Resumed    bool            `json:"resumed"` // its result was reached, and where it stood is known; without it nothing is folded
	CaughtUp   bool            `json:"caught_up"`
}
