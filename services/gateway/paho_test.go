package gateway_test

import (
	"context"
	"fmt"
	"net"
	"net/url"
	"sync"
	"testing"
	"time"

	pahov5 "github.com/eclipse/paho.golang/paho"
	pahov3 "github.com/eclipse/paho.mqtt.golang"

	"github.com/tachograph/tachograph/events"
	"github.com/tachograph/tachograph/services/gateway"
	"github.com/tachograph/tachograph/services/gateway/gatewaytest"
)

// paho.mqtt.golang, version 3.1.1: many messages of every QoS in order, a
// subscription, a delivery, and a reconnect in the middle.
func TestPahoV3(t *testing.T) {
	eachLog(t, func(t *testing.T, log events.Log) {
		f := gatewaytest.Start(t, log, gateway.Limits{})
		opts := pahov3.NewClientOptions().AddBroker("tcp://" + f.MQTT).SetClientID("paho").SetUsername("car-1").SetPassword(f.Add(t, "car-1")).
			SetCleanSession(false).SetOrderMatters(true).SetMaxReconnectInterval(50 * time.Millisecond)
		var conns sync.Map
		opts.SetCustomOpenConnectionFn(func(u *url.URL, _ pahov3.ClientOptions) (net.Conn, error) {
			nc, err := net.Dial("tcp", u.Host)
			if err == nil {
				conns.Store(nc, true)
			}
			return nc, err
		})
		c := pahov3.NewClient(opts)
		wait := func(token pahov3.Token) {
			t.Helper()
			if !token.WaitTimeout(20*time.Second) || token.Error() != nil {
				t.Fatalf("no answer: %v", token.Error())
			}
		}
		wait(c.Connect())
		defer c.Disconnect(100)
		commands := make(chan pahov3.Message, 1)
		wait(c.Subscribe("commands/#", 1, func(_ pahov3.Client, m pahov3.Message) { commands <- m }))
		var tokens []pahov3.Token
		for i := range 300 {
			tokens = append(tokens, c.Publish("telemetry/position", byte(1+i%2), false, fmt.Sprintf(`{"n":%d}`, i)))
			if i == 150 {
				conns.Range(func(nc, _ any) bool { _ = nc.(*net.TCPConn).CloseWrite(); return true })
			}
		}
		// A token that is done says little: paho completes it also when it hands its
		// message over to be sent again. What it has taken on arrives, that counts.
		for _, token := range tokens {
			if !token.WaitTimeout(20 * time.Second) {
				t.Fatal("no answer")
			}
		}
		gatewaytest.Eventually(t, "it is back", c.IsConnectionOpen)
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		defer cancel()
		if err := <-f.Deliver(ctx, "car-1", "commands/stop", []byte("now"), 1); err != nil {
			t.Fatal(err)
		}
		if m := <-commands; m.Topic() != "commands/stop" || string(m.Payload()) != "now" {
			t.Errorf("%+v", m)
		}
		gatewaytest.Eventually(t, "all are stored", func() bool {
			distinct := map[string]bool{}
			for _, e := range f.Stored(t, "car-1") {
				distinct[string(e.Payload)] = true
			}
			return len(distinct) == 300
		})
	})
}

// paho.golang, version 5: reasons, user properties, aliases.
func TestPahoV5(t *testing.T) {
	eachLog(t, func(t *testing.T, log events.Log) {
		f := gatewaytest.Start(t, log, gateway.Limits{})
		nc, err := net.Dial("tcp", f.MQTT)
		if err != nil {
			t.Fatal(err)
		}
		gone := make(chan byte, 1)
		heard := make(chan *pahov5.Publish, 1)
		c := pahov5.NewClient(pahov5.ClientConfig{
			Conn:               nc,
			OnServerDisconnect: func(d *pahov5.Disconnect) { gone <- d.ReasonCode },
			OnPublishReceived: []func(pahov5.PublishReceived) (bool, error){func(p pahov5.PublishReceived) (bool, error) {
				heard <- p.Packet
				return true, nil
			}},
		})
		ack, err := c.Connect(t.Context(), &pahov5.Connect{
			ClientID: "paho", Username: "car-1", UsernameFlag: true, Password: []byte(f.Add(t, "car-1")), PasswordFlag: true, CleanStart: true, KeepAlive: 30,
		})
		if err != nil || ack.Properties.RetainAvailable || ack.Properties.SharedSubAvailable || ack.Properties.MaximumPacketSize == nil {
			t.Fatalf("%+v %v", ack, err)
		}
		if s, err := c.Subscribe(t.Context(), &pahov5.Subscribe{Subscriptions: []pahov5.SubscribeOptions{{Topic: "commands/#", QoS: 1}}}); err != nil {
			t.Fatalf("%+v %v", s, err)
		}
		if _, err := c.Subscribe(t.Context(), &pahov5.Subscribe{Subscriptions: []pahov5.SubscribeOptions{{Topic: "telemetry/car-2/#", QoS: 1}}}); err == nil {
			t.Error("a foreign subscription was granted")
		}
		for _, test := range []struct {
			topic, payload string
			code           byte
		}{
			{"telemetry/position", position, 0}, {"telemetry/position", "{", 0x99}, {"telemetry/car-2/position", position, 0x87}, {"foo", position, 0x90}, {"telemetry/car-1/position", position, 0},
		} {
			for qos := byte(1); qos < 3; qos++ {
				r, err := c.Publish(t.Context(), &pahov5.Publish{
					QoS: qos, Topic: test.topic, Payload: []byte(test.payload),
					Properties: &pahov5.PublishProperties{User: pahov5.UserProperties{{Key: "id", Value: "mine"}}},
				})
				if r == nil || r.ReasonCode != test.code || qos == 1 && (err != nil) != (test.code >= 0x80) {
					t.Errorf("%s QoS %d: %+v %v", test.topic, qos, r, err)
				}
			}
		}
		for _, e := range f.Stored(t, "car-1") {
			if e.ID != "mine" {
				t.Errorf("%+v", e)
			}
		}
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		defer cancel()
		if err := <-f.Deliver(ctx, "car-1", "commands/stop", []byte("now"), 1); err != nil {
			t.Fatal(err)
		}
		if p := <-heard; p.Topic != "commands/stop" {
			t.Errorf("%+v", p)
		}
		stopped := make(chan error, 1)
		go func() { stopped <- f.Stop() }()
		if code := <-gone; code != 0x8B {
			t.Errorf("good-bye with %#x", code)
		}
		if err := <-stopped; err != nil {
			t.Error(err)
		}
	})
}
