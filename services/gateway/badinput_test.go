package gateway_test

import (
	"fmt"
	"net"
	"strings"
	"testing"
	"time"

	mochi "github.com/mochi-mqtt/server/v2/packets"

	"github.com/tachograph/tachograph/services/gateway"
	"github.com/tachograph/tachograph/services/gateway/gatewaytest"
)

// What breaks the protocol ends its own connection, with the reason in version
// 5, and harms nobody else.
func TestMalformedPackets(t *testing.T) {
	both(t, func(t *testing.T, version byte) {
		f := gatewaytest.Start(t, newMemlog(t), gateway.Limits{MaxPayload: 10_000})
		token := f.Add(t, "car-1")
		bystander := connected(t, f, version, "car-2", f.Add(t, "car-2"))
		v5 := func(v3, v5 []byte) []byte {
			if version == 5 {
				return v5
			}
			return v3
		}
		for _, c := range []struct {
			name  string
			bytes []byte
			code  byte
		}{
			{"packet type 0", []byte{0x00, 0x00}, 0x81},
			{"flags of PINGREQ", []byte{0xC1, 0x00}, 0x81},
			{"QoS 3", []byte{0x36, 0x00}, 0x81},
			{"DUP with QoS 0", []byte{0x38, 0x00}, 0x81},
			{"length of five bytes", []byte{0x30, 0xFF, 0xFF, 0xFF, 0xFF, 0x01}, 0x81},
			{"length in too many bytes", []byte{0xC0, 0x80, 0x00}, 0x81},
			{"PINGREQ with a body", []byte{0xC0, 0x01, 0x00}, 0x81},
			{"announced as 256 MB", []byte{0x30, 0xFF, 0xFF, 0xFF, 0x7F}, 0x95},
			{"PUBLISH ends in the topic", []byte{0x30, 0x03, 0x00, 0x05, 'a'}, 0x81},
			{"PUBLISH without anything", []byte{0x30, 0x00}, 0x81},
			{"PUBLISH, topic not UTF-8", v5([]byte{0x30, 0x04, 0x00, 0x02, 0xFF, 0xFE}, []byte{0x30, 0x05, 0x00, 0x02, 0xFF, 0xFE, 0x00}), 0x81},
			{"PUBLISH, topic with U+0000", v5([]byte{0x30, 0x04, 0x00, 0x02, 'a', 0x00}, []byte{0x30, 0x05, 0x00, 0x02, 'a', 0x00, 0x00}), 0x81},
			{"PUBLISH, topic with a wild card", v5([]byte{0x30, 0x03, 0x00, 0x01, '#'}, []byte{0x30, 0x04, 0x00, 0x01, '#', 0x00}), 0x81},
			{"PUBLISH, no topic", v5([]byte{0x30, 0x02, 0x00, 0x00}, []byte{0x30, 0x03, 0x00, 0x00, 0x00}), 0x82},
			{"PUBLISH, packet id 0", v5([]byte{0x32, 0x05, 0x00, 0x01, 'a', 0x00, 0x00}, []byte{0x32, 0x06, 0x00, 0x01, 'a', 0x00, 0x00, 0x00}), 0x82},
			{"SUBSCRIBE, no filter", v5([]byte{0x82, 0x02, 0x00, 0x01}, []byte{0x82, 0x03, 0x00, 0x01, 0x00}), 0x82},
			{"SUBSCRIBE, no options", v5([]byte{0x82, 0x05, 0x00, 0x01, 0x00, 0x01, 'a'}, []byte{0x82, 0x06, 0x00, 0x01, 0x00, 0x00, 0x01, 'a'}), 0x81},
			{"SUBSCRIBE, QoS 3", v5([]byte{0x82, 0x06, 0x00, 0x01, 0x00, 0x01, 'a', 3}, []byte{0x82, 0x07, 0x00, 0x01, 0x00, 0x00, 0x01, 'a', 3}), 0x81},
			{"UNSUBSCRIBE, no filter", v5([]byte{0xA2, 0x02, 0x00, 0x01}, []byte{0xA2, 0x03, 0x00, 0x01, 0x00}), 0x82},
			{"PUBREL, packet id 0", []byte{0x62, 0x02, 0x00, 0x00}, 0x82},
			{"PUBACK of one byte", []byte{0x40, 0x01, 0x00}, 0x81},
			{"second CONNECT", encode(t, mochi.Packet{FixedHeader: mochi.FixedHeader{Type: mochi.Connect}, Connect: mochi.ConnectParams{ProtocolName: []byte("MQTT")}}, version), 0x82},
			{"a server's packet", []byte{0x20, 0x02, 0x00, 0x00}, 0x82},
			{"PUBREC of nothing", []byte{0x50, 0x02, 0x00, 0x01}, 0x82},
			{"HTTP", []byte("GET / HTTP/1.1\r\n\r\n"), 0x81},
		} {
			r := connected(t, f, version, "car-1", token)
			r.write(c.bytes)
			r.t = named{t, c.name}
			r.wantEnd(c.code)
		}
		if version == 5 {
			for _, c := range []struct {
				name  string
				bytes []byte
				code  byte
			}{
				{"unknown property", []byte{0x30, 0x06, 0x00, 0x01, 'a', 0x02, 0x7F, 0x00}, 0x81},
				{"property of CONNACK", []byte{0x30, 0x07, 0x00, 0x01, 'a', 0x03, 0x13, 0x00, 0x01}, 0x81},
				{"property twice", []byte{0x30, 0x08, 0x00, 0x01, 'a', 0x04, 0x01, 0x01, 0x01, 0x01}, 0x82},
				{"properties longer than the packet", []byte{0x30, 0x04, 0x00, 0x01, 'a', 0x7F}, 0x81},
				{"alias 0", []byte{0x30, 0x07, 0x00, 0x01, 'a', 0x03, 0x23, 0x00, 0x00}, 0x94},
				{"alias beyond the maximum", []byte{0x30, 0x07, 0x00, 0x01, 'a', 0x03, 0x23, 0x00, 0x11}, 0x94},
				{"alias never set", []byte{0x30, 0x06, 0x00, 0x00, 0x03, 0x23, 0x00, 0x01}, 0x82},
				{"retain", []byte{0x31, 0x04, 0x00, 0x01, 'a', 0x00}, 0x9A},
				{"subscription identifier", []byte{0x82, 0x09, 0x00, 0x01, 0x02, 0x0B, 0x01, 0x00, 0x01, 'a', 0x00}, 0xA1},
				{"subscription identifier in PUBLISH", []byte{0x30, 0x06, 0x00, 0x01, 'a', 0x02, 0x0B, 0x01}, 0x81},
				{"AUTH", []byte{0xF0, 0x00}, 0x82},
				{"expiry in DISCONNECT of a session that ends", []byte{0xE0, 0x07, 0x00, 0x05, 0x11, 0x00, 0x00, 0x00, 0x09}, 0x82},
				{"another's topic at QoS 0", encode(t, publish(0, 0, "telemetry/car-2/position", position), 5), 0x87},
				{"senseless topic at QoS 0", encode(t, publish(0, 0, "foo", position), 5), 0x90},
			} {
				r := connected(t, f, version, "car-1", token)
				r.write(c.bytes)
				r.t = named{t, c.name}
				r.wantEnd(c.code)
			}
		} else {
			for _, topic := range []string{"telemetry/car-2/position", "foo", "$SYS/x", "telemetry/No"} {
				for qos := range byte(3) {
					r := connected(t, f, version, "car-1", token)
					r.send(publish(qos, uint16(qos), topic, position))
					r.t = named{t, topic}
					r.wantEnd(0)
				}
			}
			r := connected(t, f, version, "car-1", token) // retain is ignored
			r.send(publish(1, 1, "telemetry/position", position, func(p *mochi.Packet) { p.FixedHeader.Retain = true }))
			r.wantAck(mochi.Puback, 1, 0)
		}
		r := connected(t, f, version, "car-1", token)
		r.send(publish(1, 1, "telemetry/position", `{"pad":"`+strings.Repeat("x", 9980)+`"}`)) // at the limit
		r.wantAck(mochi.Puback, 1, 0)
		r.send(publish(1, 2, "telemetry/position", strings.Repeat("x", 10_001)))
		r.wantEnd(0x95)
		r = connected(t, f, version, "car-1", token)
		r.send(publish(1, 2, "telemetry/position", strings.Repeat("x", 1<<20)))
		r.wantEnd(0x95)
		bystander.sync()
	})
}

