package gateway_test

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"

	"github.com/tachograph/tachograph/events"
	"github.com/tachograph/tachograph/services/gateway"
	"github.com/tachograph/tachograph/services/gateway/gatewaytest"
)

// serveNATS runs a nats-server that lets in devices and, in process, the gateway.
func serveNATS(t *testing.T, f *gatewaytest.Fixture) *server.Server {
	t.Helper()
	devices := &gateway.DeviceNATSAuth{Devices: f.Auth, Others: insider{}}
	s, err := server.NewServer(&server.Options{Host: "127.0.0.1", Port: -1, NoLog: true, NoSigs: true, CustomClientAuthentication: devices})
	if err != nil {
		t.Fatal(err)
	}
	devices.Account = s.GlobalAccount()
	s.Start()
	if !s.ReadyForConnections(20 * time.Second) {
		t.Fatal("nats-server is not ready")
	}
	t.Cleanup(func() { s.Shutdown(); s.WaitForShutdown() })
	nc, err := nats.Connect("", nats.InProcessServer(s), nats.UserInfo("insider", "x"), nats.CustomInboxPrefix(gateway.NATSInbox("x")))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- f.ServeNATS(ctx, nc) }()
	gatewaytest.Eventually(t, "the gateway listens", func() bool {
		_, err := nc.Request("ingest.x", nil, time.Second)
		return err == nil
	})
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
		nc.Close()
	})
	return s
}

type insider struct{}

func (insider) Check(c server.ClientAuthentication) bool {
	if c.GetOpts().Username != "insider" {
		return false
	}
	c.RegisterUser(&server.User{Username: "insider"})
	return true
}

func natsDevice(t *testing.T, s *server.Server, device, token string) (*nats.Conn, chan error) {
	t.Helper()
	problems := make(chan error, 16)
	nc, err := nats.Connect(s.ClientURL(), nats.UserInfo(device, token), nats.CustomInboxPrefix(gateway.NATSInbox(device)),
		nats.ErrorHandler(func(_ *nats.Conn, _ *nats.Subscription, err error) { problems <- err }))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	return nc, problems
}

func TestNATS(t *testing.T) {
	eachLog(t, func(t *testing.T, log events.Log) {
		f := gatewaytest.Start(t, log, gateway.Limits{MaxPayload: 1000})
		s := serveNATS(t, f)
		token := f.Add(t, "car 1.x")
		f.Add(t, "car-2")
		nc, problems := natsDevice(t, s, "car 1.x", token)

		request := func(typ, payload string) (*nats.Msg, map[string]any) {
			t.Helper()
			msg, err := nc.Request(gateway.IngestSubject("car 1.x", typ), []byte(payload), 10*time.Second)
			if err != nil {
				t.Fatal(err)
			}
			var body map[string]any
			if err := json.Unmarshal(msg.Data, &body); err != nil {
				t.Fatalf("%s: %v", msg.Data, err)
			}
			return msg, body
		}
		_, body := request("position", position)
		stored := f.Stored(t, "car 1.x")
		if len(stored) != 1 || string(stored[0].Payload) != position || body["id"] != stored[0].ID {
			t.Errorf("%v stored as %+v", body, stored)
		}
		for _, c := range []struct{ typ, payload, status, code string }{
			{"position", "{", "422", "undecodable_payload"},
			{"No", position, "400", "invalid_message_type"},
			{"position", string(make([]byte, 1001)), "413", "payload_too_large"},
		} {
			msg, body := request(c.typ, c.payload)
			if got := msg.Header.Get("Nats-Service-Error-Code"); got != c.status || msg.Header.Get("Nats-Service-Error") != c.code || body["error"] == nil {
				t.Errorf("%s: %v %v", c.code, msg.Header, body)
			}
		}
		if got := len(f.Stored(t, "car 1.x")); got != 2 {
			t.Errorf("%d stored", got)
		}

		// Without a reply subject: stored in silence.
		msg := nats.NewMsg(gateway.IngestSubject("car 1.x", "position"))
		msg.Data, msg.Header = []byte(`{}`), nats.Header{"Message-Id": {"boot-1"}}
		if err := nc.PublishMsg(msg); err != nil {
			t.Fatal(err)
		}
		gatewaytest.Eventually(t, "stored", func() bool { return len(f.Stored(t, "car 1.x")) == 3 })
		if got := f.Stored(t, "car 1.x")[2]; got.ID != "boot-1" {
			t.Errorf("%+v", got)
		}

		// For itself alone.
		for _, forbidden := range []func() error{
			func() error { return nc.Publish(gateway.IngestSubject("car-2", "position"), []byte(position)) },
			func() error { return nc.Publish("tacho.telemetry.car-2.position", nil) },
			func() error { _, err := nc.SubscribeSync("tacho.>"); return err },
			func() error { _, err := nc.SubscribeSync("_INBOX.>"); return err },
			func() error { _, err := nc.SubscribeSync(gateway.NATSInbox("car-2") + ".>"); return err },
			func() error { _, err := nc.SubscribeSync(">"); return err },
		} {
			if err := forbidden(); err != nil {
				t.Error(err)
			}
			select {
			case err := <-problems:
				t.Log(err)
			case <-time.After(10 * time.Second):
				t.Error("not refused")
			}
		}
		for _, bad := range []string{token + "x", ""} {
			if nc, err := nats.Connect(s.ClientURL(), nats.UserInfo("car 1.x", bad)); err == nil {
				nc.Close()
				t.Error("a wrong token got in")
			}
		}
		if got := len(f.Stored(t, "car-2")); got != 0 {
			t.Errorf("%d stored for another device", got)
		}
	})
}

