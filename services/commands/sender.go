package commands

import (
	"cmp"
	"context"
	"time"

	"github.com/tachograph/tachograph/projections/command"
	"github.com/tachograph/tachograph/services/dialect"
	"github.com/tachograph/tachograph/services/gateway"
)

// An Outlet reaches the devices that are connected to this process;
// *gateway.Gateway is one.
type Outlet interface {
	Connected(device string) bool
	Topics(device string, r dialect.Route) []string
	Hears(device, topic string) bool
	Deliver(ctx context.Context, device, topic string, payload []byte, qos byte) (acked <-chan error)
	Broadcast(device, topic string, payload []byte) (heard int, err error)
	Hangup(device, topic, detail string)
}

// Send gives commands a way to the devices of this process. It is called
// before Run.
func (s *Commands) Send(out Outlet) { s.out = out }

// sendable returns from when on the command may be written to its device
// (epoch milliseconds, at least 1), 0 when not as things stand.
func (e *entry) sendable() int64 {
	c := &e.c
	retry := c.State == command.Sent && c.Order.Policy == command.UntilDeadline && !c.CancelRequested
	if e.flying || c.State != command.Queued && !retry {
		return 0
	}
	return max(1, e.again, e.sentAt+patience(c.Attempts))
}

// patience is how long after an attempt the next may come, in milliseconds,
// whatever the device does: each is in the log for good.
func patience(attempts int) int64 {
	if attempts <= 3 {
		return 0
	}
	return min(int64(1000)<<min(attempts-4, 20), 5*60_000)
}

// before tells which of two commands goes first.
func before(a, b *entry) bool {
	if c := cmp.Compare(b.c.Order.Priority, a.c.Order.Priority); c != 0 {
		return c < 0
	}
	if c := cmp.Compare(a.c.History[0].At, b.c.History[0].At); c != 0 {
		return c < 0
	}
	return a.id < b.id
}

// pump has a device's next commands sent. The caller holds s.mu.
func (s *Commands) pump(d *device) {
	if s.out == nil {
		return
	}
	if d.pumping {
		d.pumpMore = true
		return
	}
	d.pumping = true
	s.spawn(func() { s.send(d) })
}

// send writes what can be written now, one command after the other, then ends.
// A command that waits holds up those behind it.
func (s *Commands) send(d *device) {
	for {
		s.mu.Lock()
		d.pumpMore = false
		e := d.first()
		s.mu.Unlock()
		if e == nil || s.stopped() {
			if s.rest(d) {
				return
			}
			continue
		}
		topic := s.heard(d.id, "command", e.id)
		if topic == "" {
			s.abandon(d)
		}
		s.mu.Lock()
		ready := topic != "" && d.flying < s.limits.InFlight && e.sendable() > 0 && e.sendable() <= s.clock.ms()
		before := e.c.Attempts
		if ready {
			e.flying = true // what evolve sees of this attempt is ours
			d.flying++
		} else {
			s.setTimer(e)
		}
		s.mu.Unlock()
		if ready {
			s.transmit(d, e, topic, before)
		} else if s.rest(d) {
			return
		}
	}
}

// rest ends a device's sending unless there was news of it meanwhile.
func (s *Commands) rest(d *device) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if d.pumpMore && !s.stopped() {
		return false
	}
	d.pumping = false
	s.leave(d)
	return true
}

// leave forgets a device without open commands. The caller holds s.mu.
func (s *Commands) leave(d *device) {
	if len(d.open) == 0 && d.flying == 0 && !d.pumping && s.devices[d.id] == d {
		delete(s.devices, d.id)
	}
}

func (s *Commands) stopped() bool {
	select {
	case <-s.stopping:
		return true
	default:
		return false
	}
}

// first returns the device's next command, be it ready or not; nil without one.
// The caller holds Commands.mu.
func (d *device) first() (first *entry) {
	for e := range d.open {
		if e.sendable() > 0 && (first == nil || before(e, first)) {
			first = e
		}
	}
	return first
}

// heard returns the topic under which the device listens to a route here.
func (s *Commands) heard(device, typ, id string) string {
	for _, topic := range s.out.Topics(device, dialect.Route{Kind: dialect.Command, Type: typ, Name: id}) {
		if s.out.Hears(device, topic) {
			return topic
		}
	}
	return ""
}

// abandon ends the now_or_never commands of a device that is not there.
func (s *Commands) abandon(d *device) {
	if s.elsewhere != nil && s.elsewhere(d.id) {
		return // another process sends them; if it can't, their deadline ends them
	}
	reason := "device is not connected"
	if s.out.Connected(d.id) {
		reason = "device does not listen to commands"
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for e := range d.open {
		if e.c.State != command.Queued || e.c.Order.Policy != command.NowOrNever {
			continue
		}
		e.queue = append(e.queue, &task{decide: func(c *command.Command, at int64) (command.Fact, error) {
			return c.Abandon(at, reason)
		}})
		if !e.working {
			e.working = true
			s.spawn(func() { s.serve(e) })
		}
	}
}

// land ends an attempt.
func (s *Commands) land(d *device, e *entry, again int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	e.flying, e.again = false, again
	d.flying--
	s.setTimer(e)
	s.pump(d)
	s.leave(d)
}

// retry has a command sent again now.
func (s *Commands) retry(e *entry) {
	s.mu.Lock()
	defer s.mu.Unlock()
	e.again, e.tries = 0, 0
	if d := s.devices[e.device]; d != nil {
		s.pump(d)
	}
}

// record appends a decision, again and again until the log takes it or Run ends.
func (s *Commands) record(k key, decide func(*command.Command, int64) (command.Fact, error)) {
	for {
		_, err := s.do(context.Background(), k, task{decide: decide})
		if err == nil || refused(err) {
			return
		}
		s.logger.Warn("step of a command is not in the log yet", "device", k.device, "command", k.id, "error", err)
		select {
		case <-time.After(passAgain):
		case <-s.stopping:
			return
		}
	}
}

// note adds to a command's history what changes no state.
func (s *Commands) note(k key, reason string) {
	s.put(k, &task{decide: func(c *command.Command, at int64) (command.Fact, error) {
		if c.State == "" || c.State.Final() {
			return command.Fact{}, nil
		}
		return command.Fact{Type: command.TypeProgress, At: at, By: command.ByGateway, Reason: reason}, nil
	}})
}

// Listening has the commands sent that wait for their device. It implements
// gateway.Service.
func (s *Commands) Listening(l gateway.Listener) {
	s.mu.Lock()
	defer s.mu.Unlock()
	d := s.devices[l.Device]
	if d == nil {
		return
	}
	for e := range d.open {
		if e.c.State == command.Sent || e.c.State == command.Queued {
			e.again, e.tries = 0, 0
		}
		if e.c.CancelRequested {
			s.spawn(func() { s.sendCancel(e.key) })
		}
	}
	s.pump(d)
}

// sendCancel asks the device to stop. Nothing is kept of it: it is asked again
// whenever it begins to listen, until the command has its final state.
func (s *Commands) sendCancel(k key) {
	if s.out == nil {
		return
	}
	for _, topic := range s.out.Topics(k.device, dialect.Route{Kind: dialect.Command, Type: "cancel", Name: k.id}) {
		_, _ = s.out.Broadcast(k.device, topic, []byte(`{"id":"`+k.id+`"}`))
	}
}
