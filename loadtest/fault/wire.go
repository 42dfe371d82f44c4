package fault

import (
	"bufio"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"time"
)

// A wire is an MQTT 3.1.1 connection of which every byte is known: packet ids
// and port have to be found again in a trace.
type wire struct {
	conn net.Conn
	in   *bufio.Reader
	port int
}

func dialWire(addr, device, token string) (*wire, error) {
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		return nil, err
	}
	if err := conn.SetDeadline(time.Now().Add(time.Minute)); err != nil {
		return nil, err
	}
	w := &wire{conn, bufio.NewReader(conn), conn.LocalAddr().(*net.TCPAddr).Port}
	body := append(text(nil, "MQTT"), 4, 0xc2, 0, 60) // 3.1.1, user, password, clean session
	for _, s := range []string{device, device, token} {
		body = text(body, s)
	}
	if _, err := conn.Write(packet(0x10, body)); err != nil {
		return nil, err
	}
	head, body, err := w.read()
	if err != nil || head != 0x20 || len(body) != 2 || body[1] != 0 {
		return nil, fmt.Errorf("connect: answer %#x % x: %w", head, body, err)
	}
	return w, nil
}

func (w *wire) publish(id uint16, topic string, payload []byte) error {
	body := binary.BigEndian.AppendUint16(text(nil, topic), id)
	_, err := w.conn.Write(packet(0x32, append(body, payload...)))
	return err
}

// puback returns the packet id of the next acknowledgement.
func (w *wire) puback() (uint16, error) {
	head, body, err := w.read()
	if err != nil {
		return 0, err
	}
	if head != 0x40 || len(body) != 2 {
		return 0, fmt.Errorf("want a PUBACK, got %#x % x", head, body)
	}
	return binary.BigEndian.Uint16(body), nil
}

func (w *wire) read() (head byte, body []byte, err error) {
	if head, err = w.in.ReadByte(); err != nil {
		return 0, nil, err
	}
	n, err := binary.ReadUvarint(w.in) // MQTT's lengths are the same
	if err != nil {
		return 0, nil, err
	}
	body = make([]byte, n)
	_, err = io.ReadFull(w.in, body)
	return head, body, err
}

func text(b []byte, s string) []byte {
	return append(binary.BigEndian.AppendUint16(b, uint16(len(s))), s...)
}

func packet(head byte, body []byte) []byte {
	return append(binary.AppendUvarint([]byte{head}, uint64(len(body))), body...)
}
