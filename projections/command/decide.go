package command

import (
	"bytes"
	"encoding/json"
	"fmt"
)

// Queue decides on a new command. When the command exists already (the id
// comes from the idempotency key) and the request is the same (Order.Digest),
// there is no fact and no error: the caller answers with the command that is
// there.
//
// Errors: ErrInvalid, ErrPastDeadline, ErrExists.
func (c *Command) Queue(o Order, at int64, by string) (Fact, error) {
	if c.State != "" {
		if c.Order.Digest == o.Digest {
			return Fact{}, nil
		}
		return Fact{}, fmt.Errorf("queue command %s to %s: %w", o.Name, o.Device, ErrExists)
	}
	switch {
	case o.ID == "" || o.Device == "" || o.Name == "":
		return Fact{}, fmt.Errorf("queue command: id, device and name are required: %w", ErrInvalid)
	case o.Policy != NowOrNever && o.Policy != UntilDeadline:
		return Fact{}, fmt.Errorf("queue command %s: policy %q is neither %s nor %s: %w", o.Name, o.Policy, NowOrNever, UntilDeadline, ErrInvalid)
	case o.Parameters != nil && !json.Valid(o.Parameters):
		return Fact{}, fmt.Errorf("queue command %s: parameters are not JSON: %w", o.Name, ErrInvalid)
	case o.AnswerBy < o.Deadline:
		return Fact{}, fmt.Errorf("queue command %s: an answer is due before the deadline: %w", o.Name, ErrInvalid)
	case o.Deadline <= at:
		return Fact{}, fmt.Errorf("queue command %s: %w", o.Name, ErrPastDeadline)
	}
	return Fact{Type: string(Queued), At: at, By: by, Order: &o}, nil
}

// Send decides whether the command may be written to the device now. Its fact
// must be in the log before the first byte is written: a socket can't be recalled.
//
// Errors: ErrPastDeadline, ErrSentOnce, ErrFinal, ErrBackward (the device has
// it already), ErrNoCommand.
func (c *Command) Send(at int64) (Fact, error) {
	switch {
	case c.State == "":
		return Fact{}, ErrNoCommand
	case c.State.Final():
		return Fact{}, fmt.Errorf("send %s to %s: %s: %w", c.Order.Name, c.Order.Device, c.State, ErrFinal)
	case at >= c.Order.Deadline:
		return Fact{}, fmt.Errorf("send %s to %s: %w", c.Order.Name, c.Order.Device, ErrPastDeadline)
	case c.written() > 0 && c.Order.Policy == NowOrNever:
		return Fact{}, fmt.Errorf("send %s to %s again: %w", c.Order.Name, c.Order.Device, ErrSentOnce)
	case c.State.rank() >= Delivered.rank():
		return Fact{}, fmt.Errorf("send %s to %s again: %s: %w", c.Order.Name, c.Order.Device, c.State, ErrBackward)
	}
	return Fact{Type: string(Sent), At: at, By: ByGateway, Attempt: c.Attempts + 1}, nil
}

// Unsend records that not a byte of the last attempt was written, although it was
// announced: the device went meanwhile, or the deadline came. A command of which
// no attempt was written is queued again, so that it can still be expired, and
// nobody has to wonder. Of any other attempt it is no news.
//
// Errors: ErrNoCommand.
func (c *Command) Unsend(attempt int, at int64, reason string) (Fact, error) {
	switch {
	case c.State == "":
		return Fact{}, ErrNoCommand
	case c.State != Sent || attempt != c.Attempts:
		return Fact{}, nil
	}
	return Fact{Type: TypeUnsent, At: at, By: ByGateway, Attempt: attempt, Reason: reason}, nil
}

