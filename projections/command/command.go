package command

import "encoding/json"

// A Command is the fold of its facts. The zero value is a command that nobody
// has asked for.
type Command struct {
	Order           Order           `json:"order"`
	State           State           `json:"state"`
	Attempts        int             `json:"attempts"` // how often it was sent
	CancelRequested bool            `json:"cancel_requested,omitempty"`
	Late            bool            `json:"late,omitempty"` // the outcome came after the server's time-out
	Result          json.RawMessage `json:"result,omitempty"`
	Refusals        int             `json:"refusals,omitempty"`
	History         []Fact          `json:"history"`

	byServer  bool // timed_out was set by the deadline, so that a late answer wins
	unwritten int  // attempts that are known not to have been written
}

// Evolve folds one fact. It accepts every fact: what was decided has happened.
// The command is changed in place. One that has ended and is queued is another, of
// the same key: the log was compacted of the first, or nobody would have queued it.
func (c *Command) Evolve(f Fact) {
	if f.Type == string(Queued) && c.State.Final() {
		*c = Command{}
	}
	c.History = append(c.History, f)
	switch f.Type {
	case TypeRefused:
		c.Refusals++
		return
	case TypeCancelRequested:
		c.CancelRequested = true
		return
	case TypeUnsent:
		if c.unwritten++; c.State == Sent && c.unwritten == c.Attempts {
			c.State = Queued
		}
		return
	case TypeProgress:
		if f.Result != nil {
			c.Result = f.Result
		}
		return
	case string(Queued):
		if f.Order != nil {
			c.Order = *f.Order
		}
	case string(Sent):
		c.Attempts = f.Attempt
		if c.State.rank() > Sent.rank() {
			return // a repeat to a device that is further than its acknowledgement
		}
	case string(TimedOut):
		c.byServer = f.By == ByDeadline
	}
	if f.Result != nil {
		c.Result = f.Result
	}
	c.Late = f.Late
	c.State = State(f.Type)
}

// written is how many attempts may have reached the device.
func (c *Command) written() int { return c.Attempts - c.unwritten }

// Due returns when the passing of time alone changes the command, 0 when never.
// Pass answers the fact once that moment has come. The timers of a fleet are
// thus a fold of the log and survive a crash.
func (c *Command) Due() int64 {
	switch {
	case c.State == Queued:
		return c.Order.Deadline
	case c.State == "" || c.State.Final():
		return 0
	default:
		return c.Order.AnswerBy
	}
}
