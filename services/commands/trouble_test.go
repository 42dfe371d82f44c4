package commands_test

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	mqtt "github.com/eclipse/paho.mqtt.golang"

	"github.com/tachograph/tachograph/projections/command"
	"github.com/tachograph/tachograph/services/commands"
	"github.com/tachograph/tachograph/services/dialect"
	"github.com/tachograph/tachograph/services/gateway"
	"github.com/tachograph/tachograph/services/gateway/gatewaytest"
)

// TestNoPuback: a device that does not acknowledge gets until_deadline again,
// then loses its connection; now_or_never it gets once.
func TestNoPuback(t *testing.T) {
	t.Parallel()
	s := start(t, jetLog(t), commands.Limits{Attempt: time.Second})
	token := s.gw.Add(t, "car-1")
	car := s.connect("car-1", token, deaf)
	once := s.queue(order("car-1", command.NowOrNever, within(24*time.Hour, 24*time.Hour)))
	car.hears("commands/" + once.Order.ID)
	v := s.queue(order("car-1", command.UntilDeadline))
	for attempt := 1; attempt <= 2; attempt++ {
		if h := car.hears("commands/" + v.Order.ID); h.Attempt != attempt {
			t.Errorf("attempt %d, want %d", h.Attempt, attempt)
		}
	}
	gatewaytest.Eventually(t, "the connection is ended", func() bool { return !car.IsConnected() })

	well := s.connect("car-1", token)
	if h := well.hears("commands/" + v.Order.ID); h.Attempt != 3 {
		t.Errorf("attempt %d, want 3", h.Attempt)
	}
	s.becomes("car-1", v.Order.ID, command.Delivered)
	well.answer(v.Order.ID, `{"state":"succeeded"}`)
	s.becomes("car-1", v.Order.ID, command.Succeeded)
	well.silence()
	if v := s.becomes("car-1", once.Order.ID, command.Sent); v.Attempts != 1 {
		t.Errorf("written %d times", v.Attempts)
	}
	well.answer(once.Order.ID, `{"state":"failed"}`) // it had arrived
	s.becomes("car-1", once.Order.ID, command.Failed)
}

// TestLate: no answer in time, then one, which wins.
func TestLate(t *testing.T) {
	t.Parallel()
	s := start(t, jetLog(t), commands.Limits{Kept: 1})
	car := s.connect("car-1", s.gw.Add(t, "car-1"))
	v := s.queue(order("car-1", command.UntilDeadline, within(6*time.Second, 6*time.Second)))
	car.hears("commands/" + v.Order.ID)
	v = s.becomes("car-1", v.Order.ID, command.TimedOut)
	if last := v.History[len(v.History)-1]; last.By != command.ByDeadline || last.At < v.Order.AnswerBy {
		t.Errorf("%+v", last)
	}
	for range 2 { // out of memory with it
		v := s.queue(order("car-1", command.UntilDeadline))
		car.hears("commands/" + v.Order.ID)
		car.answer(v.Order.ID, `{"state":"succeeded"}`)
		s.becomes("car-1", v.Order.ID, command.Succeeded)
	}
	car.answer(v.Order.ID, `{"state":"succeeded"}`)
	if v = s.becomes("car-1", v.Order.ID, command.Succeeded); !v.Late {
		t.Error("not marked late")
	}
}

// TestDeadlineOffline: what was not sent in time is never sent.
func TestDeadlineOffline(t *testing.T) {
	t.Parallel()
	s := start(t, jetLog(t), commands.Limits{})
	token := s.gw.Add(t, "car-1")
	v := s.queue(order("car-1", command.UntilDeadline, within(3*time.Second, time.Hour)))
	v = s.becomes("car-1", v.Order.ID, command.Expired)
	if last := v.History[1]; last.At < v.Order.Deadline || last.By != command.ByDeadline {
		t.Errorf("%+v", last)
	}
	car := s.connect("car-1", token)
	next := s.queue(order("car-1", command.UntilDeadline))
	car.hears("commands/" + next.Order.ID)
	car.silence()
}