// Deliver records the device's acknowledgement of an attempt. A second one, or
// one that the device's own answer has overtaken, is no news: no fact, no error.
//
// Errors: ErrNotSent, ErrNoCommand.
func (c *Command) Deliver(attempt int, at int64) (Fact, error) {
	switch {
	case c.State == "":
		return Fact{}, ErrNoCommand
	case c.Attempts == 0:
		return c.refuse(ErrNotSent, Delivered, at, ByGateway)
	case c.State != Sent:
		return Fact{}, nil
	}
	return Fact{Type: string(Delivered), At: at, By: ByGateway, Attempt: attempt}, nil
}

// An Answer is what a device reports about a command.
type Answer struct {
	State  State
	Code   string
	Reason string
	Result json.RawMessage
}

// Answer decides on a device's report. A report that was made before is no
// news. After the server's time-out a final report is kept, marked late, and
// wins.
//
// Errors (the fact, if any, records the refusal): ErrNotSent, ErrFinal,
// ErrBackward, ErrNotAnAnswer, ErrNoCommand.
func (c *Command) Answer(a Answer, at int64) (Fact, error) {
	late := c.State == TimedOut && c.byServer
	f := Fact{Type: string(a.State), At: at, By: ByDevice, Code: a.Code, Reason: a.Reason, Result: a.Result, Late: late}
	switch {
	case c.State == "":
		return Fact{}, ErrNoCommand
	case !a.State.answerable():
		return c.refuse(ErrNotAnAnswer, a.State, at, ByDevice)
	case c.written() == 0:
		return c.refuse(ErrNotSent, a.State, at, ByDevice)
	case late && a.State.Final():
		return f, nil
	case late:
		f.Type = TypeProgress // it is still at it: kept, and the time-out stands
		return f, nil
	case a.State == c.State && !bytes.Equal(a.Result, c.Result) && a.State == Running:
		f.Type = TypeProgress
		return f, nil
	case a.State == c.State:
		return Fact{}, nil
	case c.State.Final():
		return c.refuse(ErrFinal, a.State, at, ByDevice)
	case a.State.rank() < c.State.rank():
		return c.refuse(ErrBackward, a.State, at, ByDevice)
	}
	return f, nil
}

// Cancel decides on a wish to cancel: before the command is sent it ends it,
// afterwards it is a request to the device (TypeCancelRequested), and whether
// the device obeyed is known from its answer. A second wish is no news.
//
// Errors: ErrFinal, ErrNoCommand.
func (c *Command) Cancel(at int64, by, reason string) (Fact, error) {
	switch {
	case c.State == "":
		return Fact{}, ErrNoCommand
	case c.State == Cancelled:
		return Fact{}, nil
	case c.State.Final():
		return Fact{}, fmt.Errorf("cancel %s to %s: %s: %w", c.Order.Name, c.Order.Device, c.State, ErrFinal)
	case c.State == Queued:
		return Fact{Type: string(Cancelled), At: at, By: by, Reason: reason}, nil
	case c.CancelRequested:
		return Fact{}, nil
	}
	return Fact{Type: TypeCancelRequested, At: at, By: by, Reason: reason}, nil
}

// Abandon ends a now_or_never command whose device is not there. It was never
// sent, so it is expired, before its deadline.
//
// Errors: ErrNoCommand, ErrFinal, ErrSentOnce.
func (c *Command) Abandon(at int64, reason string) (Fact, error) {
	switch {
	case c.State == "":
		return Fact{}, ErrNoCommand
	case c.State.Final():
		return Fact{}, ErrFinal
	case c.written() > 0:
		return Fact{}, ErrSentOnce
	}
	return Fact{Type: string(Expired), At: at, By: ByGateway, Reason: reason}, nil
}

// Pass decides what the passing of time has done: nothing before Due.
func (c *Command) Pass(now int64) (Fact, bool) {
	due := c.Due()
	if due == 0 || now < due {
		return Fact{}, false
	}
	if c.State == Queued {
		return Fact{Type: string(Expired), At: now, By: ByDeadline, Reason: "never sent before its deadline"}, true
	}
	return Fact{Type: string(TimedOut), At: now, By: ByDeadline, Reason: "sent, and no final answer in time"}, true
}
