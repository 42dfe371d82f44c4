package gateway_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	mochi "github.com/mochi-mqtt/server/v2/packets"

	"github.com/tachograph/tachograph/services/gateway"
	"github.com/tachograph/tachograph/services/gateway/gatewaytest"
)

func kept(p *mochi.Packet) {
	p.Connect.Clean = false
	p.Properties.SessionExpiryInterval, p.Properties.SessionExpiryIntervalFlag = 1000, true
}

func clientID(id string) func(*mochi.Packet) {
	return func(p *mochi.Packet) { p.Connect.ClientIdentifier = id }
}

func willOf(topic, payload string) func(*mochi.Packet) {
	return func(p *mochi.Packet) {
		p.Connect.WillFlag, p.Connect.WillTopic, p.Connect.WillPayload, p.Connect.WillQos = true, topic, []byte(payload), 1
	}
}

// Whoever comes with a valid token gets in, in any of the forms that firmware
// uses; nobody else does.
func TestWhoGetsIn(t *testing.T) {
	f := gatewaytest.Start(t, newMemlog(t), gateway.Limits{})
	token := f.Add(t, "car-1")
	f.Add(t, "car-2")
	creds := func(id, name, password string) func(*mochi.Packet) {
		return func(p *mochi.Packet) {
			p.Connect.ClientIdentifier = id
			p.Connect.Username, p.Connect.UsernameFlag = []byte(name), name != ""
			p.Connect.Password, p.Connect.PasswordFlag = []byte(password), password != ""
		}
	}
	for _, c := range []struct {
		name   string
		change func(*mochi.Packet)
		v3, v5 byte
	}{
		{"id and token", creds("x", "car-1", token), 0, 0},
		{"token as user name", creds("car-1", token, ""), 0, 0},
		{"token as user name, any client id", creds("x", token, ""), 0, 0},
		{"wrong token", creds("x", "car-1", token+"x"), 4, 0x86},
		{"other device's token", creds("x", "car-2", token), 4, 0x86},
		{"unknown device", creds("x", "car-3", token), 4, 0x86},
		{"user name alone", creds("x", "car-1", ""), 4, 0x86},
		{"nothing", creds("car-1", "", ""), 5, 0x87},
		{"no client id, clean", func(p *mochi.Packet) { p.Connect.ClientIdentifier = "" }, 0, 0},
		{"no client id, session kept", func(p *mochi.Packet) { p.Connect.ClientIdentifier, p.Connect.Clean = "", false }, 2, 0},
		{"client id of 10,000 characters", clientID(strings.Repeat("x", 10000)), 2, 0x85},
		{"will on another's topic", willOf("telemetry/car-2/position", position), 5, 0x87},
		{"will on a senseless topic", willOf("foo", position), 5, 0x90},
		{"will of an impossible type", willOf("telemetry/Foo", position), 5, 0x90},
		{"password of 60,000 bytes", creds("x", "car-1", strings.Repeat("x", 60000)), 4, 0x86},
		{"user name of 60,000 bytes", creds("x", strings.Repeat("x", 60000), "y"), 4, 0x86},
	} {
		for version, want := range map[byte]byte{4: c.v3, 5: c.v5} {
			r := dial(t, f, version)
			ack := r.login("car-1", token, c.change)
			if ack.ReasonCode != want {
				t.Errorf("%s, version %d: %#x, want %#x", c.name, version, ack.ReasonCode, want)
			}
			if want != 0 {
				r.wantEnd(0)
			} else {
				r.sync()
			}
			_ = r.nc.Close()
		}
	}
	r := dial(t, f, 5)
	if ack := r.login("", "", creds("", "", token)); ack.ReasonCode != 0 || ack.Properties.AssignedClientID == "" {
		t.Errorf("token as password of version 5: %+v", ack)
	}
	r = dial(t, f, 5)
	if ack := r.login("car-1", token, func(p *mochi.Packet) { p.Properties.AuthenticationMethod = "SCRAM" }); ack.ReasonCode != 0x8C {
		t.Errorf("extended authentication: %#x", ack.ReasonCode)
	}
}

// The newer connection of a session wins.
func TestTakeOver(t *testing.T) {
	both(t, func(t *testing.T, version byte) {
		f := gatewaytest.Start(t, newMemlog(t), gateway.Limits{})
		token := f.Add(t, "car-1")
		f.Add(t, "car-2")
		old := connected(t, f, version, "car-1", token)
		other := connected(t, f, version, "car-1", token, clientID("second client of the same device"))
		for range 3 {
			r := connected(t, f, version, "car-1", token)
			old.wantEnd(0x8E)
			old = r
		}
		// Another device cannot take over by the client id.
		intruder := connected(t, f, version, "car-2", f2token(t, f), clientID("c-car-1"))
		intruder.sync()
		old.sync()
		other.sync()
		if got := f.Metric(t, "mqtt_connections"); got != 3 {
			t.Errorf("%v connections", got)
		}
	})
}

