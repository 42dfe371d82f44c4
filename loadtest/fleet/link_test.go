package fleet

import (
	"bufio"
	"context"
	"encoding/binary"
	"io"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// listening notes what a link says.
type listening struct {
	mu    sync.Mutex
	acked []int
	why   []string
	freed chan int
	ended chan error
}

func newListening() *listening {
	return &listening{freed: make(chan int, 100), ended: make(chan error, 1)}
}

func (l *listening) acknowledged(slot int, refusal string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.acked, l.why = append(l.acked, slot), append(l.why, refusal)
}
func (l *listening) free(slot int)    { l.freed <- slot }
func (l *listening) broken(err error) { l.ended <- err }

// broker accepts one connection, answers CONNECT with connack and PUBLISH, PUBREL by reply.
func broker(t *testing.T, connack string, reply func(head byte, id uint16) string) (addr string, payloads *[]string) {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { listener.Close() })
	payloads = new([]string)
	go func() {
		conn, err := listener.Accept()
		if err != nil {
			return
		}
		defer conn.Close()
		in := bufio.NewReader(conn)
		if head, _, err := readPacket(in); err != nil || head != 0x10 {
			return
		}
		_, _ = io.WriteString(conn, connack)
		for {
			head, body, err := readPacket(in)
			if err != nil || head>>4 == 14 {
				return
			}
			id := uint16(0)
			switch {
			case head>>4 == 3:
				body = body[2+binary.BigEndian.Uint16(body):]
				if head&6 != 0 {
					id = binary.BigEndian.Uint16(body)
					body = body[2:]
				}
				*payloads = append(*payloads, string(body)) // read after the connection's last answer
			default:
				id = binary.BigEndian.Uint16(body)
			}
			_, _ = io.WriteString(conn, reply(head, id))
		}
	}()
	return listener.Addr().String(), payloads
}

func pair(id uint16) string { return string([]byte{byte(id >> 8), byte(id)}) }

func TestMQTTLink(t *testing.T) {
	const connack3, connack5 = "\x20\x02\x00\x00", "\x20\x06\x00\x00\x03\x21\x00\x0a"
	puback := func(_ byte, id uint16) string { return "\x40\x02" + pair(id) }
	for name, c := range map[string]struct {
		version, qos byte
		connack      string
		reply        func(head byte, id uint16) string
		refusals     []string // of the second message; nil if nothing is acknowledged
		prefix       string   // of a payload: MQTT 5 has properties in front
	}{
		"3.1.1, QoS 1": {4, 1, connack3, puback, []string{"", ""}, ""},
		"5, QoS 1": {5, 1, connack5, func(_ byte, id uint16) string {
			if id == 2 {
				return "\x40\x04" + pair(id) + "\x99\x00"
			}
			return "\x40\x03" + pair(id) + "\x00"
		}, []string{"", "reason code 0x99"}, "\x00"},
		"3.1.1, QoS 2": {4, 2, connack3, func(head byte, id uint16) string {
			if head == 0x62 {
				return "\x70\x02" + pair(id)
			}
			return "\x50\x02" + pair(id)
		}, []string{"", ""}, ""},
		"5, QoS 2, refused": {5, 2, connack5, func(head byte, id uint16) string {
			if head == 0x62 {
				return "\x70\x02" + pair(id)
			}
			if id == 2 {
				return "\x50\x03" + pair(id) + "\x97"
			}
			return "\x50\x02" + pair(id)
		}, []string{"", "reason code 0x97"}, "\x00"},
		"3.1.1, QoS 0": {4, 0, connack3, func(byte, uint16) string { return "" }, nil, ""},
	} {
		t.Run(name, func(t *testing.T) {
			addr, payloads := broker(t, c.connack, c.reply)
			ear := newListening()
			l, err := openMQTT(t.Context(), addr, "car-1", "token", c.version, c.qos, 10, ear)
			if err != nil {
				t.Fatal(err)
			}
			for slot, payload := range []string{"one", strings.Repeat("two", 100)} {
				if err := l.send(slot, []byte(payload)); err != nil {
					t.Fatal(err)
				}
			}
			if err := l.flush(); err != nil {
				t.Fatal(err)
			}
			var freed []int
			for range 2 {
				select {
				case slot := <-ear.freed:
					freed = append(freed, slot)
				case err := <-ear.ended:
					t.Fatal(err)
				case <-time.After(10 * time.Second):
					t.Fatal("no answer")
				}
			}
			slices.Sort(freed)
			l.close()
			if !slices.Equal(ear.why, c.refusals) || !slices.Equal(freed, []int{0, 1}) {
				t.Fatalf("acknowledged %v %q, freed %v", ear.acked, ear.why, freed)
			}
			if c.qos > 0 && !slices.Equal(*payloads, []string{c.prefix + "one", c.prefix + strings.Repeat("two", 100)}) {
				t.Fatalf("%q", *payloads)
			}
		})
	}
}

func TestMQTTLinkEnds(t *testing.T) {
	for name, reply := range map[string]string{
		"DISCONNECT": "\xe0\x02\x97\x00", "no answer to a PUBLISH": "\x30\x03\x00\x01a", "torn": "\x40", "too large": "\x40\xff\xff\xff\x7f",
	} {
		addr, _ := broker(t, "\x20\x02\x00\x00", func(byte, uint16) string { return reply + strings.Repeat("\xff", len(reply)%2) })
		ear := newListening()
		l, err := openMQTT(t.Context(), addr, "car-1", "token", 4, 1, 10, ear)
		if err != nil {
			t.Fatal(err)
		}
		if err := errorOf(l.send(0, []byte("x")), l.flush()); err != nil {
			t.Fatal(err)
		}
		if name == "torn" {
			l.close() // waits for the listener, which must not be stuck
			continue
		}
		select {
		case err := <-ear.ended:
			if err == nil {
				t.Errorf("%s: no reason", name)
			}
		case <-time.After(10 * time.Second):
			t.Errorf("%s: not noticed", name)
		}
		l.close()
	}
}

func errorOf(errs ...error) error {
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

func TestMQTTLinkIsRefused(t *testing.T) {
	for name, c := range map[string]struct {
		version byte
		connack string
		want    string
	}{
		"3.1.1":                         {4, "\x20\x02\x00\x05", "refused"},
		"5":                             {5, "\x20\x03\x00\x87\x00", "refused"},
		"5, window above what it takes": {5, "\x20\x06\x00\x00\x03\x21\x00\x09", "takes 9"},
	} {
		addr, _ := broker(t, c.connack, func(byte, uint16) string { return "" })
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		_, err := openMQTT(ctx, addr, "car-1", "wrong", c.version, 1, 10, newListening())
		cancel()
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
