package gateway_test

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"net"
	"testing"
	"time"

	mochi "github.com/mochi-mqtt/server/v2/packets"

	"github.com/tachograph/tachograph/services/gateway/gatewaytest"
)

// A raw is an MQTT client that says exactly what a test wants said. It speaks
// through mochi-mqtt's codec, so that ours is not its own judge.
type raw struct {
	t       testing.TB
	nc      net.Conn
	in      *bufio.Reader
	version byte
}

func dial(t testing.TB, f *gatewaytest.Fixture, version byte) *raw {
	t.Helper()
	nc, err := net.Dial("tcp", f.MQTT)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = nc.Close() })
	return &raw{t: t, nc: nc, in: bufio.NewReader(nc), version: version}
}

// login connects as a device and returns CONNACK.
func (r *raw) login(device, token string, change ...func(*mochi.Packet)) mochi.Packet {
	r.t.Helper()
	p := mochi.Packet{
		FixedHeader: mochi.FixedHeader{Type: mochi.Connect}, ProtocolVersion: r.version,
		Connect: mochi.ConnectParams{
			ProtocolName: []byte("MQTT"), ClientIdentifier: "c-" + device, Clean: true, Keepalive: 60,
			Username: []byte(device), UsernameFlag: true, Password: []byte(token), PasswordFlag: token != "",
		},
	}
	for _, f := range change {
		f(&p)
	}
	r.send(p)
	ack := r.want(mochi.Connack)
	return ack
}

// connected dials and logs in.
func connected(t testing.TB, f *gatewaytest.Fixture, version byte, device, token string, change ...func(*mochi.Packet)) *raw {
	t.Helper()
	r := dial(t, f, version)
	if ack := r.login(device, token, change...); ack.ReasonCode != 0 {
		t.Fatalf("CONNACK %#x", ack.ReasonCode)
	}
	return r
}

func (r *raw) send(p mochi.Packet) {
	r.t.Helper()
	r.write(encode(r.t, p, r.version))
}

func (r *raw) write(b []byte) {
	r.t.Helper()
	if _, err := r.nc.Write(b); err != nil {
		r.t.Fatal(err)
	}
}

