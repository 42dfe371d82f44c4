package commands_test

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	mqtt "github.com/eclipse/paho.mqtt.golang"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/tachograph/tachograph/events"
	"github.com/tachograph/tachograph/events/jetlog"
	"github.com/tachograph/tachograph/projections/command"
	"github.com/tachograph/tachograph/services/commands"
	"github.com/tachograph/tachograph/services/dialect"
	"github.com/tachograph/tachograph/services/gateway"
	"github.com/tachograph/tachograph/services/gateway/gatewaytest"
)

// patient is how long a test waits for what must come.
const patient = 60 * time.Second

func jetLog(t testing.TB) events.Log { return gatewaytest.JetLog(t, jetlog.OS, 0) }

// A site is a gateway with commands over a log on files.
type site struct {
	*commands.Commands
	t       testing.TB
	gw      *gatewaytest.Fixture
	metrics *prometheus.Registry
	stop    func()
}

func start(t testing.TB, log events.Log, limits commands.Limits) *site {
	t.Helper()
	s := &site{t: t, metrics: prometheus.NewRegistry()}
	s.gw = gatewaytest.Start(t, log, gateway.Limits{}, func(g *gateway.Gateway) {
		s.Commands, s.stop = open(t, log, limits, g, s.metrics)
		g.Serve(dialect.Command, s.Commands)
	})
	return s
}

// open runs commands until the test, or stop, ends them.
func open(t testing.TB, log events.Log, limits commands.Limits, out commands.Outlet, metrics prometheus.Registerer) (*commands.Commands, func()) {
	t.Helper()
	c, err := commands.Open(t.Context(), commands.Config{Log: log, Limits: limits, Metrics: metrics})
	if err != nil {
		t.Fatal(err)
	}
	if out != nil {
		c.Send(out)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- c.Run(ctx) }()
	stopped := false
	stop := func() {
		if stopped {
			return
		}
		stopped = true
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	}
	t.Cleanup(stop)
	return c, stop
}

// order is a request with a day to be sent and another to be answered.
func order(device string, policy command.Policy, change ...func(*commands.Request)) commands.Request {
	r := commands.Request{
		Device: device, Name: "unlock", Policy: policy, By: "operator",
		Deadline: time.Now().Add(24 * time.Hour), AnswerBy: time.Now().Add(48 * time.Hour),
	}
	for _, c := range change {
		c(&r)
	}
	return r
}

// within gives a request times from now.
func within(deadline, answer time.Duration) func(*commands.Request) {
	return func(r *commands.Request) {
		r.Deadline, r.AnswerBy = time.Now().Add(deadline), time.Now().Add(answer)
	}
}

func (s *site) queue(r commands.Request) commands.View {
	s.t.Helper()
	v, err := s.Queue(s.t.Context(), r)
	if err != nil {
		s.t.Fatal(err)
	}
	return v
}

// becomes waits until a command has a state.
func (s *site) becomes(device, id string, state command.State) (v commands.View) {
	s.t.Helper()
	gatewaytest.Eventually(s.t, fmt.Sprintf("%s is %s", id, state), func() bool {
		var err error
		if v, err = s.Get(s.t.Context(), device, id); err != nil {
			s.t.Fatal(err)
		}
		return v.State == state
	})
	return v
}

// steps are the types of a command's facts.
func steps(v commands.View) string {
	var all []string
	for _, f := range v.History {
		all = append(all, f.Type)
	}
	return strings.Join(all, " ")
}

// refusals is how many answers were refused for a reason.
func (s *site) refusals(reason string) (n float64) {
	s.t.Helper()
	families, err := s.metrics.Gather()
	if err != nil {
		s.t.Fatal(err)
	}
	for _, f := range families {
		for _, m := range f.GetMetric() {
			if f.GetName() == "tacho_commands_answers_refused_total" && m.GetLabel()[0].GetValue() == reason {
				n += m.GetCounter().GetValue()
			}
		}
	}
	return n
}

// A car is a device with a client that nobody here wrote.
type car struct {
	t testing.TB
	mqtt.Client
	heard chan heard
}

type heard struct {
	Raw mqtt.Message
	commands.Message
}

// connect connects a device that listens to commands and to cancels.
func (s *site) connect(device, token string, change ...func(*mqtt.ClientOptions)) *car {
	s.t.Helper()
	c := &car{t: s.t, heard: make(chan heard, 20_000)}
	o := mqtt.NewClientOptions().AddBroker("tcp://" + s.gw.MQTT).SetClientID(device).SetUsername(device).SetPassword(token).
		SetCleanSession(true).SetAutoReconnect(false).SetDefaultPublishHandler(func(_ mqtt.Client, m mqtt.Message) {
		h := heard{Raw: m}
		if err := json.Unmarshal(m.Payload(), &h.Message); err != nil {
			s.t.Errorf("%s: %s: %v", m.Topic(), m.Payload(), err)
		}
		c.heard <- h
	})
	for _, f := range change {
		f(o)
	}
	c.Client = mqtt.NewClient(o)
	c.wait(c.Connect())
	s.t.Cleanup(func() { c.Disconnect(0) })
	c.wait(c.Subscribe("cancel/+", 1, nil))
	c.wait(c.Subscribe("commands/+", 1, nil))
	return c
}

func deaf(o *mqtt.ClientOptions) { o.SetAutoAckDisabled(true) }

func (c *car) wait(token mqtt.Token) {
	c.t.Helper()
	if !token.WaitTimeout(patient) || token.Error() != nil {
		c.t.Fatalf("no answer: %v", token.Error())
	}
}

func (c *car) answer(id, body string) {
	c.t.Helper()
	c.wait(c.Publish("commands/"+id+"/answer", 1, false, body))
}

// hears expects the next message.
func (c *car) hears(topic string) heard {
	c.t.Helper()
	select {
	case h := <-c.heard:
		if h.Raw.Topic() != topic {
			c.t.Fatalf("heard %s %s, want %s", h.Raw.Topic(), h.Raw.Payload(), topic)
		}
		return h
	case <-time.After(patient):
		c.t.Fatalf("never heard %s", topic)
		return heard{}
	}
}

// silence expects that nothing was heard. What would have to have come before
// has come: the caller has seen to it.
func (c *car) silence() {
	c.t.Helper()
	select {
	case h := <-c.heard:
		c.t.Errorf("heard %s %s", h.Raw.Topic(), h.Raw.Payload())
	default:
	}
}
