package gateway_test

import (
	"bufio"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"sync"
	"testing"
	"time"

	mochi "github.com/mochi-mqtt/server/v2/packets"

	"github.com/tachograph/tachograph/events/jetlog"
	"github.com/tachograph/tachograph/services/gateway"
	"github.com/tachograph/tachograph/services/gateway/gatewaytest"
)

// Devices whose connections break at any moment, and who send again what was not
// acknowledged: everything acknowledged is in the log, QoS 2 exactly once, each
// device's messages in order of their first appearance.
func TestSoak(t *testing.T) {
	const devices, messages = 12, 300
	f := gatewaytest.Start(t, gatewaytest.JetLog(t, jetlog.OS, 0), gateway.Limits{Window: 16})
	var wg sync.WaitGroup
	for n := range devices {
		d := &flaky{
			device: fmt.Sprintf("car-%d", n), version: byte(4 + n%2), qos: byte(1 + n/2%2),
			chance: rand.New(rand.NewPCG(1, uint64(n))), state: make([]int, messages),
		}
		d.token = f.Add(t, d.device)
		wg.Go(func() {
			for end := time.Now().Add(60 * time.Second); !d.finished(); {
				if time.Now().After(end) {
					t.Errorf("%s did not finish", d.device)
					return
				}
				d.live(t, f)
			}
			times := map[string]int{}
			last := -1
			for _, e := range f.Stored(t, d.device) {
				var i int
				if _, err := fmt.Sscanf(string(e.Payload), `{"n":%d}`, &i); err != nil {
					t.Errorf("%s: %s: %v", d.device, e.Payload, err)
				}
				if times[string(e.Payload)]++; times[string(e.Payload)] == 1 {
					if i != last+1 {
						t.Errorf("%s: %d after %d", d.device, i, last)
					}
					last = i
				}
			}
			for i := range messages {
				if got := times[payloadOf(i)]; got < 1 || got > 1 && d.qos == 2 {
					t.Errorf("%s: message %d is stored %d times", d.device, i, got)
				}
			}
			t.Logf("%s: QoS %d, %d connections, %d repeats", d.device, d.qos, d.lives, len(f.Stored(t, d.device))-messages)
		})
	}
	wg.Wait()
}

func payloadOf(i int) string { return fmt.Sprintf(`{"n":%d}`, i) }

// What a flaky device knows of a message.
const (
	unsent = iota
	sent
	received // PUBREC came
	finished
)

// A flaky device keeps up to ten messages on their way over a connection that
// breaks.
type flaky struct {
	device, token string
	version, qos  byte
	chance        *rand.Rand
	state         []int // of each message; its packet id is its index + 1
	lives         int
}

func (d *flaky) finished() bool {
	for _, s := range d.state {
		if s != finished {
			return false
		}
	}
	return true
}

// live is one connection, to its end.
func (d *flaky) live(t *testing.T, f *gatewaytest.Fixture) {
	nc, err := net.Dial("tcp", f.MQTT)
	if err != nil {
		t.Error(err)
		return
	}
	defer nc.Close()
	d.lives++
	_ = nc.SetDeadline(time.Now().Add(20 * time.Second))
	in := bufio.NewReader(nc)
	connect := mochi.Packet{FixedHeader: mochi.FixedHeader{Type: mochi.Connect}, ProtocolVersion: d.version, Connect: mochi.ConnectParams{
		ProtocolName: []byte("MQTT"), ClientIdentifier: "x", Username: []byte(d.device), UsernameFlag: true, Password: []byte(d.token), PasswordFlag: true,
	}}
	kept(&connect)
	if _, err := nc.Write(encode(t, connect, d.version)); err != nil {
		return
	}
	if typ, _, ok := readAck(in); !ok || typ != mochi.Connack {
		return
	}
	resend := true
	for budget := d.chance.IntN(120); ; budget-- {
		var out []byte
		open := 0
		for i := range d.state {
			switch s := d.state[i]; {
			case s == finished || open == 10:
				continue
			case s == received && resend:
				out = append(out, encode(t, pubrel(uint16(i+1)), d.version)...)
			case s == unsent || s == sent && resend:
				out = append(out, encode(t, publish(d.qos, uint16(i+1), "telemetry/soak", payloadOf(i), func(p *mochi.Packet) { p.FixedHeader.Dup = s == sent }), d.version)...)
				d.state[i] = sent
			}
			open++
		}
		resend = false
		if open == 0 {
			return
		}
		if budget < 0 { // breaks, perhaps in the middle of a packet
			_, _ = nc.Write(out[:d.chance.IntN(len(out)+1)])
			return
		}
		if _, err := nc.Write(out); err != nil {
			return
		}
		typ, id, ok := readAck(in)
		if !ok {
			return
		}
		switch typ {
		case mochi.Puback, mochi.Pubcomp:
			d.state[id-1] = finished
		case mochi.Pubrec:
			d.state[id-1] = received
			if _, err := nc.Write(encode(t, pubrel(id), d.version)); err != nil {
				return
			}
		default:
			t.Errorf("%s: %s", d.device, mochi.PacketNames[typ])
			return
		}
	}
}

func readAck(in *bufio.Reader) (typ byte, id uint16, ok bool) {
	head, err := in.ReadByte()
	if err != nil {
		return 0, 0, false
	}
	n, err := in.ReadByte()
	if err != nil {
		return 0, 0, false
	}
	body := make([]byte, n)
	if _, err := io.ReadFull(in, body); err != nil {
		return 0, 0, false
	}
	return head >> 4, uint16(body[0])<<8 | uint16(body[1]), true
}
