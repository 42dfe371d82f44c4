package commands_test

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"time"

	"github.com/tachograph/tachograph/projections/command"
	"github.com/tachograph/tachograph/services/commands"
	"github.com/tachograph/tachograph/services/dialect"
	"github.com/tachograph/tachograph/services/gateway"
	"github.com/tachograph/tachograph/services/gateway/gatewaytest"
)

// TestClockSteps: what a wall clock that was set forward has put past its
// deadline is not sent once the clock is set back, and what is asked for then is
// counted from the time that never goes back.
func TestClockSteps(t *testing.T) {
	var wall atomic.Int64
	now := func() time.Time { return time.Now().Add(time.Duration(wall.Load())).Round(0) } // a wall clock alone
	log := jetLog(t)
	c, err := commands.Open(t.Context(), commands.Config{Log: log, Now: now})
	if err != nil {
		t.Fatal(err)
	}
	s := &site{t: t, Commands: c}
	s.gw = gatewaytest.Start(t, log, gateway.Limits{}, func(g *gateway.Gateway) {
		c.Send(g)
		g.Serve(dialect.Command, c)
	})
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- c.Run(ctx) }()
	defer func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	}()
	token := s.gw.Add(t, "car-1")
	short := s.queue(order("car-1", command.UntilDeadline, within(time.Hour, 2*time.Hour)))
	long := s.queue(order("car-1", command.UntilDeadline))
	wall.Store(int64(90 * time.Minute))
	s.becomes("car-1", short.Order.ID, command.Expired)
	wall.Store(int64(-2 * time.Hour))

	if got := c.Now(); got.Before(time.Now().Add(80 * time.Minute)) {
		t.Errorf("the clock went back to %s", got)
	}
	if _, err := c.Queue(t.Context(), order("car-1", command.UntilDeadline, within(time.Hour, 2*time.Hour))); !errors.Is(err, command.ErrPastDeadline) {
		t.Error(err)
	}
	soon := s.queue(order("car-1", command.UntilDeadline, func(r *commands.Request) {
		r.Deadline, r.AnswerBy = c.Now().Add(time.Minute), c.Now().Add(time.Hour)
	}))
	car := s.connect("car-1", token)
	for range 2 {
		if h := <-car.heard; h.ID != long.Order.ID && h.ID != soon.Order.ID {
			t.Errorf("heard %s", h.Raw.Payload())
		}
	}
	s.becomes("car-1", soon.Order.ID, command.Delivered)
	car.silence()
}
