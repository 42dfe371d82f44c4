package commands

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/tachograph/tachograph/projections/command"
	"github.com/tachograph/tachograph/services/gateway"
)

// An attempt is one message to a device.
type attempt struct {
	d       *device
	e       *entry
	order   command.Order
	n       int
	topic   string
	payload []byte
}

// transmit takes one attempt, after before others: sent is in the log before the
// first byte leaves.
func (s *Commands) transmit(d *device, e *entry, topic string, before int) {
	var now int64
	v, err := s.do(context.Background(), e.key, task{decide: func(c *command.Command, at int64) (command.Fact, error) {
		if c.CancelRequested || c.Attempts != before { // or another process was first
			return command.Fact{}, command.ErrSentOnce
		}
		now = at
		return c.Send(at)
	}})
	if err != nil {
		if !refused(err) {
			s.logger.Warn("command is not sent, as the log did not take that it is", "device", e.device, "command", e.id, "error", err)
		}
		again := passAgain
		if refused(err) {
			again = s.limits.Attempt
		}
		s.land(d, e, s.clock.ms()+again.Milliseconds())
		return
	}
	a := attempt{d: d, e: e, order: v.Order, n: v.Attempts, topic: topic}
	if a.payload, err = render(&v.Command, now); err != nil {
		s.logger.Error("command cannot be rendered", "device", e.device, "command", e.id, "error", err) // it was JSON when it was queued
		s.land(d, e, v.Order.AnswerBy)
		return
	}
	acked := s.write(a)
	if acked == nil {
		s.land(d, e, v.Order.AnswerBy)
		return
	}
	s.spawn(func() { s.await(a, acked) })
}

// write hands an attempt to the connection, unless its deadline has passed:
// appending took its time.
func (s *Commands) write(a attempt) (acked <-chan error) {
	if s.clock.ms() >= a.order.Deadline {
		s.metrics.attempts.WithLabelValues("too late", dry(a.order)).Inc()
		s.unsend(a, "its deadline passed before it was written")
		return nil
	}
	ctx, cancel := context.WithDeadline(context.Background(), time.UnixMilli(a.order.AnswerBy))
	answer := make(chan error, 1)
	delivered := s.out.Deliver(ctx, a.e.device, a.topic, a.payload, 1)
	s.spawn(func() {
		defer cancel()
		select {
		case err := <-delivered:
			answer <- err
		case <-s.stopping:
		}
	})
	return answer
}

// await waits for an attempt's acknowledgement, also for a late one.
func (s *Commands) await(a attempt, acked <-chan error) {
	t := time.NewTimer(s.limits.Attempt)
	defer t.Stop()
	for flying := true; ; {
		var err error
		select {
		case err = <-acked:
		case <-t.C:
			s.metrics.attempts.WithLabelValues("not acknowledged in time", dry(a.order)).Inc()
			s.land(a.d, a.e, s.silent(a.e, a.topic))
			flying = false
			continue
		case <-s.stopping:
			return
		}
		if errors.Is(err, gateway.ErrBusy) && flying { // not written: it is still the same attempt
			select {
			case <-time.After(busyPause):
			case <-s.stopping:
				return
			}
			if acked = s.write(a); acked == nil {
				s.land(a.d, a.e, a.order.AnswerBy)
				return
			}
			continue
		}
		switch {
		case err == nil:
			s.record(a.e.key, func(c *command.Command, at int64) (command.Fact, error) { return c.Deliver(a.n, at) })
			s.metrics.attempts.WithLabelValues("acknowledged", dry(a.order)).Inc()
			if flying {
				s.land(a.d, a.e, 0)
			}
		case flying:
			s.land(a.d, a.e, s.undelivered(a, err))
		}
		back := errors.Is(err, gateway.ErrDisconnected) || errors.Is(err, gateway.ErrNotConnected) || errors.Is(err, gateway.ErrNotSubscribed)
		if back && s.heard(a.e.device, "command", a.e.id) != "" {
			s.retry(a.e) // it is back already
		}
		return
	}
}

// silent decides what follows when a device does not acknowledge: another
// attempt, and when that was not the first, on another connection.
func (s *Commands) silent(e *entry, topic string) (again int64) {
	s.mu.Lock()
	e.tries++
	end := e.tries >= s.limits.Attempts && e.c.State == command.Sent
	if end {
		e.tries = 0
	}
	s.mu.Unlock()
	if !end {
		return 0
	}
	s.out.Hangup(e.device, topic, "commands were not acknowledged")
	return s.clock.ms() + s.limits.Attempt.Milliseconds()
}

// undelivered records how an attempt failed, and returns from when on there may
// be another.
func (s *Commands) undelivered(a attempt, err error) (again int64) {
	again = s.clock.ms() + s.limits.Attempt.Milliseconds() // or when the device listens again
	outcome := "disconnected"
	switch {
	case errors.Is(err, gateway.ErrRejected):
		outcome, again = "rejected", a.order.AnswerBy // it would be again
	case errors.Is(err, gateway.ErrNotConnected), errors.Is(err, gateway.ErrNotSubscribed), errors.Is(err, gateway.ErrTooBig):
		s.metrics.attempts.WithLabelValues("not there", dry(a.order)).Inc()
		s.unsend(a, err.Error())
		return again
	case errors.Is(err, context.DeadlineExceeded):
		return again // its time is up: the deadline's fact says so
	}
	s.metrics.attempts.WithLabelValues(outcome, dry(a.order)).Inc()
	s.note(a.e.key, fmt.Sprintf("attempt %d: %v", a.n, err))
	return again
}

// unsend records that an attempt was not written. What nobody can get any more,
// or wants, is ended by who sees it next.
func (s *Commands) unsend(a attempt, reason string) {
	s.record(a.e.key, func(c *command.Command, at int64) (command.Fact, error) { return c.Unsend(a.n, at, reason) })
	s.record(a.e.key, func(c *command.Command, at int64) (command.Fact, error) {
		if c.State != command.Queued || !c.CancelRequested {
			return command.Fact{}, nil
		}
		return c.Cancel(at, command.ByGateway, "was to be cancelled, and was never written")
	})
}

// busyPause is how long a connection that is full of messages is left alone.
const busyPause = 200 * time.Millisecond

// A Message is what a device receives on commands/{id}.
type Message struct {
	ID         string          `json:"id"` // the same on every attempt: do it once
	Name       string          `json:"name"`
	Parameters json.RawMessage `json:"parameters,omitempty"`
	DryRun     bool            `json:"dry_run,omitempty"` // only answer what would have been done
	Deadline   int64           `json:"deadline"`          // epoch milliseconds; do not begin after it
	Sent       int64           `json:"sent"`              // epoch milliseconds, for a device whose clock is wrong
	Attempt    int             `json:"attempt"`
}

func render(c *command.Command, now int64) ([]byte, error) {
	return json.Marshal(Message{
		ID: c.Order.ID, Name: c.Order.Name, Parameters: c.Order.Parameters, DryRun: c.Order.DryRun,
		Deadline: c.Order.Deadline, Sent: now, Attempt: c.Attempts,
	})
}
