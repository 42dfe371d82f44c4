package query

import (
	"errors"
	"sync"

	"github.com/tachograph/tachograph/services/api/problem"
)

// Outcome is what came of a statement that began to answer: why an answer was
// cut off can be told nowhere else.
type Outcome struct {
	ID    string           `json:"id"`
	State State            `json:"state"`
	Bytes int64            `json:"bytes"` // of the answer, so far
	Error *problem.Problem `json:"error,omitempty"`
}

// A State is how far a statement is.
type State string

// The states.
const (
	Running State = "running"
	Whole   State = "whole"  // the answer
	Failed  State = "failed" // Error says why
	Gone    State = "gone"   // the asker, before the end
)

// keptOutcomes is how many are remembered, in memory alone.
const keptOutcomes = 1000

// outcomes remembers the newest statements.
type outcomes struct {
	mu     sync.Mutex
	known  map[string]Outcome
	oldest []string // a ring
	next   int
}

func (o *outcomes) begin(id string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.known == nil {
		o.known, o.oldest = map[string]Outcome{}, make([]string, keptOutcomes)
	}
	delete(o.known, o.oldest[o.next])
	o.oldest[o.next] = id
	o.next = (o.next + 1) % len(o.oldest)
	o.known[id] = Outcome{ID: id, State: Running}
}

func (o *outcomes) set(id string, state State, bytes int64, err error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if _, kept := o.known[id]; !kept {
		return
	}
	outcome := Outcome{ID: id, State: state, Bytes: bytes}
	errors.As(err, &outcome.Error)
	o.known[id] = outcome
}

func (o *outcomes) get(id string) (Outcome, bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	outcome, ok := o.known[id]
	return outcome, ok
}

// Outcome returns what came of one of the newest statements by its id; ok is
// false when it is not known, or not any more.
func (c *Client) Outcome(id string) (_ Outcome, ok bool) { return c.outcomes.get(id) }
