package node

import (
	"context"
	"errors"
	"log/slog"
	"strconv"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/tachograph/tachograph/events"
	"github.com/tachograph/tachograph/events/jetlog"
	"github.com/tachograph/tachograph/projections/latest"
)

// A stage is the embedded NATS with the log and the view, as a node has them.
type stage struct {
	embedded *embedded
	log      *jetlog.Log
	views    jetstream.KeyValue
	own      *nats.Conn
}

func newStage(t *testing.T) *stage {
	t.Helper()
	c := Config{Data: t.TempDir(), NATSHost: "127.0.0.1", Ports: "auto", MaxPayload: 1 << 20}
	e, err := startNATS(c, "listening", slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(e.stop)
	check := func(id, token string) bool { return id == "car.1" && token == "secret" }
	e.users.devices.Store(&check)
	s := &stage{embedded: e}
	if s.own, err = e.connect(internalLogUser, nats.InProcessServer(e.server)); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.own.Close)
	if s.log, err = jetlog.Open(t.Context(), jetlog.Config{Publish: s.own, StoreDir: e.storeDir, Account: logAccount, Interest: e}); err != nil {
		t.Fatal(err)
	}
	announcing, stop := context.WithCancel(context.Background())
	announced := make(chan struct{})
	go func() { defer close(announced); s.log.Announce(announcing) }()
	t.Cleanup(func() { stop(); <-announced; s.log.Close() })
	services, err := e.connect(internalServicesUser, nats.CustomInboxPrefix(servicesInbox))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(services.Close)
	if err := serveViews(services); err != nil {
		t.Fatal(err)
	}
	js, err := jetstream.New(services)
	if err != nil {
		t.Fatal(err)
	}
	if s.views, err = js.CreateKeyValue(t.Context(), latest.BucketConfig(1)); err != nil {
		t.Fatal(err)
	}
	return s
}