// TestForeignAnswer: nobody answers for another device.
func TestForeignAnswer(t *testing.T) {
	s := start(t, jetLog(t), commands.Limits{})
	one := s.connect("car-1", s.gw.Add(t, "car-1"))
	two := s.connect("car-2", s.gw.Add(t, "car-2"))
	v := s.queue(order("car-1", command.UntilDeadline))
	one.hears("commands/" + v.Order.ID)
	two.answer(v.Order.ID, `{"state":"succeeded"}`)
	if n := s.refusals("no_command"); n != 1 {
		t.Errorf("%v refused", n)
	}
	if v, err := s.Get(t.Context(), "car-1", v.Order.ID); err != nil || v.State.Final() {
		t.Error(v.State, err)
	}
	two.Publish("commands/car-1/"+v.Order.ID+"/answer", 1, false, `{"state":"succeeded"}`)
	gatewaytest.Eventually(t, "it is thrown out", func() bool { return !two.IsConnected() })
	// A kept session that comes back is the newest connection.
	token := s.gw.Add(t, "car-4")
	kept := s.connect("car-4", token, func(o *mqtt.ClientOptions) { o.SetClientID("kept").SetCleanSession(false) })
	kept.Disconnect(0)
	gatewaytest.Eventually(t, "it is gone", func() bool { return !s.gw.Connected("car-4") })
	other := s.connect("car-4", token, func(o *mqtt.ClientOptions) { o.SetClientID("other") })
	kept = s.connect("car-4", token, func(o *mqtt.ClientOptions) { o.SetClientID("kept").SetCleanSession(false) })
	newest := s.queue(order("car-4", command.NowOrNever))
	kept.hears("commands/" + newest.Order.ID)
	other.silence()
	offline := s.queue(order("car-3", command.UntilDeadline))
	three := s.connect("car-3", s.gw.Add(t, "car-3"), func(o *mqtt.ClientOptions) { o.SetClientID("other") })
	three.hears("commands/" + offline.Order.ID)
}

// TestEarlyAnswer: an answer to what was never sent is refused, and recorded.
func TestEarlyAnswer(t *testing.T) {
	s := start(t, jetLog(t), commands.Limits{})
	token := s.gw.Add(t, "car-1")
	v := s.queue(order("car-1", command.UntilDeadline))
	o := mqtt.NewClientOptions().AddBroker("tcp://" + s.gw.MQTT).SetUsername("car-1").SetPassword(token).SetAutoReconnect(false)
	c := &car{t: t, Client: mqtt.NewClient(o)} // listens to nothing
	c.wait(c.Connect())
	defer c.Disconnect(0)
	for range 40 {
		c.answer(v.Order.ID, `{"state":"succeeded"}`)
	}
	got := s.becomes("car-1", v.Order.ID, command.Queued)
	if steps(got) != "queued"+strings.Repeat(" refused", 16) {
		t.Error(steps(got))
	}
	if n := s.refusals("not_sent"); n != 40 {
		t.Errorf("%v counted", n)
	}
	never := s.queue(order("car-1", command.NowOrNever))
	if v := s.becomes("car-1", never.Order.ID, command.Expired); v.History[1].Reason != "device does not listen to commands" {
		t.Errorf("%+v", v.History[1])
	}
}

