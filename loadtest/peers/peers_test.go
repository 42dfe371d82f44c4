package peers

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"testing"
	"time"
)

func TestMain(m *testing.M) {
	MaybeChild()
	os.Exit(m.Run())
}

func TestPayloadIsAMessageOf125BytesWithItsOwnTime(t *testing.T) {
	start := time.UnixMilli(1_799_999_999_999)
	for n := range 3 {
		b := Small.Payload(start, n)
		var m struct {
			Time      int64
			Longitude float64
		}
		if err := json.Unmarshal(b, &m); err != nil || len(b) != 125 || m.Time != start.UnixMilli()+int64(n) || m.Longitude != 13.404954 {
			t.Fatalf("%d bytes: %s (%v)", len(b), b, err)
		}
	}
}

func TestRingWritesOverWhatDiffers(t *testing.T) {
	start := time.UnixMilli(1_799_999_999_998)
	r := newRing(Small, "telemetry/position", start, 3)
	r.id = 65533
	var ids []uint16
	seen := map[string]bool{}
	for _, n := range []int{3, 1, 2} {
		in := bytes.NewReader(r.next(n))
		for range n {
			id, topic, payload := readPublish(t, in)
			ids = append(ids, id)
			if topic != "telemetry/position" || !bytes.Equal(payload, Small.Payload(start, len(seen))) {
				t.Fatalf("message %d: %s %s", len(seen), topic, payload)
			}
			seen[string(payload)] = true
		}
		if in.Len() != 0 {
			t.Fatalf("%d bytes too many", in.Len())
		}
	}
	if fmt.Sprint(ids) != "[65534 65535 1 2 3 4]" || len(seen) != 6 {
		t.Fatal(ids, len(seen))
	}
}

func readPublish(t *testing.T, in *bytes.Reader) (id uint16, topic string, payload []byte) {
	t.Helper()
	first, err := in.ReadByte()
	if err != nil || first != 0x32 {
		t.Fatalf("%#x is not a PUBLISH at QoS 1 (%v)", first, err)
	}
	size, err := binary.ReadUvarint(in)
	if err != nil {
		t.Fatal(err)
	}
	body := make([]byte, size)
	if _, err := io.ReadFull(in, body); err != nil {
		t.Fatal(err)
	}
	n := binary.BigEndian.Uint16(body)
	return binary.BigEndian.Uint16(body[2+n:]), string(body[2 : 2+n]), body[4+n:]
}

// answer plays a server on one connection that accepts and then sends what it
// is told to.
func answer(t *testing.T, pubacks string) (addr string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		c, err := l.Accept()
		if err != nil {
			return
		}
		defer c.Close()
		b := make([]byte, 4096)
		_, _ = c.Read(b)
		_, _ = io.WriteString(c, "\x20\x02\x00\x00")
		_, _ = c.Read(b)
		for i := range len(pubacks) { // byte by byte: what comes in part must be put together
			_, _ = io.WriteString(c, pubacks[i:i+1])
			time.Sleep(time.Millisecond)
		}
	}()
	return l.Addr().String()
}

func TestFloodCountsAcknowledgementsInOrderOnly(t *testing.T) {
	for name, c := range map[string]struct {
		pubacks string
		acked   int
		failure string
	}{
		"all":          {"\x40\x02\x00\x01\x40\x02\x00\x02", 2, ""},
		"one missing":  {"\x40\x02\x00\x01", 1, "without acknowledgement"},
		"out of order": {"\x40\x02\x00\x02\x40\x02\x00\x01", 0, "is not the PUBACK"},
		"not a PUBACK": {"\xd0\x00\x00\x01", 0, "is not the PUBACK"},
		"one too many": {"\x40\x02\x00\x01\x40\x02\x00\x02\x40\x02\x00\x03", 2, ""}, // by then the connection is over, or it is an error
	} {
		f := Flood{Addr: answer(t, c.pubacks), Devices: []string{"car-1"}, Window: 2, Messages: 2, Limit: time.Minute,
			Login: func(string) (string, string) { return "car-1", "x" }, Topic: func(string) string { return "telemetry/position" }}
		r, err := f.Run(t.Context())
		if r.Acknowledged != c.acked || (err == nil) != (c.failure == "") || err != nil && !strings.Contains(err.Error(), c.failure) {
			t.Errorf("%s: %+v, %v", name, r, err)
		}
	}
}

func TestFloodIsToldOfARefusal(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go func() {
		if c, err := l.Accept(); err == nil {
			_, _ = io.WriteString(c, "\x20\x02\x00\x05")
			_, _ = io.Copy(io.Discard, c)
		}
	}()
	_, err = Dial(t.Context(), l.Addr().String(), "car-1", "car-1", "wrong")
	if err == nil || !strings.Contains(err.Error(), "refused") {
		t.Fatal(err)
	}
}

func TestAgainstNATSServer(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	n, err := StartNATS(ctx, t.TempDir()+"/nats")
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := n.Stop(); err != nil {
			t.Error(err)
		}
	}()
	if err := n.CreateStream(ctx); err != nil {
		t.Fatal(err)
	}
	devices := []string{"car-1", "car-2", "car-3"}
	f := Flood{Addr: n.MQTT, Devices: devices, Login: n.Login, Topic: n.Topic, Window: 7, Messages: 1000, Limit: 10 * time.Second}
	r, err := f.Run(ctx)
	if err != nil || r.Acknowledged != 1000 || r.Rate() <= 0 {
		t.Fatal(r, err)
	}
	stored := func(want int) {
		t.Helper()
		for {
			got, err := n.Stored(ctx)
			if err != nil {
				t.Fatal(got, err)
			}
			if got == want {
				return
			}
			time.Sleep(5 * time.Millisecond) // its PUBACK does not wait for the stream
		}
	}
	stored(1000)
	if r, err = n.Publish(ctx, devices, 500, 10*time.Second); err != nil || r.Acknowledged != 500 {
		t.Fatal(r, err)
	}
	stored(1500)
	if cpu, err := CPU(n.PID()); err != nil || cpu <= 0 {
		t.Fatal(cpu, err)
	}
	f.Messages, f.Limit = 1<<40, 50*time.Millisecond
	if r, err = f.Run(ctx); err != nil || r.Acknowledged == 0 || r.Elapsed > 10*time.Second {
		t.Fatal(r, err)
	}
}