func (s *stage) dial(t *testing.T, user, password string, opts ...nats.Option) *nats.Conn {
	t.Helper()
	nc, err := nats.Connect(s.embedded.server.ClientURL(), append(opts, nats.UserInfo(user, password))...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	return nc
}

func (s *stage) send(t *testing.T, device string) events.Event {
	t.Helper()
	e := events.Event{Stream: events.Stream{Kind: events.Telemetry, ID: device}, Type: "position", ID: events.UniqueID(), Payload: []byte(`{"speed":1}`)}
	done := make(chan error, 1)
	if err := s.log.Enqueue(t.Context(), e, func(err error) { done <- err }); err != nil {
		t.Fatal(err)
	}
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	return e
}

func TestNobodyIsAnonymous(t *testing.T) {
	s := newStage(t)
	for _, o := range [][]nats.Option{
		nil, {nats.UserInfo("listener", "wrong")}, {nats.UserInfo("listener", "")}, {nats.UserInfo(internalLogUser, "")},
		{nats.UserInfo("car.1", "wrong")}, {nats.UserInfo("car.2", "secret")}, {nats.Token("secret")},
	} {
		if nc, err := nats.Connect(s.embedded.server.ClientURL(), o...); err == nil {
			nc.Close()
			t.Error("let in without a right")
		} else if !errors.Is(err, nats.ErrAuthorization) {
			t.Error(err)
		}
	}
}

// TestListenerHears: what is stored appears on the public subjects, in another
// account than the log's, and secrets never do.
func TestListenerHears(t *testing.T) {
	s := newStage(t)
	nc := s.dial(t, listenerUser, "listening")
	sub, err := nc.SubscribeSync("tacho.>")
	if err != nil {
		t.Fatal(err)
	}
	if err := nc.Flush(); err != nil {
		t.Fatal(err)
	}
	for _, e := range []events.Event{
		{Stream: events.Stream{Kind: events.Credential, ID: "car.1"}, Type: "issued", ID: events.UniqueID(), Payload: []byte("{}")},
		{Stream: events.Stream{Kind: events.Registry, ID: "car.1"}, Type: "added", ID: events.UniqueID(), Payload: []byte("{}")},
	} {
		if _, err := s.log.Append(t.Context(), events.Any, e); err != nil {
			t.Fatal(err)
		}
	}
	s.send(t, "car.1")
	for _, want := range []string{"tacho.registry.car=2E1", "tacho.telemetry.car=2E1.position"} {
		msg, err := sub.NextMsg(5 * time.Second)
		if err != nil {
			t.Fatalf("waiting for %s: %v", want, err)
		}
		if msg.Subject != want {
			t.Fatalf("heard %s, want %s", msg.Subject, want)
		}
	}
	if msg, err := sub.NextMsg(100 * time.Millisecond); err == nil {
		t.Fatalf("heard %s", msg.Subject)
	}
}

// TestListenerMissesNothing: who listens hears what is stored from then on, once
// and in order, however short before it began to listen; the headers tell where
// it stands and what came before on its subject.
func TestListenerMissesNothing(t *testing.T) {
	s := newStage(t)
	stored, cars := 0, []string{"a", "b", "c"}
	send := func(n int) {
		for range n {
			s.send(t, cars[stored%len(cars)])
			stored++
		}
	}
	send(30)
	for round := range 3 {
		nc := s.dial(t, listenerUser, "listening")
		subject := []string{"tacho.telemetry.*.position", "tacho.telemetry.b.>", "tacho.>"}[round]
		sub, err := nc.SubscribeSync(subject)
		if err != nil {
			t.Fatal(err)
		}
		if err := nc.Flush(); err != nil {
			t.Fatal(err)
		}
		from := stored
		send(60)
		heard := 0
		for seq := 0; seq < stored; {
			msg, err := sub.NextMsg(20 * time.Second)
			if err != nil {
				t.Fatalf("%s after %d: %v", subject, seq, err)
			}
			before := seq
			if seq, err = strconv.Atoi(msg.Header.Get("Nats-Sequence")); err != nil || seq <= before {
				t.Fatalf("%s: %d (%v) after %d", subject, seq, err, before)
			}
			car := cars[(seq-1)%len(cars)]
			if want := "tacho.telemetry." + car + ".position"; msg.Subject != want || string(msg.Data) != `{"speed":1}` || msg.Header.Get("Nats-Stream") != "TELEMETRY_0" {
				t.Fatalf("%d: %s %s %v, want %s", seq, msg.Subject, msg.Data, msg.Header, want)
			}
			if got, want := msg.Header.Get("Nats-Last-Sequence"), strconv.Itoa(max(0, seq-len(cars))); got != want {
				t.Fatalf("%d: the one before is %s, want %s", seq, got, want)
			}
			if _, _, _, err := events.ParseSubject(msg.Header.Get("Nats-Subject")); err != nil {
				t.Fatal(err)
			}
			if seq > from {
				heard++
			}
			if round == 1 && seq+len(cars) > stored { // b's last
				break
			}
		}
		if want := []int{60, 20, 60}[round]; heard != want {
			t.Errorf("%s: heard %d, want %d", subject, heard, want)
		}
		if msg, err := sub.NextMsg(50 * time.Millisecond); err == nil {
			t.Errorf("%s: heard %v again", subject, msg.Header)
		}
		nc.Close()
		send(10)
	}
}

// TestNothingBypassesTheGateway: neither a listener nor a device reaches the
// subjects of the log, or hears what is not its own.
func TestNothingBypassesTheGateway(t *testing.T) {
	s := newStage(t)
	before, err := s.log.Tail(t.Context(), 0)
	if err != nil {
		t.Fatal(err)
	}
	for _, who := range []struct{ user, password string }{{listenerUser, "listening"}, {"car.1", "secret"}} {
		refused := make(chan error, 64)
		nc := s.dial(t, who.user, who.password, nats.ErrorHandler(func(_ *nats.Conn, _ *nats.Subscription, err error) { refused <- err }))
		subjects := []string{"in.1.car-1.position.1", "fact.1.registry.car", "secret.1.credential.car", "ingest.car-2.position", "tacho.telemetry.car-1.position", "$JS.API.STREAM.DELETE.TELEMETRY_0", "$JS.API.STREAM.LIST",
			"$JS.API.DIRECT.GET.KV_latest", "$JS.API.CONSUMER.CREATE.KV_latest", "$KV.latest.car-1", "$JS.ACK.KV_latest.x", "view.STREAM.DELETE.KV_latest", "view.STREAM.INFO.SNAPSHOTS"}
		for _, subject := range subjects {
			if err := nc.Publish(subject, []byte("{}")); err != nil {
				t.Fatal(err)
			}
		}
		hidden := []string{">", "in.>", "fact.>", "secret.>", "ingest.>", "_INBOX_other.>", "_INBOX_tacho.>", "view.>"}
		for _, subject := range hidden {
			if _, err := nc.SubscribeSync(subject); err != nil {
				t.Fatal(err)
			}
		}
		if err := nc.Flush(); err != nil {
			t.Fatal(err)
		}
		for range len(subjects) + len(hidden) {
			select {
			case err := <-refused:
				if !errors.Is(err, nats.ErrPermissionViolation) {
					t.Fatalf("%s: %v", who.user, err)
				}
			case <-time.After(30 * time.Second):
				t.Fatalf("%s: not everything was refused", who.user)
			}
		}
	}
	after, err := s.log.Tail(t.Context(), 0)
	if err != nil || after != before {
		t.Fatalf("the log grew from %v to %v, %v", before, after, err)
	}
}