// TestRestart: timers, and what is to be sent again, are a fold of the log.
func TestRestart(t *testing.T) {
	t.Parallel()
	log := jetLog(t)
	s := start(t, log, commands.Limits{})
	token := s.gw.Add(t, "car-1")
	car := s.connect("car-1", token, deaf)
	again := s.queue(order("car-1", command.UntilDeadline))
	once := s.queue(order("car-1", command.NowOrNever, within(8*time.Second, 8*time.Second)))
	car.hears("commands/" + again.Order.ID)
	car.hears("commands/" + once.Order.ID)
	waits := s.queue(order("car-2", command.UntilDeadline, within(8*time.Second, time.Hour)))
	s.stop()
	if err := s.gw.Stop(); err != nil {
		t.Fatal(err)
	}

	s = start(t, log, commands.Limits{})
	for id, want := range map[string]command.State{again.Order.ID: command.Sent, once.Order.ID: command.Sent} {
		if v, err := s.Get(t.Context(), "car-1", id); err != nil || v.State != want {
			t.Errorf("%s is %s, %v", id, v.State, err)
		}
	}
	well := s.connect("car-1", token)
	if h := well.hears("commands/" + again.Order.ID); h.Attempt != 2 {
		t.Errorf("attempt %d", h.Attempt)
	}
	s.becomes("car-1", again.Order.ID, command.Delivered)
	s.becomes("car-1", once.Order.ID, command.TimedOut)
	s.becomes("car-2", waits.Order.ID, command.Expired)
	well.silence()
}

// TestTwoGateways: a device that is connected to two processes gets each
// command once.
func TestTwoGateways(t *testing.T) {
	log := jetLog(t)
	a, b := start(t, log, commands.Limits{}), start(t, log, commands.Limits{})
	token := a.gw.Add(t, "car-1")
	gatewaytest.Eventually(t, "both know it", func() bool { return b.gw.Auth.Authenticate("car-1", token) })
	cars := []*car{a.connect("car-1", token), b.connect("car-1", token)}
	const each = 100
	var queued sync.WaitGroup
	for _, s := range []*site{a, b} {
		queued.Go(func() {
			for i := range each {
				if _, err := s.Queue(t.Context(), order("car-1", []command.Policy{command.NowOrNever, command.UntilDeadline}[i%2])); err != nil {
					t.Error(err)
				}
			}
		})
	}
	queued.Wait()
	times := map[string]int{}
	for range 2 * each {
		select {
		case h := <-cars[0].heard:
			times[h.ID]++
		case h := <-cars[1].heard:
			times[h.ID]++
		case <-time.After(patient):
			t.Fatalf("heard of %d", len(times))
		}
	}
	if len(times) != 2*each {
		t.Errorf("%d commands in %d messages", len(times), 2*each)
	}
	for id := range times {
		v := a.becomes("car-1", id, command.Delivered)
		if steps(v) != "queued sent delivered" {
			t.Error(steps(v))
		}
	}
	cars[0].silence()
	cars[1].silence()
}

var (
	_ commands.Outlet = (*gateway.Gateway)(nil)
	_ gateway.Service = (*commands.Commands)(nil)
)

// TestChatter: a device that reports progress without end fills neither memory
// nor log, and its outcome is still heard.
func TestChatter(t *testing.T) {
	s := start(t, jetLog(t), commands.Limits{Steps: 20})
	car := s.connect("car-1", s.gw.Add(t, "car-1"))
	v := s.queue(order("car-1", command.UntilDeadline))
	car.hears("commands/" + v.Order.ID)
	s.becomes("car-1", v.Order.ID, command.Delivered)
	for i := range 50 {
		car.answer(v.Order.ID, fmt.Sprintf(`{"state":"running","result":%d}`, i))
	}
	if got := s.becomes("car-1", v.Order.ID, command.Running); len(got.History) != 20 || s.refusals("too_many_steps") != 33 {
		t.Errorf("%d steps, %v refused", len(got.History), s.refusals("too_many_steps"))
	}
	car.answer(v.Order.ID, `{"state":"succeeded"}`)
	s.becomes("car-1", v.Order.ID, command.Succeeded)
}