func TestNATSAfterTheLog(t *testing.T) {
	log := &gatewaytest.HeldLog{Log: newMemlog(t)}
	f := gatewaytest.Start(t, log, gateway.Limits{})
	s := serveNATS(t, f)
	nc, _ := natsDevice(t, s, "car-1", f.Add(t, "car-1"))
	log.Hold()
	if _, err := nc.Request(gateway.IngestSubject("car-1", "position"), []byte(position), 100*time.Millisecond); err == nil {
		t.Error("answered before the log")
	}
	log.Release(-1)
	log.Refuse(fmt.Errorf("append: %w", events.ErrFull))
	msg, err := nc.Request(gateway.IngestSubject("car-1", "position"), []byte(position), 10*time.Second)
	if err != nil || msg.Header.Get("Nats-Service-Error-Code") != "503" {
		t.Errorf("%+v %v", msg, err)
	}
}

// A device whose token is replaced loses its NATS connections too, and others
// keep theirs.
func TestDisconnectNATS(t *testing.T) {
	f := gatewaytest.Start(t, newMemlog(t), gateway.Limits{})
	s := serveNATS(t, f)
	gone, _ := natsDevice(t, s, "car-1", f.Add(t, "car-1"))
	stays, _ := natsDevice(t, s, "car-2", f.Add(t, "car-2"))
	f.Auth.OnRevoke(func(id string) {
		if err := gateway.DisconnectNATS(s, id); err != nil {
			t.Error(err)
		}
	})
	if _, err := f.Auth.NewToken(t.Context(), "car-1"); err != nil {
		t.Fatal(err)
	}
	gatewaytest.Eventually(t, "it is disconnected", func() bool { return !gone.IsConnected() })
	if err := stays.Flush(); err != nil {
		t.Error(err)
	}
}

// TestNATSReplies: a device cannot have the gateway publish where it may not
// itself. A reply subject is a client's word, and the gateway's rights reach the
// log: its answer would be an event of another device, or a purge of the stream.
func TestNATSReplies(t *testing.T) {
	f := gatewaytest.Start(t, newMemlog(t), gateway.Limits{})
	s := serveNATS(t, f)
	nc, _ := natsDevice(t, s, "car 1.x", f.Add(t, "car 1.x"))
	f.Add(t, "car")
	insider, err := nats.Connect("", nats.InProcessServer(s), nats.UserInfo("insider", "x"))
	if err != nil {
		t.Fatal(err)
	}
	defer insider.Close()
	published, err := insider.SubscribeSync(">")
	if err != nil {
		t.Fatal(err)
	}
	if err := insider.Flush(); err != nil {
		t.Fatal(err)
	}
	sent := map[string]bool{}
	for i, reply := range []string{
		"in.5.victim.position.1", "fact.1.registry.victim", "secret.1.credential.victim", "$JS.API.STREAM.PURGE.TELEMETRY_0",
		"ingest.car.position", "_INBOX.other", gateway.NATSInbox("car") + ".a", gateway.NATSInbox("car 1.x"), gateway.NATSInbox("car 1.x") + "y.a",
	} {
		if err := nc.PublishRequest(gateway.IngestSubject("car 1.x", "position"), reply, fmt.Appendf(nil, `{"speed":%d}`, i)); err != nil {
			t.Fatal(err)
		}
		sent[reply] = true
	}
	// What is answered has all before it behind it.
	if _, err := nc.Request(gateway.IngestSubject("car 1.x", "position"), []byte(position), 30*time.Second); err != nil {
		t.Fatal(err)
	}
	if stored := f.Stored(t, "car 1.x"); len(stored) != 1 || string(stored[0].Payload) != position {
		t.Errorf("stored %+v", stored)
	}
	for {
		msg, err := published.NextMsg(30 * time.Second)
		if err != nil {
			t.Fatal(err)
		}
		if sent[msg.Subject] {
			t.Errorf("the gateway published %s on %s", msg.Data, msg.Subject)
		}
		if strings.HasPrefix(msg.Subject, gateway.NATSInbox("car 1.x")+".") {
			break // the answer
		}
	}
}
