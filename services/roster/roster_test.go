package roster_test

import (
	"context"
	"fmt"
	"net"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	mqtt "github.com/eclipse/paho.mqtt.golang"
	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/tachograph/tachograph/events"
	"github.com/tachograph/tachograph/events/jetlog"
	"github.com/tachograph/tachograph/events/memlog"
	"github.com/tachograph/tachograph/projections/presence"
	"github.com/tachograph/tachograph/services/gateway"
	"github.com/tachograph/tachograph/services/gateway/gatewaytest"
	"github.com/tachograph/tachograph/services/roster"
)

// bucket is one for heartbeats, in a server of its own.
func bucket(t *testing.T) (jetstream.KeyValue, jetstream.JetStream) {
	t.Helper()
	srv, err := server.NewServer(&server.Options{DontListen: true, JetStream: true, StoreDir: t.TempDir(), NoSigs: true})
	if err != nil {
		t.Fatal(err)
	}
	srv.Start()
	if !srv.ReadyForConnections(20 * time.Second) {
		t.Fatal("nats-server is not ready")
	}
	t.Cleanup(func() { srv.Shutdown(); srv.WaitForShutdown() })
	nc, err := nats.Connect("", nats.InProcessServer(srv))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	kv, err := js.CreateKeyValue(t.Context(), roster.BucketConfig(1))
	if err != nil {
		t.Fatal(err)
	}
	return kv, js
}

// A site is a gateway with its roster.
type site struct {
	*roster.Roster
	t    *testing.T
	gw   *gatewaytest.Fixture
	stop func()
}

func start(t *testing.T, log events.Log, beats jetstream.KeyValue, js jetstream.JetStream) *site {
	t.Helper()
	s := listen(t, log, beats, js, true)
	s.gw = gatewaytest.Start(t, log, gateway.Limits{}, func(g *gateway.Gateway) { g.Watch(s.Roster) })
	return s
}

// listen starts a roster that has no connections yet, or ever.
func listen(t *testing.T, log events.Log, beats jetstream.KeyValue, js jetstream.JetStream, serves bool) *site {
	t.Helper()
	s := &site{t: t}
	ctx, cancel := context.WithCancel(context.Background())
	var err error
	if s.Roster, err = roster.Open(ctx, roster.Config{Log: log, Gateway: serves, Beats: beats, Grace: 5 * time.Second, Remake: func(ctx context.Context) error {
		_, err := js.CreateOrUpdateKeyValue(ctx, roster.BucketConfig(1))
		return err
	}}); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- s.Run(ctx) }()
	stopped := false
	s.stop = func() {
		if !stopped {
			stopped = true
			cancel()
			if err := <-ended; err != nil {
				t.Error(err)
			}
		}
	}
	t.Cleanup(s.stop)
	return s
}

func (s *site) connect(device, token string, keepAlive time.Duration) (c mqtt.Client, cut func()) {
	s.t.Helper()
	var nc net.Conn
	c = mqtt.NewClient(mqtt.NewClientOptions().AddBroker("tcp://" + s.gw.MQTT).SetClientID(device).SetUsername(device).SetPassword(token).
		SetAutoReconnect(false).SetKeepAlive(keepAlive).SetCustomOpenConnectionFn(func(u *url.URL, _ mqtt.ClientOptions) (net.Conn, error) {
		var err error
		nc, err = net.Dial("tcp", u.Host)
		return nc, err
	}))
	if token := c.Connect(); !token.WaitTimeout(30*time.Second) || token.Error() != nil {
		s.t.Fatal("connect: ", token.Error())
	}
	s.t.Cleanup(func() { c.Disconnect(0) })
	return c, func() { _ = nc.Close() }
}

func (s *site) becomes(device string, connected bool) {
	s.t.Helper()
	gatewaytest.Eventually(s.t, "the roster follows", func() bool { return s.Get(device).Connected == connected })
}

// history is a device's facts, as "type reason".
func history(t *testing.T, log events.Log, device string) (all []string) {
	t.Helper()
	version := uint64(0)
	for ev, err := range log.Read(t.Context(), events.Stream{Kind: events.Presence, ID: device}, events.Latest) {
		if err != nil {
			t.Fatal(err)
		}
		f, err := presence.ParseFact(ev.Payload)
		if err != nil {
			t.Fatal(err)
		}
		if version++; f.Version != version {
			t.Errorf("version %d after %d", f.Version, version-1)
		}
		all = append(all, strings.TrimSpace(f.Type+" "+f.Reason))
	}
	return all
}

func want(t *testing.T, got []string, want ...string) {
	t.Helper()
	if strings.Join(got, ", ") != strings.Join(want, ", ") {
		t.Errorf("%q\nwant %q", got, want)
	}
}