func f2token(t *testing.T, f *gatewaytest.Fixture) string {
	token, err := f.Auth.NewToken(t.Context(), "car-2")
	if err != nil {
		t.Fatal(err)
	}
	return token
}

// Sessions: kept on request, forgotten on a clean start, on expiry, and when
// there are too many.
func TestSessions(t *testing.T) {
	both(t, func(t *testing.T, version byte) {
		f := gatewaytest.Start(t, newMemlog(t), gateway.Limits{SessionsPerDevice: 3})
		token := f.Add(t, "car-1")
		present := func(change ...func(*mochi.Packet)) bool {
			r := dial(t, f, version)
			ack := r.login("car-1", token, change...)
			if ack.ReasonCode != 0 {
				t.Fatalf("CONNACK %#x", ack.ReasonCode)
			}
			r.send(mochi.Packet{FixedHeader: mochi.FixedHeader{Type: mochi.Disconnect}})
			r.wantEnd(0)
			gatewaytest.Eventually(t, "it is gone", func() bool { return f.Metric(t, "mqtt_connections") == 0 })
			return ack.SessionPresent
		}
		clean := func(*mochi.Packet) {}
		for i, c := range []struct {
			change func(*mochi.Packet)
			want   bool
		}{{kept, false}, {kept, true}, {kept, true}, {clean, false}, {kept, false}, {kept, true}} {
			if got := present(c.change); got != c.want {
				t.Errorf("step %d: session present %v", i, got)
			}
		}
		for i := range 4 {
			present(kept, clientID(fmt.Sprint("flood-", i)))
		}
		if got := f.Metric(t, "mqtt_sessions"); got != 3 {
			t.Errorf("%v sessions of one device are kept, 3 are allowed", got)
		}
		if present(kept) {
			t.Error("the oldest session outlived the limit")
		}
		if !present(kept, clientID("flood-3")) {
			t.Error("a newer session did not")
		}
	})
}

func TestSessionExpiry(t *testing.T) {
	f := gatewaytest.Start(t, newMemlog(t), gateway.Limits{SessionExpiry: time.Second})
	token := f.Add(t, "car-1")
	r := dial(t, f, 5)
	ack := r.login("car-1", token, kept)
	if !ack.Properties.SessionExpiryIntervalFlag || ack.Properties.SessionExpiryInterval != 1 {
		t.Errorf("the shorter expiry was not announced: %+v", ack.Properties)
	}
	_ = r.nc.Close()
	gatewaytest.Eventually(t, "the session expired", func() bool { return f.Metric(t, "mqtt_sessions") == 0 })
}

// A will is stored when its device vanishes, and only then.
func TestWill(t *testing.T) {
	both(t, func(t *testing.T, version byte) {
		f := gatewaytest.Start(t, newMemlog(t), gateway.Limits{})
		token := f.Add(t, "car-1")
		stored := func() int { return len(f.Stored(t, "car-1")) }
		will := willOf("telemetry/diagnostics", `{"gone":true}`)

		r := connected(t, f, version, "car-1", token, will)
		r.send(mochi.Packet{FixedHeader: mochi.FixedHeader{Type: mochi.Disconnect}})
		r.wantEnd(0)
		gatewaytest.Eventually(t, "it is gone", func() bool { return f.Metric(t, "mqtt_connections") == 0 })
		if stored() != 0 {
			t.Error("a will after a good-bye")
		}

		r = connected(t, f, version, "car-1", token, will)
		_ = r.nc.Close()
		gatewaytest.Eventually(t, "will stored", func() bool { return stored() == 1 })
		if got := f.Stored(t, "car-1")[0]; got.Type != "diagnostics" || string(got.Payload) != `{"gone":true}` {
			t.Errorf("stored %+v", got)
		}

		r = connected(t, f, version, "car-1", token, will)
		r.write([]byte{0x00}) // malformed
		gatewaytest.Eventually(t, "will stored after a protocol error", func() bool { return stored() == 2 })
		if version == 5 {
			r = connected(t, f, 5, "car-1", token, will)
			r.send(mochi.Packet{FixedHeader: mochi.FixedHeader{Type: mochi.Disconnect}, ReasonCode: 4})
			gatewaytest.Eventually(t, "will stored on request", func() bool { return stored() == 3 })
		}
	})
}