// A named test says which case failed.
type named struct {
	testing.TB
	name string
}

func (n named) Errorf(format string, args ...any) {
	n.Helper()
	n.TB.Errorf("%s: %s", n.name, fmt.Sprintf(format, args...))
}

func (n named) Fatalf(format string, args ...any) {
	n.Helper()
	n.TB.Fatalf("%s: %s", n.name, fmt.Sprintf(format, args...))
}

// What is no CONNECT gets no further.
func TestMalformedConnect(t *testing.T) {
	f := gatewaytest.Start(t, newMemlog(t), gateway.Limits{})
	good := encode(t, mochi.Packet{FixedHeader: mochi.FixedHeader{Type: mochi.Connect}, Connect: mochi.ConnectParams{
		ProtocolName: []byte("MQTT"), ClientIdentifier: "x", Clean: true,
	}}, 4)
	change := func(at int, b byte) []byte {
		out := append([]byte(nil), good...)
		out[at] = b
		return out
	}
	for _, c := range []struct {
		name   string
		bytes  []byte
		answer byte // of CONNACK; 0xFF is none
	}{
		{"PINGREQ first", []byte{0xC0, 0x00}, 0xFF},
		{"PUBLISH first", encode(t, publish(0, 0, "a", "b"), 4), 0xFF},
		{"TLS", []byte{0x16, 0x03, 0x01, 0x02, 0x00, 0x01, 0x00, 0x01, 0xFC, 0x03, 0x03}, 0xFF},
		{"HTTP", []byte("GET / HTTP/1.1\r\nHost: x\r\n\r\n"), 0xFF},
		{"200 KB", append([]byte{0x10, 0x80, 0x80, 0x0D}, make([]byte, 1000)...), 0xFF},
		{"protocol name", change(4, 'X'), 0xFF},
		{"version 3", change(8, 3), 0x01},
		{"version 77", change(8, 77), 0x84},
		{"reserved flag", change(9, 0x03), 0xFF},
		{"will flags without a will", change(9, 0x2A), 0xFF},
		{"password without user name", change(9, 0x42), 0xFF},
		{"user name missing", change(9, 0x82), 0xFF},
		{"bytes after the end", append(change(1, good[1]+1), 0), 0xFF},
	} {
		nc, err := net.Dial("tcp", f.MQTT)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := nc.Write(c.bytes); err != nil {
			t.Error(c.name, err)
		}
		_ = nc.SetReadDeadline(time.Now().Add(10 * time.Second))
		buf := make([]byte, 100)
		n, err := nc.Read(buf)
		switch {
		case c.answer == 0xFF && (n > 0 || isTimeout(err)):
			t.Errorf("%s: answered %x, %v", c.name, buf[:n], err)
		case c.answer != 0xFF && (n < 4 || buf[3] != c.answer):
			t.Errorf("%s: answered %x, %v; want %x", c.name, buf[:n], err, c.answer)
		}
		_ = nc.Close()
	}
}

