package fleet

import (
	"bufio"
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"sync"
	"time"

	mqtt5 "github.com/eclipse/paho.golang/packets"
	mqtt3 "github.com/eclipse/paho.mqtt.golang/packets"
)

// mqttLink is an MQTT connection that costs little CPU, since a load shares
// the machine with the node: what is due together goes out in one write, and
// answers are read as they lie in the buffer. CONNECT and CONNACK are left to
// the two paho codecs. The packet id is the slot plus one.
type mqttLink struct {
	conn net.Conn
	qos  byte
	five bool
	head []byte // PUBLISH from its topic to where the packet id stands
	ear  ear

	mu  sync.Mutex // the listener writes too: PUBREL
	out *bufio.Writer

	gone, done chan struct{}
}

const telemetryTopic = "telemetry/position"

func openMQTT(ctx context.Context, addr, car, token string, version, qos byte, window int, e ear) (link, error) {
	fail := func(err error) (link, error) { return nil, fmt.Errorf("connect %s: %w", car, err) }
	if window > 1<<16-1 {
		return fail(fmt.Errorf("window %d is more than packet ids", window))
	}
	var dialer net.Dialer
	conn, err := dialer.DialContext(ctx, "tcp", addr)
	if err != nil {
		return fail(err)
	}
	in := bufio.NewReader(conn)
	_ = conn.SetDeadline(time.Now().Add(ackPatience)) // fails on a closed connection only
	var most int
	if version == 5 {
		most, err = connect5(conn, in, car, token)
	} else {
		most, err = connect3(conn, in, car, token)
	}
	if err == nil && most < window {
		err = fmt.Errorf("the node takes %d unacknowledged messages, the window is %d", most, window)
	}
	if err != nil {
		conn.Close()
		return fail(err)
	}
	_ = conn.SetDeadline(time.Time{})
	l := &mqttLink{conn: conn, out: bufio.NewWriterSize(conn, 16<<10), qos: qos, five: version == 5, ear: e,
		gone: make(chan struct{}), done: make(chan struct{})}
	l.head = append(binary.BigEndian.AppendUint16(nil, uint16(len(telemetryTopic))), telemetryTopic...)
	go l.listen(in)
	return l, nil
}

func connect3(w io.Writer, r io.Reader, car, token string) (window int, err error) {
	p := mqtt3.NewControlPacket(mqtt3.Connect).(*mqtt3.ConnectPacket)
	p.ProtocolName, p.ProtocolVersion, p.CleanSession, p.ClientIdentifier = "MQTT", 4, true, car
	p.UsernameFlag, p.PasswordFlag, p.Username, p.Password = true, true, car, []byte(token)
	if err := p.Write(w); err != nil {
		return 0, err
	}
	answer, err := mqtt3.ReadPacket(r)
	if err != nil {
		return 0, err
	}
	ack, ok := answer.(*mqtt3.ConnackPacket)
	if !ok || ack.ReturnCode != 0 {
		return 0, fmt.Errorf("refused: %v", answer)
	}
	return 1 << 16, nil // 3.1.1 knows no bound
}

func connect5(w io.Writer, r io.Reader, car, token string) (window int, err error) {
	p := mqtt5.NewControlPacket(mqtt5.CONNECT)
	c := p.Content.(*mqtt5.Connect)
	c.ProtocolName, c.ProtocolVersion, c.CleanStart, c.ClientID = "MQTT", 5, true, car
	c.UsernameFlag, c.PasswordFlag, c.Username, c.Password = true, true, car, []byte(token)
	if _, err := p.WriteTo(w); err != nil {
		return 0, err
	}
	answer, err := mqtt5.ReadPacket(r)
	if err != nil {
		return 0, err
	}
	ack, ok := answer.Content.(*mqtt5.Connack)
	if !ok || ack.ReasonCode != 0 {
		return 0, fmt.Errorf("refused: %v", answer)
	}
	if ack.Properties != nil && ack.Properties.ReceiveMaximum != nil {
		return int(*ack.Properties.ReceiveMaximum), nil
	}
	return 1<<16 - 1, nil
}