// A will with a delay is not stored when its device is back in time.
func TestWillDelay(t *testing.T) {
	f := gatewaytest.Start(t, newMemlog(t), gateway.Limits{})
	token := f.Add(t, "car-1")
	delayed := func(p *mochi.Packet) { p.Connect.WillProperties.WillDelayInterval = 1 }
	r := connected(t, f, 5, "car-1", token, kept, willOf("telemetry/position", position), delayed)
	_ = r.nc.Close()
	gatewaytest.Eventually(t, "it is gone", func() bool { return f.Metric(t, "mqtt_connections") == 0 })
	r = connected(t, f, 5, "car-1", token, kept, willOf("telemetry/position", position), delayed)
	time.Sleep(1200 * time.Millisecond)
	if got := len(f.Stored(t, "car-1")); got != 0 {
		t.Errorf("%d wills of a device that came back", got)
	}
	_ = r.nc.Close()
	gatewaytest.Eventually(t, "will stored after its delay", func() bool { return len(f.Stored(t, "car-1")) == 1 })
}

// Removing a device or replacing its token ends what it has.
func TestRevoke(t *testing.T) {
	both(t, func(t *testing.T, version byte) {
		f := gatewaytest.Start(t, newMemlog(t), gateway.Limits{})
		token := f.Add(t, "car-1")
		other := connected(t, f, version, "car-2", f.Add(t, "car-2"))
		r := connected(t, f, version, "car-1", token, kept, willOf("telemetry/position", position))
		token, err := f.Auth.NewToken(t.Context(), "car-1")
		if err != nil {
			t.Fatal(err)
		}
		r.wantEnd(0x98)
		r = dial(t, f, version)
		if ack := r.login("car-1", token, kept); ack.ReasonCode != 0 || ack.SessionPresent {
			t.Errorf("with the new token: %+v", ack)
		}
		if err := f.Auth.Remove(t.Context(), "car-1"); err != nil {
			t.Fatal(err)
		}
		r.wantEnd(0x98)
		r = dial(t, f, version)
		if ack := r.login("car-1", token); ack.ReasonCode == 0 {
			t.Error("a removed device got in")
		}
		other.sync()
		if got := len(f.Stored(t, "car-1")); got != 0 {
			t.Errorf("%d wills of a device that may not speak", got)
		}
	})
}

func subscribe(id uint16, filters ...string) mochi.Packet {
	p := mochi.Packet{FixedHeader: mochi.FixedHeader{Type: mochi.Subscribe}, PacketID: id}
	for i, filter := range filters {
		p.Filters = append(p.Filters, mochi.Subscription{Filter: filter, Qos: byte(i % 3)})
	}
	return p
}

func TestSubscribe(t *testing.T) {
	both(t, func(t *testing.T, version byte) {
		f := gatewaytest.Start(t, newMemlog(t), gateway.Limits{Subscriptions: 4})
		r := connected(t, f, version, "car-1", f.Add(t, "car-1"))
		r.send(subscribe(1, "commands/#", "shadow/delta", "commands/car-1/+", "#", "telemetry/car-2/position", "commands/car-2/#", "$SYS/#", "$share/g/commands/#", "a/#/b", "shadow/+"))
		want := []byte{0, 1, 1, 0x87, 0x87, 0x87, 0x87, 0x9E, 0x8F, 0}
		if version == 4 {
			for i, c := range want {
				want[i] = min(c, 0x80)
			}
		}
		if got := r.want(mochi.Suback); got.PacketID != 1 || !slices.Equal(got.ReasonCodes, want) {
			t.Errorf("SUBACK %x, want %x", got.ReasonCodes, want)
		}
		r.send(subscribe(2, "shadow/one-too-many"))
		if got := r.want(mochi.Suback); got.ReasonCodes[0] < 0x80 {
			t.Errorf("SUBACK %x beyond the limit", got.ReasonCodes)
		}
		p := subscribe(3, "commands/#", "commands/none")
		p.FixedHeader.Type = mochi.Unsubscribe
		r.send(p)
		if got := r.want(mochi.Unsuback); got.PacketID != 3 || version == 5 && !slices.Equal(got.ReasonCodes, []byte{0, 0x11}) {
			t.Errorf("UNSUBACK %+v", got)
		}
	})
}