func isTimeout(err error) bool {
	e, ok := err.(net.Error)
	return ok && e.Timeout()
}

// Who says nothing, or says it a byte at a time, is let go.
func TestSlowloris(t *testing.T) {
	f := gatewaytest.Start(t, newMemlog(t), gateway.Limits{Handshake: 300 * time.Millisecond, Stall: 300 * time.Millisecond})
	token := f.Add(t, "car-1")
	began := time.Now()
	r := dial(t, f, 4)
	r.wantEnd(0)
	r = dial(t, f, 4)
	go trickle(r.nc, []byte{0x10, 0x50, 0x00, 0x04, 'M', 'Q', 'T', 'T', 4, 2, 0, 0, 0, 60})
	r.wantEnd(0)
	r = connected(t, f, 5, "car-1", token)
	go trickle(r.nc, append([]byte{0x30, 0x50, 0x00, 0x20}, make([]byte, 60)...))
	r.wantEnd(0x80)
	r = connected(t, f, 4, "car-1", token)
	r.write([]byte{0x30})
	r.wantEnd(0)
	if took := time.Since(began); took > 8*time.Second {
		t.Errorf("took %v", took)
	}
	r = connected(t, f, 4, "car-1", token) // between packets a device may rest
	time.Sleep(600 * time.Millisecond)
	r.sync()
}

func trickle(nc net.Conn, b []byte) {
	for i := range b {
		if _, err := nc.Write(b[i : i+1]); err != nil {
			return
		}
		time.Sleep(50 * time.Millisecond)
	}
}

