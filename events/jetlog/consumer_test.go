package jetlog

import (
	"context"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/tachograph/tachograph/events"
	"github.com/tachograph/tachograph/events/logtest"
)

// readerPermissions are those of DESIGN.md, "Plain JetStream consumers": what a
// trusted service needs to consume telemetry from an account of the log.
func readerPermissions(partitions int) *server.Permissions {
	publish := []string{"$JS.API.INFO"}
	for p := range uint16(partitions) {
		s := streamName(p)
		publish = append(publish, "$JS.API.STREAM.INFO."+s,
			"$JS.API.CONSUMER.CREATE."+s+".>", "$JS.API.CONSUMER.INFO."+s+".>", "$JS.API.CONSUMER.DELETE."+s+".>",
			"$JS.API.CONSUMER.MSG.NEXT."+s+".>", "$JS.ACK."+s+".>")
	}
	return &server.Permissions{
		Publish:   &server.SubjectPermission{Allow: publish},
		Subscribe: &server.SubjectPermission{Allow: []string{"_INBOX.>"}},
	}
}

func startReaderServer(t *testing.T) *server.Server {
	t.Helper()
	s, err := server.NewServer(&server.Options{
		Host: "127.0.0.1", Port: -1, JetStream: true, StoreDir: t.TempDir(), NoLog: true, NoSigs: true,
		Users: []*server.User{
			{Username: "log", Password: "log"},
			{Username: "reader", Password: "reader", Permissions: readerPermissions(1)},
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	s.Start()
	if !s.ReadyForConnections(20 * time.Second) {
		t.Fatal("nats-server is not ready")
	}
	t.Cleanup(func() { s.Shutdown(); s.WaitForShutdown() })
	return s
}

// TestPlainConsumer: a service with these permissions reads history and stays
// live with nothing but a JetStream client, goes on where it was, and reaches
// neither credentials nor a subject to write to.
func TestPlainConsumer(t *testing.T) {
	s := startReaderServer(t)
	l := open(t, Config{Publish: connect(t, s, nats.UserInfo("log", "log")), Durability: OS})
	logtest.EnqueueAll(t, l, []events.Event{logtest.Telemetry("car", 0), logtest.Telemetry("other", 1), logtest.Telemetry("car", 2)})
	secret := events.Event{Stream: events.Stream{Kind: events.Credential, ID: "car"}, Type: "added", ID: events.UniqueID(), Payload: []byte("hash")}
	if _, err := l.Append(t.Context(), events.Any, secret); err != nil {
		t.Fatal(err)
	}

	nc := connect(t, s, nats.UserInfo("reader", "reader"), nats.ErrorHandler(func(*nats.Conn, *nats.Subscription, error) {}))
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	for round, want := range []int{0, 2, 3} {
		c, err := js.CreateOrUpdateConsumer(t.Context(), "TELEMETRY_0", jetstream.ConsumerConfig{
			Durable:       "billing",
			FilterSubject: events.Stream{Kind: events.Telemetry, ID: "car"}.Filter(),
			DeliverPolicy: jetstream.DeliverAllPolicy, // or DeliverByStartTimePolicy, DeliverNewPolicy
			AckPolicy:     jetstream.AckExplicitPolicy,
		})
		if err != nil {
			t.Fatal(err)
		}
		if round == 2 { // live
			logtest.EnqueueAll(t, l, []events.Event{logtest.Telemetry("car", 3)})
		}
		msg, err := c.Next(jetstream.FetchMaxWait(10 * time.Second))
		if err != nil {
			t.Fatal(err)
		}
		if string(msg.Data()) != string(logtest.Telemetry("car", want).Payload) {
			t.Errorf("round %d: %s", round, msg.Data())
		}
		if err := msg.DoubleAck(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	denied, cancel := context.WithTimeout(t.Context(), 2*time.Second) // what is denied is not answered
	defer cancel()
	if _, err := js.CreateConsumer(denied, controlStream, jetstream.ConsumerConfig{}); err == nil {
		t.Error("a reader consumes control facts, and with them credentials")
	}
	e := logtest.Telemetry("car", 9)
	if _, err := js.Publish(denied, e.Subject(), e.Payload); err == nil {
		t.Error("a reader writes to the log")
	}
	if tail, err := l.Tail(t.Context(), 0); err != nil || tail.Seq != 4 {
		t.Errorf("the log ends at %s: %v", tail, err)
	}
}

// TestConsumersCanWrite is why nobody gets these permissions who is not trusted:
// the reply subject of a pull is the client's word, the server publishes there
// by its own right, and the log's stream takes in what the reader read, again.
func TestConsumersCanWrite(t *testing.T) {
	s := startReaderServer(t)
	l := open(t, Config{Publish: connect(t, s, nats.UserInfo("log", "log")), Durability: OS})
	logtest.EnqueueAll(t, l, []events.Event{logtest.Telemetry("car", 0)})
	nc := connect(t, s, nats.UserInfo("reader", "reader"))
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := js.CreateConsumer(t.Context(), "TELEMETRY_0", jetstream.ConsumerConfig{Durable: "x"}); err != nil {
		t.Fatal(err)
	}
	if err := nc.PublishRequest("$JS.API.CONSUMER.MSG.NEXT.TELEMETRY_0.x", "in.5.victim.position.1", []byte("1")); err != nil {
		t.Fatal(err)
	}
	// Should the second never come, servers look at reply subjects, and listeners
	// may be given consumers.
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	twice := logtest.Take(t, l.Select(ctx, 0, events.Cursor{}, events.Filter{}), 2)
	if twice[0].ID != twice[1].ID {
		t.Errorf("the second event is %+v", twice[1])
	}
}