// TestComesAndGoes: each way a connection ends has its name, and offline is said
// once, after the grace period.
func TestComesAndGoes(t *testing.T) {
	log := gatewaytest.JetLog(t, jetlog.OS, 0)
	beats, js := bucket(t)
	s := start(t, log, beats, js)
	token := s.gw.Add(t, "car-1")
	if st := s.Get("car-1"); st.Connected || !st.Since.IsZero() {
		t.Errorf("%+v", st)
	}
	one, _ := s.connect("car-1", token, time.Minute)
	s.becomes("car-1", true)
	one.Disconnect(500)
	s.becomes("car-1", false)
	_, cut := s.connect("car-1", token, time.Minute)
	s.becomes("car-1", true)
	cut()
	s.becomes("car-1", false)
	_, _ = s.connect("car-1", token, time.Minute)
	s.becomes("car-1", true)
	_, _ = s.connect("car-1", token, time.Minute) // the newer wins
	gatewaytest.Eventually(t, "the older is gone", func() bool { st := s.Get("car-1"); return st.Sessions == 1 && st.Version == 7 })
	if _, err := s.gw.Auth.NewToken(t.Context(), "car-1"); err != nil {
		t.Fatal(err)
	}
	s.becomes("car-1", false)
	gatewaytest.Eventually(t, "services hear of it", func() bool { return len(history(t, log, "car-1")) == 9 })
	got := history(t, log, "car-1")
	want(t, got[:5], "connected", "disconnected clean", "connected", "disconnected network", "connected")
	want(t, got[7:], "disconnected revoked", "offline revoked")
	if taken := strings.Join(got[5:7], ", "); taken != "connected, disconnected taken_over" && taken != "disconnected taken_over, connected" {
		t.Error(taken)
	}
}

// TestGatewayDies: a gateway that says nothing more is noticed, and its devices
// are marked; those of one that lives are not.
func TestGatewayDies(t *testing.T) {
	log := gatewaytest.JetLog(t, jetlog.OS, 0)
	beats, js := bucket(t)
	a, b := start(t, log, beats, js), start(t, log, beats, js)
	token := a.gw.Add(t, "car-1")
	gatewaytest.Eventually(t, "both know it", func() bool { return b.gw.Auth.Authenticate("car-1", token) })
	_, _ = a.connect("car-1", token, time.Minute)
	b.becomes("car-1", true)
	if !b.Elsewhere("car-1") {
		gatewaytest.Eventually(t, "it is elsewhere", func() bool { return b.Elsewhere("car-1") })
	}
	// The bucket is in memory, and does not outlive its server.
	if err := js.DeleteKeyValue(t.Context(), roster.Bucket); err != nil {
		t.Fatal(err)
	}
	gatewaytest.Eventually(t, "the hearts beat again", func() bool {
		keys, err := beats.Keys(t.Context())
		return err == nil && len(keys) == 2
	})
	a.stop() // its heart; the connection is still there, and nobody hears of its end
	b.becomes("car-1", false)
	gatewaytest.Eventually(t, "services hear of it", func() bool { return len(history(t, log, "car-1")) == 3 })
	want(t, history(t, log, "car-1"), "connected", "disconnected gateway_died", "offline gateway_died")
	if err := a.gw.Stop(); err != nil {
		t.Fatal(err)
	}
}

// TestOnlyGatewayDies: where the only gateway dies, a process that is none says
// that its devices are gone, and also after the hearts' bucket was lost.
func TestOnlyGatewayDies(t *testing.T) {
	log := gatewaytest.JetLog(t, jetlog.OS, 0)
	beats, js := bucket(t)
	a, projector := start(t, log, beats, js), listen(t, log, beats, js, false)
	token := a.gw.Add(t, "car-1")
	_, _ = a.connect("car-1", token, time.Minute)
	projector.becomes("car-1", true)
	gatewaytest.Eventually(t, "it is elsewhere", func() bool { return projector.Elsewhere("car-1") })
	a.stop() // its heart; nobody hears of the connection's end
	if err := js.DeleteKeyValue(t.Context(), roster.Bucket); err != nil {
		t.Fatal(err)
	}
	projector.becomes("car-1", false)
	gatewaytest.Eventually(t, "services hear of it", func() bool { return len(history(t, log, "car-1")) == 3 })
	want(t, history(t, log, "car-1"), "connected", "disconnected gateway_died", "offline gateway_died")
	if err := a.gw.Stop(); err != nil {
		t.Fatal(err)
	}
}

// slow is a log that takes its time for each append, and counts them.
type slow struct {
	events.Log
	appends atomic.Int64
}

func (s *slow) Append(ctx context.Context, expect events.Expect, evs ...events.Event) (events.Position, error) {
	s.appends.Add(1)
	time.Sleep(20 * time.Millisecond)
	return s.Log.Append(ctx, expect, evs...)
}

// TestStorm has devices come and go faster than the log takes one fact after the
// other: none is left out, each device's are in order, and the roster keeps up.
func TestStorm(t *testing.T) {
	log := &slow{Log: memlog.New(memlog.Options{})}
	beats, js := bucket(t)
	s := listen(t, log, beats, js, true)
	const devices, visits = 8, 200
	for n := range visits {
		for d := range devices {
			c := gateway.Connection{ID: fmt.Sprintf("%d-%d", d, n), Device: fmt.Sprint("car-", d)}
			s.Connected(c)
			s.Disconnected(c, presence.Network)
		}
	}
	began := time.Now()
	for d := range devices {
		gatewaytest.Eventually(t, "all is in the log", func() bool { return s.Get(fmt.Sprint("car-", d)).Version == 2*visits })
		facts := history(t, log, fmt.Sprint("car-", d))
		for i, f := range facts {
			if f != []string{"connected", "disconnected network"}[i%2] {
				t.Fatalf("fact %d of car-%d: %s", i, d, f)
			}
		}
	}
	if n := log.appends.Load(); n > devices*visits/4 {
		t.Errorf("%d appends for %d facts, in %s", n, 2*devices*visits, time.Since(began))
	}
}
