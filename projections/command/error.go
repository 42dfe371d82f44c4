package command

import (
	"errors"
	"fmt"
)

// Why a decision is refused. Test with errors.Is.
var (
	ErrInvalid      = errors.New("invalid command")
	ErrExists       = errors.New("idempotency key was used for another command")
	ErrNoCommand    = errors.New("no such command")
	ErrNotSent      = errors.New("command was not sent")             // an answer to a command that never left
	ErrFinal        = errors.New("command has its final state")      // an answer, a send or a cancel after the end
	ErrBackward     = errors.New("command is already further")       // running after succeeded, accepted after running
	ErrPastDeadline = errors.New("command is past its deadline")     // never sent, not even by a retry
	ErrSentOnce     = errors.New("command may be written only once") // now_or_never
	ErrNotAnAnswer  = errors.New("not a state a device can report")
)

func (c *Command) refuse(err error, asked State, at int64, by string) (Fact, error) {
	err = fmt.Errorf("command %s to %s: %s to %s: %w", c.Order.Name, c.Order.Device, c.State, asked, err)
	if c.Refusals >= maxRefusals {
		return Fact{}, err
	}
	return Fact{Type: TypeRefused, At: at, By: by, Asked: asked, Reason: err.Error()}, err
}

// maxRefusals bounds what a device that answers nonsense without end adds to
// a command's history.
const maxRefusals = 16