func TestDeliver(t *testing.T) {
	both(t, func(t *testing.T, version byte) {
		f := gatewaytest.Start(t, newMemlog(t), gateway.Limits{Deliveries: 3})
		token := f.Add(t, "car-1")
		deliver := func(ctx context.Context, topic string, qos byte) <-chan error {
			return f.Deliver(ctx, "car-1", topic, []byte("now"), qos)
		}
		wantErr := func(acked <-chan error, want error) {
			t.Helper()
			select {
			case err := <-acked:
				if !errors.Is(err, want) {
					t.Errorf("acknowledged %v, want %v", err, want)
				}
			case <-time.After(20 * time.Second):
				t.Errorf("no answer, want %v", want)
			}
		}
		wantErr(deliver(t.Context(), "commands/stop", 1), gateway.ErrNotConnected)
		r := connected(t, f, version, "car-1", token, kept)
		wantErr(deliver(t.Context(), "commands/stop", 1), gateway.ErrNotSubscribed)
		s := subscribe(1, "shadow/#", "commands/#") // at QoS 0 and 1
		r.send(s)
		r.want(mochi.Suback)

		acked := deliver(t.Context(), "commands/stop", 1)
		p := r.want(mochi.Publish)
		if p.TopicName != "commands/stop" || string(p.Payload) != "now" || p.FixedHeader.Qos != 1 || p.PacketID == 0 || p.FixedHeader.Retain {
			t.Errorf("delivered %+v", p)
		}
		select {
		case err := <-acked:
			t.Errorf("acknowledged %v before PUBACK", err)
		case <-time.After(20 * time.Millisecond):
		}
		ack := func(id uint16, code byte) {
			r.send(mochi.Packet{FixedHeader: mochi.FixedHeader{Type: mochi.Puback}, PacketID: id, ReasonCode: code})
		}
		ack(p.PacketID, 0)
		wantErr(acked, nil)
		ack(p.PacketID, 0) // once more: harmless
		ack(999, 0)

		acked = deliver(t.Context(), "shadow/delta", 1) // subscribed at QoS 0
		if p := r.want(mochi.Publish); p.FixedHeader.Qos != 0 {
			t.Errorf("delivered at QoS %d", p.FixedHeader.Qos)
		}
		wantErr(acked, nil)

		if version == 5 {
			acked = deliver(t.Context(), "commands/stop", 1)
			ack(r.want(mochi.Publish).PacketID, 0x80)
			wantErr(acked, gateway.ErrRejected)
		}

		ctx, cancel := context.WithCancel(t.Context())
		acked = deliver(ctx, "commands/stop", 1)
		first := r.want(mochi.Publish)
		cancel()
		wantErr(acked, context.Canceled)
		wantErr(deliver(ctx, "commands/stop", 1), context.Canceled)
		second, third := deliver(t.Context(), "commands/a", 1), deliver(t.Context(), "commands/b", 2)
		wantErr(deliver(t.Context(), "commands/c", 1), gateway.ErrBusy)
		ack(first.PacketID, 0)
		a, b := r.want(mochi.Publish), r.want(mochi.Publish)
		if a.PacketID == b.PacketID || a.TopicName != "commands/a" || b.FixedHeader.Qos != 1 {
			t.Errorf("%+v %+v", a, b)
		}
		r.sync()
		fourth := deliver(t.Context(), "commands/d", 1) // the first one's place
		r.want(mochi.Publish)
		_ = r.nc.Close()
		for _, acked := range []<-chan error{second, third, fourth} {
			wantErr(acked, gateway.ErrDisconnected)
		}

		// The subscription is kept with the session; the deliveries are not.
		gatewaytest.Eventually(t, "it is gone", func() bool { return f.Metric(t, "mqtt_connections") == 0 })
		r = connected(t, f, version, "car-1", token, kept)
		r.quiet(20 * time.Millisecond)
		acked = deliver(t.Context(), "commands/stop", 1)
		p = r.want(mochi.Publish)
		ack(p.PacketID, 0)
		wantErr(acked, nil)
	})
}

// A device that takes only small packets is not sent large ones.
func TestDeliverRespectsTheClient(t *testing.T) {
	f := gatewaytest.Start(t, newMemlog(t), gateway.Limits{})
	r := connected(t, f, 5, "car-1", f.Add(t, "car-1"), func(p *mochi.Packet) {
		p.Properties.MaximumPacketSize, p.Properties.ReceiveMaximum = 100, 1
	})
	r.send(subscribe(1, "commands/a", "commands/#"))
	r.want(mochi.Suback)
	if err := <-f.Deliver(t.Context(), "car-1", "commands/x", make([]byte, 100), 1); !errors.Is(err, gateway.ErrTooBig) {
		t.Error(err)
	}
	f.Deliver(t.Context(), "car-1", "commands/x", nil, 1)
	r.want(mochi.Publish)
	if err := <-f.Deliver(t.Context(), "car-1", "commands/x", nil, 1); !errors.Is(err, gateway.ErrBusy) {
		t.Error(err)
	}
}