// A client that is silent for one and a half times its keep alive is gone; one
// that speaks is not.
func TestKeepAlive(t *testing.T) {
	both(t, func(t *testing.T, version byte) {
		f := gatewaytest.Start(t, newMemlog(t), gateway.Limits{})
		token := f.Add(t, "car-1")
		short := func(p *mochi.Packet) { p.Connect.Keepalive = 1 }
		r := connected(t, f, version, "car-1", token, short)
		began := time.Now()
		r.wantEnd(0x8D)
		if took := time.Since(began); took < 1400*time.Millisecond || took > 4*time.Second {
			t.Errorf("silence of %v", took)
		}
		r = connected(t, f, version, "car-1", token, short)
		for range 4 {
			time.Sleep(700 * time.Millisecond)
			r.sync()
		}
	})
}

// Limits on connections: those beyond are told, and a flood waits its turn.
func TestConnectionLimits(t *testing.T) {
	f := gatewaytest.Start(t, newMemlog(t), gateway.Limits{MaxConnections: 3, MaxConnectionsPerDevice: 2})
	token := f.Add(t, "car-1")
	a := connected(t, f, 5, "car-1", token, clientID("a"))
	connected(t, f, 4, "car-1", token, clientID("b"))
	r := dial(t, f, 5)
	if ack := r.login("car-1", token, clientID("c")); ack.ReasonCode != 0x97 {
		t.Errorf("third connection of a device: %#x", ack.ReasonCode)
	}
	r.wantEnd(0)
	gatewaytest.Eventually(t, "there is room again", func() bool {
		r := dial(t, f, 5)
		ok := r.login("car-2", f2(t, f)).ReasonCode == 0
		if !ok {
			_ = r.nc.Close()
		}
		return ok
	})
	for version, want := range map[byte]byte{4: 3, 5: 0x89} {
		r := dial(t, f, version)
		if ack := r.login("car-1", token, clientID("d")); ack.ReasonCode != want {
			t.Errorf("connection beyond the limit: %#x, want %#x", ack.ReasonCode, want)
		}
	}
	a.sync()
}

func f2(t *testing.T, f *gatewaytest.Fixture) string {
	if _, ok := f.Auth.Get("car-2"); !ok {
		f.Add(t, "car-2")
	}
	return f2token(t, f)
}

func TestConnectionRate(t *testing.T) {
	f := gatewaytest.Start(t, newMemlog(t), gateway.Limits{ConnectionsPerSecond: 20})
	token := f.Add(t, "car-1")
	began := time.Now()
	for i := range 40 { // 20 at once, the others one in 50 ms
		connected(t, f, 4, "car-1", token, clientID(fmt.Sprint(i)))
	}
	if took := time.Since(began); took < 700*time.Millisecond {
		t.Errorf("40 connections in %v", took)
	}
}

// A device over its rates waits; the others don't.
func TestRates(t *testing.T) {
	f := gatewaytest.Start(t, newMemlog(t), gateway.Limits{MessagesPerSecond: 50})
	r := connected(t, f, 4, "car-1", f.Add(t, "car-1"))
	other := connected(t, f, 4, "car-2", f.Add(t, "car-2"))
	began := time.Now()
	for i := range 90 { // 50 at once, the others one in 20 ms
		r.send(publish(1, uint16(i+1), "telemetry/position", position))
	}
	other.send(publish(1, 1, "telemetry/position", position))
	other.wantAck(mochi.Puback, 1, 0)
	if took := time.Since(began); took > 500*time.Millisecond {
		t.Errorf("another device waited %v", took)
	}
	for i := range 90 {
		r.wantAck(mochi.Puback, uint16(i+1), 0)
	}
	if took := time.Since(began); took < 600*time.Millisecond {
		t.Errorf("90 messages in %v", took)
	}
}

// A client that sends and never reads cannot make us hold what it is owed.
func TestClientThatNeverReads(t *testing.T) {
	f := gatewaytest.Start(t, newMemlog(t), gateway.Limits{Write: 500 * time.Millisecond})
	r := connected(t, f, 4, "car-1", f.Add(t, "car-1"))
	ping := strings.Repeat("\xC0\x00", 1<<15)
	_ = r.nc.SetWriteDeadline(time.Now().Add(20 * time.Second))
	var err error
	for err == nil {
		_, err = r.nc.Write([]byte(ping))
	}
	if isTimeout(err) {
		t.Error("the connection was kept")
	}
	gatewaytest.Eventually(t, "it was let go", func() bool { return f.Metric(t, "mqtt_connections") == 0 })
}