func (l *mqttLink) send(slot int, payload []byte) error {
	size := len(l.head) + len(payload)
	if l.qos > 0 {
		size += 2
	}
	if l.five {
		size++
	}
	l.mu.Lock()
	b := binary.AppendUvarint(append(l.out.AvailableBuffer(), 0x30|l.qos<<1), uint64(size))
	b = append(b, l.head...)
	if l.qos > 0 {
		b = binary.BigEndian.AppendUint16(b, uint16(slot+1))
	}
	if l.five {
		b = append(b, 0) // no properties
	}
	_, _ = l.out.Write(b) // a bufio.Writer keeps its error
	_, err := l.out.Write(payload)
	l.mu.Unlock()
	if l.qos == 0 && err == nil {
		l.ear.free(slot)
	}
	return err
}

func (l *mqttLink) flush() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.out.Flush()
}

func (l *mqttLink) close() {
	close(l.gone)
	_ = l.conn.SetWriteDeadline(time.Now().Add(time.Second)) // also for a send that hangs
	l.mu.Lock()
	_, _ = l.out.Write([]byte{0xe0, 0}) // DISCONNECT; it ends either way
	_ = l.out.Flush()
	l.mu.Unlock()
	l.conn.Close()
	<-l.done
}

func (l *mqttLink) listen(in *bufio.Reader) {
	defer close(l.done)
	for {
		if l.qos == 2 && in.Buffered() < 4 { // what is released goes out before the listener waits
			if err := l.flush(); err != nil {
				l.lost(err)
				return
			}
		}
		head, body, err := readPacket(in)
		if err != nil {
			l.lost(err)
			return
		}
		if kind := head >> 4; kind == mqtt5.DISCONNECT {
			l.lost(fmt.Errorf("the node ended the connection: DISCONNECT % x", body))
			return
		} else if kind < mqtt5.PUBACK || kind > mqtt5.PUBCOMP || len(body) < 2 {
			l.lost(fmt.Errorf("packet %#x % x is no answer to a PUBLISH", head, body))
			return
		}
		id := binary.BigEndian.Uint16(body)
		slot, refusal := int(id)-1, ""
		if len(body) > 2 && body[2] >= 0x80 {
			refusal = fmt.Sprintf("reason code %#x", body[2])
		}
		switch head >> 4 {
		case mqtt5.PUBACK:
			l.ear.acknowledged(slot, refusal)
			l.ear.free(slot)
		case mqtt5.PUBREC:
			l.ear.acknowledged(slot, refusal)
			if refusal != "" {
				l.ear.free(slot)
			} else if err := l.release(id); err != nil {
				l.lost(err)
				return
			}
		case mqtt5.PUBCOMP:
			l.ear.free(slot)
		}
	}
}

// release answers PUBREC. The listener may write: it is little, and the node
// reads whatever we do.
func (l *mqttLink) release(id uint16) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	_, err := l.out.Write([]byte{0x62, 2, byte(id >> 8), byte(id)})
	return err
}

func (l *mqttLink) lost(err error) {
	select {
	case <-l.gone: // we ended it
	default:
		l.ear.broken(err)
	}
}

// readPacket reads an MQTT packet; body is valid until the next call only if
// it fits the reader's buffer, as all answers do.
func readPacket(in *bufio.Reader) (head byte, body []byte, err error) {
	if head, err = in.ReadByte(); err != nil {
		return 0, nil, err
	}
	n, err := binary.ReadUvarint(in) // MQTT's lengths are the same
	if err != nil {
		return 0, nil, err
	}
	if n > 1<<16 {
		return 0, nil, fmt.Errorf("packet %#x of %d bytes", head, n)
	}
	if int(n) <= in.Size() {
		if body, err = in.Peek(int(n)); err == nil {
			_, err = in.Discard(int(n))
		}
		return head, body, err
	}
	body = make([]byte, n)
	_, err = io.ReadFull(in, body)
	return head, body, err
}