func encode(t testing.TB, p mochi.Packet, version byte) []byte {
	t.Helper()
	p.ProtocolVersion = version
	var b bytes.Buffer
	err := errors.New("no such packet")
	switch p.FixedHeader.Type {
	case mochi.Connect:
		err = p.ConnectEncode(&b)
	case mochi.Publish:
		err = p.PublishEncode(&b)
	case mochi.Puback:
		err = p.PubackEncode(&b)
	case mochi.Pubrec:
		err = p.PubrecEncode(&b)
	case mochi.Pubrel:
		p.FixedHeader.Qos = 1
		err = p.PubrelEncode(&b)
	case mochi.Subscribe:
		p.FixedHeader.Qos = 1
		err = p.SubscribeEncode(&b)
	case mochi.Unsubscribe:
		p.FixedHeader.Qos = 1
		err = p.UnsubscribeEncode(&b)
	case mochi.Pingreq:
		err = p.PingreqEncode(&b)
	case mochi.Disconnect:
		err = p.DisconnectEncode(&b)
	case mochi.Auth:
		err = p.AuthEncode(&b)
	}
	if err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// read returns the next packet; io.EOF when the server has closed.
func (r *raw) read(patience time.Duration) (p mochi.Packet, err error) {
	r.t.Helper()
	if err := r.nc.SetReadDeadline(time.Now().Add(patience)); err != nil {
		r.t.Fatal(err)
	}
	head, err := r.in.ReadByte()
	if err != nil {
		return p, err
	}
	if err := p.FixedHeader.Decode(head); err != nil {
		r.t.Fatal(err)
	}
	n, _, err := mochi.DecodeLength(r.in)
	if err != nil {
		r.t.Fatal(err)
	}
	body := make([]byte, n)
	if _, err := io.ReadFull(r.in, body); err != nil {
		r.t.Fatal(err)
	}
	p.FixedHeader.Remaining, p.ProtocolVersion = n, r.version
	switch p.FixedHeader.Type {
	case mochi.Connack:
		err = p.ConnackDecode(body)
	case mochi.Puback:
		err = p.PubackDecode(body)
	case mochi.Pubrec:
		err = p.PubrecDecode(body)
	case mochi.Pubcomp:
		err = p.PubcompDecode(body)
	case mochi.Publish:
		err = p.PublishDecode(body)
	case mochi.Suback:
		err = p.SubackDecode(body)
	case mochi.Unsuback:
		err = p.UnsubackDecode(body)
	case mochi.Disconnect:
		if p.ReasonCode = 0; n == 1 {
			p.ReasonCode = body[0]
		} else {
			err = p.DisconnectDecode(body)
		}
	}
	if err != nil {
		r.t.Fatalf("packet of type %d: %v", p.FixedHeader.Type, err)
	}
	return p, nil
}

// want returns the next packet, which must be of the type.
func (r *raw) want(typ byte) mochi.Packet {
	r.t.Helper()
	p, err := r.read(20 * time.Second)
	if err != nil {
		r.t.Fatalf("want %s: %v", mochi.PacketNames[typ], err)
	}
	if p.FixedHeader.Type != typ {
		r.t.Fatalf("got %s %#x %q, want %s", mochi.PacketNames[p.FixedHeader.Type], p.ReasonCode, p.Properties.ReasonString, mochi.PacketNames[typ])
	}
	return p
}

// wantAck wants an acknowledgement of the packet id with the code.
func (r *raw) wantAck(typ byte, id uint16, code byte) {
	r.t.Helper()
	if p := r.want(typ); p.PacketID != id || p.ReasonCode != code {
		r.t.Errorf("%s of %d with %#x %q, want %d with %#x", mochi.PacketNames[typ], p.PacketID, p.ReasonCode, p.Properties.ReasonString, id, code)
	}
}

// wantEnd wants the connection closed, in version 5 after DISCONNECT with the
// code; 0 is without.
func (r *raw) wantEnd(code byte) {
	r.t.Helper()
	if r.version == 5 && code != 0 {
		if p := r.want(mochi.Disconnect); p.ReasonCode != code {
			r.t.Errorf("DISCONNECT %#x %q, want %#x", p.ReasonCode, p.Properties.ReasonString, code)
		}
	}
	if p, err := r.read(20 * time.Second); err == nil {
		r.t.Errorf("%s %#x after the end", mochi.PacketNames[p.FixedHeader.Type], p.ReasonCode)
	} else if errors.Is(err, errTimeout) {
		r.t.Error("the connection stays open")
	}
}

// quiet wants nothing to come for a while.
func (r *raw) quiet(d time.Duration) {
	r.t.Helper()
	if p, err := r.read(d); err == nil {
		r.t.Errorf("%s of %d with %#x came", mochi.PacketNames[p.FixedHeader.Type], p.PacketID, p.ReasonCode)
	} else if !errors.Is(err, errTimeout) {
		r.t.Errorf("quiet: %v", err)
	}
}

// sync wants a PINGREQ answered: the connection lives, and all before it was
// handled.
func (r *raw) sync() {
	r.t.Helper()
	r.send(mochi.Packet{FixedHeader: mochi.FixedHeader{Type: mochi.Pingreq}})
	r.want(mochi.Pingresp)
}

func publish(qos byte, id uint16, topic, payload string, change ...func(*mochi.Packet)) mochi.Packet {
	p := mochi.Packet{
		FixedHeader: mochi.FixedHeader{Type: mochi.Publish, Qos: qos}, PacketID: id, TopicName: topic, Payload: []byte(payload),
	}
	for _, f := range change {
		f(&p)
	}
	return p
}

func pubrel(id uint16) mochi.Packet {
	return mochi.Packet{FixedHeader: mochi.FixedHeader{Type: mochi.Pubrel}, PacketID: id}
}
