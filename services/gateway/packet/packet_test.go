package packet

import (
	"bytes"
	"errors"
	"testing"

	mochi "github.com/mochi-mqtt/server/v2/packets"
)

func encodePublish(t testing.TB, version byte, p mochi.Packet) []byte {
	t.Helper()
	p.ProtocolVersion, p.FixedHeader.Type = version, mochi.Publish
	var b bytes.Buffer
	if err := p.PublishEncode(&b); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// The reason for a codec of our own: bytes that any client can send make the
// library's panic. When this fails, look at DESIGN.md, D1, again.
func TestMochiPanics(t *testing.T) {
	body := []byte{0x00, 0x01, 0x00, 0x00, 0x01, 'a'}
	defer func() {
		if recover() == nil {
			t.Error("mochi-mqtt decodes a SUBSCRIBE without options without panic")
		}
		if _, err := DecodeSubscribe(Frame{SUBSCRIBE, 2, body}, V5); err == nil {
			t.Error("so do we, and call it well formed")
		}
	}()
	p := mochi.Packet{ProtocolVersion: 5, FixedHeader: mochi.FixedHeader{Type: mochi.Subscribe, Remaining: len(body)}}
	_ = p.SubscribeDecode(body)
}

func TestNextWaitsForAWholePacket(t *testing.T) {
	whole := encodePublish(t, V311, mochi.Packet{TopicName: "telemetry/position", Payload: make([]byte, 300)})
	for n := range len(whole) {
		if _, got, want, err := Next(whole[:n], 1000); got != 0 || err != nil || want <= n || want > len(whole) {
			t.Fatalf("%d bytes: %d %d %v", n, got, want, err)
		}
	}
	f, n, _, err := Next(append(whole, 0xC0, 0x00), 1000)
	if err != nil || n != len(whole) || f.Type != PUBLISH || len(f.Body) != len(whole)-3 {
		t.Errorf("%d %v", n, err)
	}
	if _, _, _, err := Next(whole[:3], 300); !isCode(err, PacketTooLarge) {
		t.Errorf("too large: %v", err)
	}
}

func isCode(err error, code Code) bool {
	var e *Error
	return errors.As(err, &e) && e.Code == code
}

func TestDecodePublishAllocatesNothing(t *testing.T) {
	for _, version := range []byte{V311, V5} {
		b := encodePublish(t, version, mochi.Packet{
			FixedHeader: mochi.FixedHeader{Qos: 1}, PacketID: 7, TopicName: "telemetry/position", Payload: make([]byte, 125),
			Properties: mochi.Properties{TopicAlias: 1, TopicAliasFlag: true, User: []mochi.UserProperty{{Key: "id", Val: "x"}}},
		})
		var p Publish
		if n := testing.AllocsPerRun(100, func() {
			f, _, _, err := Next(b, 1000)
			if err == nil {
				err = p.Decode(f, version)
			}
			if err != nil {
				t.Fatal(err)
			}
		}); n > 0 {
			t.Errorf("version %d: %v allocations", version, n)
		}
	}
}

func TestLongReason(t *testing.T) {
	reason := string(bytes.Repeat([]byte("\xffé\n"), 1000))
	b := AppendAck(nil, V5, PUBACK, 1, PayloadFormatInvalid, reason)
	f, n, _, err := Next(b, 1<<20)
	if err != nil || n != len(b) || n > 600 {
		t.Fatalf("%d bytes: %v", n, err)
	}
	if id, code, err := DecodeAck(f, V5); id != 1 || code != PayloadFormatInvalid || err != nil {
		t.Errorf("%d %v %v", id, code, err)
	}
}

// FuzzDecode: no bytes make decoding panic or read beyond the packet, and what
// we take for well formed mochi-mqtt reads the same way.
func FuzzDecode(f *testing.F) {
	for _, version := range []byte{V311, V5} {
		f.Add(encodePublish(f, version, mochi.Packet{FixedHeader: mochi.FixedHeader{Qos: 1}, PacketID: 7, TopicName: "telemetry/position", Payload: []byte("{}")}), version)
		f.Add(AppendPublish(nil, version, "a/b", []byte("x"), 1, 9), version)
		f.Add(AppendAck(nil, version, PUBREL, 9, PacketIDNotFound, "why"), version)
		f.Add(AppendDisconnect(nil, version, Success, ""), version)
		for _, typ := range []byte{mochi.Connect, mochi.Subscribe, mochi.Unsubscribe} {
			p := mochi.Packet{ProtocolVersion: version, FixedHeader: mochi.FixedHeader{Type: typ, Qos: 1}, PacketID: 3, Filters: mochi.Subscriptions{{Filter: "commands/#", Qos: 1}}, Connect: mochi.ConnectParams{
				ProtocolName: []byte("MQTT"), ClientIdentifier: "c", Username: []byte("u"), UsernameFlag: true, Password: []byte("p"), PasswordFlag: true,
				WillFlag: true, WillTopic: "telemetry/x", WillPayload: []byte("w"), Keepalive: 60,
			}}
			var b bytes.Buffer
			var err error
			switch typ {
			case mochi.Connect:
				p.FixedHeader.Qos = 0
				err = p.ConnectEncode(&b)
			case mochi.Subscribe:
				err = p.SubscribeEncode(&b)
			case mochi.Unsubscribe:
				err = p.UnsubscribeEncode(&b)
			}
			if err != nil {
				f.Fatal(err)
			}
			f.Add(b.Bytes(), version)
		}
	}
	f.Fuzz(func(t *testing.T, b []byte, version byte) {
		if version != V5 {
			version = V311
		}
		frame, n, want, err := Next(b, 1<<16)
		if err != nil || n == 0 {
			if n != 0 || err == nil && want <= len(b) {
				t.Fatalf("%d %d %v", n, want, err)
			}
			return
		}
		if n > len(b) || len(frame.Body) >= n {
			t.Fatalf("packet of %d bytes out of %d", n, len(b))
		}
		other := mochi.Packet{ProtocolVersion: version, FixedHeader: mochi.FixedHeader{
			Type: byte(frame.Type), Remaining: len(frame.Body), Qos: frame.Flags >> 1 & 3, Dup: frame.Flags&8 != 0, Retain: frame.Flags&1 != 0,
		}}
		switch frame.Type {
		case CONNECT:
			c, err := DecodeConnect(frame.Body)
			if err != nil {
				return
			}
			if err := other.ConnectDecode(frame.Body); err != nil {
				t.Fatalf("mochi: %v", err)
			}
			o := &other.Connect
			if c.ClientID != o.ClientIdentifier || c.UserName != string(o.Username) || c.Password != string(o.Password) || c.KeepAlive != o.Keepalive ||
				c.CleanStart != o.Clean || (c.Will != nil) != o.WillFlag || c.Will != nil && (c.Will.Topic != o.WillTopic || !bytes.Equal(c.Will.Payload, o.WillPayload)) {
				t.Errorf("%+v\nmochi: %+v", c, other)
			}
		case PUBLISH:
			var p Publish
			if p.Decode(frame, version) != nil {
				return
			}
			if err := other.PublishDecode(frame.Body); err != nil {
				t.Fatalf("mochi: %v", err)
			}
			if string(p.Topic) != other.TopicName || !bytes.Equal(p.Payload, other.Payload) || p.ID != other.PacketID || p.Alias != other.Properties.TopicAlias {
				t.Errorf("%+v\nmochi: %+v", p, other)
			}
		case PUBACK, PUBREC, PUBREL, PUBCOMP:
			id, code, err := DecodeAck(frame, version)
			if err != nil {
				return
			}
			if err := other.PubackDecode(frame.Body); err != nil || id != other.PacketID || byte(code) != other.ReasonCode {
				t.Errorf("%d %v, mochi: %+v %v", id, code, other, err)
			}
		case SUBSCRIBE:
			s, err := DecodeSubscribe(frame, version)
			if err != nil {
				return
			}
			if err := other.SubscribeDecode(frame.Body); err != nil || s.ID != other.PacketID || len(s.Filters) != len(other.Filters) {
				t.Fatalf("%+v, mochi: %+v %v", s, other, err)
			}
			for i, filter := range s.Filters {
				if filter.Topic != other.Filters[i].Filter || filter.QoS != other.Filters[i].Qos {
					t.Errorf("%+v, mochi: %+v", filter, other.Filters[i])
				}
			}
		case UNSUBSCRIBE:
			s, err := DecodeUnsubscribe(frame, version)
			if err != nil {
				return
			}
			if err := other.UnsubscribeDecode(frame.Body); err != nil || s.ID != other.PacketID || len(s.Filters) != len(other.Filters) {
				t.Fatalf("%+v, mochi: %+v %v", s, other, err)
			}
		case DISCONNECT:
			_, _, _, _ = DecodeDisconnect(frame, version)
		}
	})
}

// FuzzEncode: mochi-mqtt reads what we write.
func FuzzEncode(f *testing.F) {
	f.Add("commands/stop", []byte("{}"), byte(1), uint16(7), byte(5), "why")
	f.Add("a", []byte{}, byte(0), uint16(1), byte(4), "")
	f.Fuzz(func(t *testing.T, topic string, payload []byte, qos byte, id uint16, version byte, reason string) {
		if version != V5 {
			version = V311
		}
		if qos &= 1; id == 0 || len(topic) > 65535 || validText(topic) != topic {
			return
		}
		read := func(b []byte) (mochi.Packet, []byte) {
			frame, n, _, err := Next(b, 1<<28)
			if err != nil || n != len(b) {
				t.Fatalf("%x: %d of %d bytes, %v", b, n, len(b), err)
			}
			return mochi.Packet{ProtocolVersion: version, FixedHeader: mochi.FixedHeader{Type: byte(frame.Type), Remaining: len(frame.Body), Qos: frame.Flags >> 1 & 3}}, frame.Body
		}
		p, body := read(AppendPublish(nil, version, topic, payload, qos, id))
		if err := p.PublishDecode(body); err != nil || p.TopicName != topic || !bytes.Equal(p.Payload, payload) || qos > 0 && p.PacketID != id {
			t.Errorf("PUBLISH: %+v %v", p, err)
		}
		if got := PublishSize(version, topic, payload, qos); got != len(body) {
			t.Errorf("PublishSize %d, body %d", got, len(body))
		}
		p, body = read(AppendAck(nil, version, PUBACK, id, PayloadFormatInvalid, reason))
		if err := p.PubackDecode(body); err != nil || p.PacketID != id || version == V5 && p.ReasonCode != 0x99 {
			t.Errorf("PUBACK: %+v %v", p, err)
		}
		p, body = read(AppendConnack(nil, version, Connack{ReceiveMaximum: 9, MaximumPacketSize: 77, TopicAliasMaximum: 3, HasExpiry: true, Expiry: 5, AssignedClientID: "x", Reason: reason, SessionPresent: true}))
		if err := p.ConnackDecode(body); err != nil || !p.SessionPresent || version == V5 && (p.Properties.ReceiveMaximum != 9 || p.Properties.MaximumPacketSize != 77) {
			t.Errorf("CONNACK: %+v %v", p, err)
		}
		p, body = read(AppendSuback(nil, version, SUBACK, id, []Code{0, 1, NotAuthorized}))
		if err := p.SubackDecode(body); err != nil || p.PacketID != id || len(p.ReasonCodes) != 3 {
			t.Errorf("SUBACK: %+v %v", p, err)
		}
		if version == V5 {
			p, body = read(AppendDisconnect(nil, version, MalformedPacket, reason))
			if len(body) > 1 {
				if err := p.DisconnectDecode(body); err != nil || p.ReasonCode != 0x81 {
					t.Errorf("DISCONNECT: %+v %v", p, err)
				}
			}
		}
	})
}

func BenchmarkDecodePublish(b *testing.B) {
	packet := encodePublish(b, V311, mochi.Packet{FixedHeader: mochi.FixedHeader{Qos: 1}, PacketID: 7, TopicName: "telemetry/position", Payload: make([]byte, 125)})
	b.Run("ours", func(b *testing.B) {
		b.ReportAllocs()
		var p Publish
		for b.Loop() {
			f, _, _, _ := Next(packet, 1<<20)
			_ = p.Decode(f, V311)
		}
	})
	b.Run("mochi", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			p := mochi.Packet{ProtocolVersion: 4, FixedHeader: mochi.FixedHeader{Type: mochi.Publish, Qos: 1, Remaining: len(packet) - 3}}
			_ = p.PublishDecode(packet[3:])
			_ = p.PublishValidate(16)
		}
	})
}

func BenchmarkAppendPuback(b *testing.B) {
	b.Run("ours", func(b *testing.B) {
		b.ReportAllocs()
		var out []byte
		for b.Loop() {
			out = AppendAck(out[:0], V311, PUBACK, 7, Success, "")
		}
	})
	b.Run("mochi", func(b *testing.B) {
		b.ReportAllocs()
		var out bytes.Buffer
		for b.Loop() {
			out.Reset()
			p := mochi.Packet{ProtocolVersion: 4, FixedHeader: mochi.FixedHeader{Type: mochi.Puback}, PacketID: 7}
			_ = p.PubackEncode(&out)
		}
	})
}
