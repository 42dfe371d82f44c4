package openloop

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"

	"github.com/tachograph/tachograph/loadtest/peers"
)

// MQTT is a device's connection (3.1.1, QoS 1). It connects with the first
// message and again after a loss.
type MQTT struct {
	Addr, Device, Token, Topic string

	mu      sync.Mutex
	conn    net.Conn // nil: not connected
	id      uint16
	waiting map[uint16]chan error // packet id -> its publisher, of the connection there is
}

// Publish sends one message and waits for its PUBACK.
func (m *MQTT) Publish(ctx context.Context, payload []byte) error {
	answer, err := m.send(ctx, payload)
	if err != nil {
		return err
	}
	select {
	case err := <-answer:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (m *MQTT) send(ctx context.Context, payload []byte) (<-chan error, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.conn == nil {
		c, err := peers.Dial(ctx, m.Addr, m.Device, m.Device, m.Token)
		if err != nil {
			return nil, err
		}
		m.conn, m.waiting = c, map[uint16]chan error{}
		go m.read(c, m.waiting)
	}
	for m.id++; m.id == 0 || m.waiting[m.id] != nil; m.id++ {
		continue
	}
	answer := make(chan error, 1)
	m.waiting[m.id] = answer
	b := binary.AppendUvarint([]byte{0x32}, uint64(4+len(m.Topic)+len(payload)))
	b = binary.BigEndian.AppendUint16(b, uint16(len(m.Topic)))
	b = append(b, m.Topic...)
	b = binary.BigEndian.AppendUint16(b, m.id)
	if _, err := m.conn.Write(append(b, payload...)); err != nil {
		m.conn.Close() // the reader tells all who wait, this one too
	}
	return answer, nil
}

// read hands out the answers of one connection until it ends.
func (m *MQTT) read(c net.Conn, waiting map[uint16]chan error) {
	err := m.acknowledgements(bufio.NewReader(c), waiting)
	c.Close()
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.conn == c {
		m.conn = nil
	}
	for _, answer := range waiting {
		answer <- fmt.Errorf("connection of %s: %w", m.Device, err)
	}
}

func (m *MQTT) acknowledgements(in io.Reader, waiting map[uint16]chan error) error {
	var packet [4]byte
	for {
		if _, err := io.ReadFull(in, packet[:]); err != nil {
			return err
		}
		id := binary.BigEndian.Uint16(packet[2:])
		m.mu.Lock()
		answer := waiting[id]
		delete(waiting, id)
		m.mu.Unlock()
		if packet[0] != 0x40 || packet[1] != 2 || answer == nil {
			return errors.New("not an awaited PUBACK")
		}
		answer <- nil
	}
}

// Close disconnects.
func (m *MQTT) Close() {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.conn != nil {
		_, _ = io.WriteString(m.conn, "\xe0\x00") // DISCONNECT; the connection ends either way
		m.conn.Close()
		m.conn = nil
	}
}
