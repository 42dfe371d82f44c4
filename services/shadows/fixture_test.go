package shadows_test

import (
	"context"
	"encoding/json"
	"testing"
	"time"

	mqtt "github.com/eclipse/paho.mqtt.golang"

	"github.com/tachograph/tachograph/events"
	"github.com/tachograph/tachograph/events/jetlog"
	"github.com/tachograph/tachograph/projections/shadow"
	"github.com/tachograph/tachograph/services/dialect"
	"github.com/tachograph/tachograph/services/gateway"
	"github.com/tachograph/tachograph/services/gateway/gatewaytest"
	"github.com/tachograph/tachograph/services/shadows"
)

// A site is a gateway with shadows over a log on files.
type site struct {
	t  testing.TB
	gw *gatewaytest.Fixture
	*shadows.Shadows
}

func start(t testing.TB, log events.Log, limits shadows.Limits) *site {
	t.Helper()
	s := &site{t: t, Shadows: open(t, log, limits)}
	s.gw = gatewaytest.Start(t, log, gateway.Limits{}, func(g *gateway.Gateway) {
		g.Serve(dialect.Shadow, s.Shadows)
		s.Tell(g)
	})
	run(t, s.Run, s.PayDebts)
	return s
}

// open returns shadows that do not follow the log yet.
func open(t testing.TB, log events.Log, limits shadows.Limits) *shadows.Shadows {
	t.Helper()
	s, err := shadows.Open(t.Context(), shadows.Config{Log: log, Limits: limits})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// run keeps parts at work until the test ends.
func run(t testing.TB, parts ...func(context.Context) error) {
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, len(parts))
	for _, part := range parts {
		go func() { ended <- part(ctx) }()
	}
	t.Cleanup(func() {
		cancel()
		for range parts {
			if err := <-ended; err != nil {
				t.Error(err)
			}
		}
	})
}

func jetLog(t testing.TB) events.Log { return gatewaytest.JetLog(t, jetlog.OS, 0) }

// do asks as an operator would.
func do(t testing.TB, s *shadows.Shadows, device, name, body string) (shadows.Outcome, error) {
	t.Helper()
	req, refused := shadow.ParseRequest([]byte(body), shadow.Limits{})
	if refused != nil {
		t.Fatal(refused)
	}
	return s.Do(t.Context(), shadows.Wish{Device: device, Name: name, Request: req, By: "operator"})
}

// A car is a device with a client that nobody here wrote.
type car struct {
	t testing.TB
	mqtt.Client
	heard chan heard
}

type heard struct {
	Topic string
	Body  map[string]any
	Raw   string
}

// connect connects a device that listens to filters, in one SUBSCRIBE each.
func (s *site) connect(device, token string, clean bool, filters ...string) *car {
	s.t.Helper()
	c := &car{t: s.t, heard: make(chan heard, 50_000)}
	c.Client = mqtt.NewClient(mqtt.NewClientOptions().AddBroker("tcp://" + s.gw.MQTT).SetClientID(device).SetUsername(device).SetPassword(token).
		SetCleanSession(clean).SetAutoReconnect(false).SetDefaultPublishHandler(func(_ mqtt.Client, m mqtt.Message) {
		h := heard{Topic: m.Topic(), Raw: string(m.Payload())}
		if err := json.Unmarshal(m.Payload(), &h.Body); err != nil {
			s.t.Errorf("%s: %s: %v", m.Topic(), m.Payload(), err)
		}
		c.heard <- h
	}))
	c.wait(c.Connect())
	for _, f := range filters {
		c.wait(c.Subscribe(f, 1, nil))
	}
	return c
}

func (c *car) wait(token mqtt.Token) {
	c.t.Helper()
	if !token.WaitTimeout(30*time.Second) || token.Error() != nil {
		c.t.Fatalf("no answer: %v", token.Error())
	}
}

func (c *car) say(topic, body string) {
	c.t.Helper()
	c.wait(c.Publish(topic, 1, false, body))
}

// hears expects the next message.
func (c *car) hears(topic string) heard {
	c.t.Helper()
	select {
	case h := <-c.heard:
		if h.Topic != topic {
			c.t.Fatalf("heard %s %s, want %s", h.Topic, h.Raw, topic)
		}
		return h
	case <-time.After(30 * time.Second):
		c.t.Fatalf("never heard %s", topic)
		return heard{}
	}
}

// at returns what is under keys in a message.
func (h heard) at(keys ...string) any {
	var v any = h.Body
	for _, k := range keys {
		m, ok := v.(map[string]any)
		if !ok {
			return nil
		}
		v = m[k]
	}
	return v
}