// Topic aliases save bytes and mean what they were given for.
func TestTopicAlias(t *testing.T) {
	f := gatewaytest.Start(t, newMemlog(t), gateway.Limits{})
	r := connected(t, f, 5, "car-1", f.Add(t, "car-1"))
	alias := func(n uint16) func(*mochi.Packet) {
		return func(p *mochi.Packet) { p.Properties.TopicAlias, p.Properties.TopicAliasFlag = n, true }
	}
	for i, c := range []struct {
		topic string
		alias uint16
		code  byte
	}{
		{"telemetry/position", 1, 0}, {"telemetry/car-1/powertrain", 16, 0}, {"", 1, 0}, {"", 16, 0},
		{"telemetry/body", 1, 0}, {"", 1, 0}, {"telemetry/car-2/body", 2, 0x87}, {"", 2, 0x87},
	} {
		r.send(publish(1, uint16(i+1), c.topic, `{}`, alias(c.alias)))
		r.wantAck(mochi.Puback, uint16(i+1), c.code)
	}
	var types []string
	for _, e := range f.Stored(t, "car-1") {
		types = append(types, e.Type)
	}
	if got := strings.Join(types, " "); got != "position powertrain position powertrain body body" {
		t.Errorf("stored %s", got)
	}
}

// Payloads that do not decode are kept and, in version 5, their sender is told.
func TestBadPayloads(t *testing.T) {
	both(t, func(t *testing.T, version byte) {
		f := gatewaytest.Start(t, newMemlog(t), gateway.Limits{})
		r := connected(t, f, version, "car-1", f.Add(t, "car-1"))
		bad := []string{
			"", "x", "{", `{"latitude":"north"}`, `{"latitude":NaN}`, `{"latitude":1e999}`, `{"time":"yesterday"}`,
			"{\"latitude\":1,\"note\":\"\xff\"}", strings.Repeat("[", 100_000), `{"a":` + strings.Repeat(`{"a":`, 10_000) + "1" + strings.Repeat("}", 10_001),
			`{"latitude":1,"latitude":2}`, "\x00\x01\x02", "\x0a\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff", "[]", `[{"latitude":1},{"latitude":"x"}]`,
		}
		for i, payload := range bad {
			r.send(publish(1, uint16(i+1), "telemetry/position", payload))
			ack := r.want(mochi.Puback)
			if want := map[byte]byte{4: 0, 5: 0x99}[version]; ack.ReasonCode != want || version == 5 && ack.Properties.ReasonString == "" {
				t.Errorf("%.40q: %#x %q, want %#x", payload, ack.ReasonCode, ack.Properties.ReasonString, want)
			}
		}
		fine := []string{`{"nobody":"knows"}`, `[{"latitude":1},{"latitude":2}]`, `{"samples":[{"latitude":1}]}`, `{"time":4102444800000,"latitude":1}`, `{"time":0}`}
		for i, payload := range fine {
			r.send(publish(1, uint16(i+1), "telemetry/position", payload))
			r.wantAck(mochi.Puback, uint16(i+1), 0)
		}
		r.send(publish(2, 9, "telemetry/position", "x"))
		if version == 5 {
			r.wantAck(mochi.Pubrec, 9, 0x99) // which ends the exchange
			r.send(publish(2, 9, "telemetry/position", position))
		}
		r.wantAck(mochi.Pubrec, 9, 0)
		r.send(publish(1, 9, "telemetry/never_heard_of", "\x00 anything at all"))
		r.wantAck(mochi.Puback, 9, 0)
		got := f.Stored(t, "car-1")
		for i, want := range append(bad, fine...) {
			if i >= len(got) || string(got[i].Payload) != want {
				t.Fatalf("payload %d is not stored as it came", i)
			}
		}
		if last := got[len(got)-1]; last.Type != "never_heard_of" || last.Schema != 0 {
			t.Errorf("unknown type: %+v", last)
		}
		if n := f.Metric(t, "refused_total", "reason", "undecodable"); n != float64(len(bad)+1) {
			t.Errorf("%v counted as undecodable, want %d", n, len(bad)+1)
		}
	})
}

// Devices may have any id that auth allows.
func TestOddDeviceIDs(t *testing.T) {
	f := gatewaytest.Start(t, newMemlog(t), gateway.Limits{})
	for _, id := range []string{"a.b", "a b", "*", ">", "$SYS", "ü", "=41", strings.Repeat("x", 128)} {
		r := connected(t, f, 5, id, f.Add(t, id))
		r.send(publish(1, 1, "telemetry/"+id+"/position", position))
		r.wantAck(mochi.Puback, 1, 0)
		if got := f.Stored(t, id); len(got) != 1 {
			t.Errorf("%q: %d stored", id, len(got))
		}
	}
}