// TestOtherProcess: who asks and who sends are two processes.
func TestOtherProcess(t *testing.T) {
	log := jetLog(t)
	s := start(t, log, commands.Limits{})
	api, _ := open(t, log, commands.Limits{}, nil, nil)
	token := s.gw.Add(t, "car-1")
	car := s.connect("car-1", token)
	for range 20 {
		v, err := api.Queue(t.Context(), order("car-1", command.NowOrNever))
		if err != nil {
			t.Fatal(err)
		}
		car.hears("commands/" + v.Order.ID)
		go car.Publish("commands/"+v.Order.ID+"/answer", 1, false, `{"state":"succeeded"}`)
		for v, err = range api.Watch(t.Context(), "car-1", v.Order.ID) {
			if err != nil {
				t.Fatal(err)
			}
		}
		if v.State != command.Succeeded {
			t.Error(steps(v))
		}
	}
	car.Disconnect(0)
	v, err := api.Queue(t.Context(), order("car-1", command.UntilDeadline))
	if err != nil {
		t.Fatal(err)
	}
	if v, err = api.Cancel(t.Context(), "car-1", v.Order.ID, "operator", ""); err != nil || v.State != command.Cancelled {
		t.Error(v.State, err)
	}
	s.becomes("car-1", v.Order.ID, command.Cancelled)
}

// TestElsewhere: a process without the device's connection leaves a
// now_or_never command to the one that has it.
func TestElsewhere(t *testing.T) {
	t.Parallel()
	log := jetLog(t)
	var there *site
	c, err := commands.Open(t.Context(), commands.Config{Log: log, Elsewhere: func(device string) bool { return there.gw.Connected(device) }})
	if err != nil {
		t.Fatal(err)
	}
	here := gatewaytest.Start(t, log, gateway.Limits{}, func(g *gateway.Gateway) {
		g.Serve(dialect.Command, c)
		c.Send(g)
	})
	there = start(t, log, commands.Limits{})
	there.stop() // it has the connection, and is slow
	token := here.Add(t, "car-1")
	gatewaytest.Eventually(t, "both know it", func() bool { return there.gw.Auth.Authenticate("car-1", token) })
	there.connect("car-1", token)
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- c.Run(ctx) }()
	defer func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	}()
	v, err := c.Queue(t.Context(), order("car-1", command.NowOrNever, within(3*time.Second, time.Minute)))
	if err != nil {
		t.Fatal(err)
	}
	for next, err := range c.Watch(t.Context(), "car-1", v.Order.ID) {
		if err != nil {
			t.Fatal(err)
		}
		v = next
	}
	if last := v.History[len(v.History)-1]; v.State != command.Expired || last.By != command.ByDeadline {
		t.Errorf("%+v", last)
	}
}

// A hopeful outlet believes that a device listens, a few times, though it has
// just gone.
type hopeful struct {
	*gateway.Gateway
	times atomic.Int32
}

func (h *hopeful) Hears(device, topic string) bool {
	return h.times.Add(-1) >= 0 || h.Gateway.Hears(device, topic)
}

// TestGoneAtTheLastMoment: a command that was announced and not written is not
// called sent, and nobody has to wonder.
func TestGoneAtTheLastMoment(t *testing.T) {
	log := jetLog(t)
	var out *hopeful
	s := &site{t: t}
	s.gw = gatewaytest.Start(t, log, gateway.Limits{}, func(g *gateway.Gateway) {
		out = &hopeful{Gateway: g}
		s.Commands, s.stop = open(t, log, commands.Limits{}, out, nil)
		g.Serve(dialect.Command, s.Commands)
	})
	token := s.gw.Add(t, "car-1")
	out.times.Store(1)
	v := s.queue(order("car-1", command.NowOrNever))
	if v = s.becomes("car-1", v.Order.ID, command.Expired); steps(v) != "queued sent unsent expired" {
		t.Error(steps(v))
	}
	out.times.Store(1)
	v = s.queue(order("car-1", command.UntilDeadline))
	gatewaytest.Eventually(t, "it is not sent", func() bool {
		now, err := s.Get(t.Context(), "car-1", v.Order.ID)
		return err == nil && steps(now) == "queued sent unsent" && now.State == command.Queued
	})
	car := s.connect("car-1", token)
	if h := car.hears("commands/" + v.Order.ID); h.Attempt != 2 {
		t.Errorf("attempt %d", h.Attempt)
	}
	s.becomes("car-1", v.Order.ID, command.Delivered)
}
