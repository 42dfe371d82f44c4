package peers

import (
	"encoding/binary"
	"math"
	"strconv"
	"time"
)

// A Form is a message of type position as it is published. Its time is of fixed
// width and is written over in place, so that no two messages of a device are
// the same and none costs an encoding.
type Form int

// The forms.
const (
	Small    Form = iota // JSON of 7 fields, 125 bytes: what the gateway is measured with
	JSON                 // 8 fields, 157 bytes
	Protobuf             // the same 8 fields, 66 bytes
)

// String is the form's name.
func (f Form) String() string { return [...]string{"small", "json", "protobuf"}[f] }

const (
	small = `{"time":1700000000000,"latitude":52.520008,"longitude":13.404954,"altitude":34.125,"heading":271.25,"speed":53.75,"fix":"3D"}`
	long  = `{"time":1700000000000,"latitude":52.520008,"longitude":13.404954,"altitude":34.5,"heading":271.3,"speed":48.25,"horizontal_accuracy":3.5,"is_moving":true}`
)

// wire is long as protobuf.
var wire = func() string {
	b := []byte{0x0a, 12, 0x08, 0, 0, 0, 0, 0, 0x10, 0, 0, 0, 0, 0}
	for i, f := range []float64{52.520008, 13.404954, 34.5, 271.3} {
		b = binary.LittleEndian.AppendUint64(append(b, byte(i+2)<<3|1), math.Float64bits(f))
	}
	b = binary.LittleEndian.AppendUint32(append(b, 6<<3|5), math.Float32bits(48.25))
	b = binary.LittleEndian.AppendUint64(append(b, 7<<3|1), math.Float64bits(3.5))
	return string(append(b, 8<<3, 1))
}()

func (f Form) sample() string { return [...]string{small, long, wire}[f] }

const timeAt = len(`{"time":`)

// firstNanos and what follows it within a second take five bytes as a varint.
const firstNanos = 268_436_000

// stamp writes the time of message n of a device whose first one is of the
// given time, in milliseconds. Protobuf counts in microseconds.
func (f Form) stamp(b []byte, start, n int64) {
	if f != Protobuf {
		strconv.AppendInt(b[:timeAt], start+n, 10)
		return
	}
	const within = (1e9 - firstNanos) / 1000
	binary.AppendUvarint(b[:3], uint64(start/1000+n/within))
	binary.AppendUvarint(b[:9], uint64(firstNanos+n%within*1000))
}

// Payload returns message n of a device whose first one is of the given time.
func (f Form) Payload(start time.Time, n int) []byte {
	b := []byte(f.sample())
	f.stamp(b, start.UnixMilli(), int64(n))
	return b
}

// A ring of PUBLISH packets (QoS 1), encoded once. What differs from one
// message to the next, packet id and time, is written over.
type ring struct {
	form    Form
	packets []byte
	size    int    // of one packet
	idAt    int    // in a packet
	start   int64  // ms
	sent    int64  // messages
	live    bool   // the time is now, not counted on
	id      uint16 // of the newest message
}

func newRing(form Form, topic string, start time.Time, window int) *ring {
	sample := form.sample()
	rest := 2 + len(topic) + 2 + len(sample)
	one := binary.AppendUvarint([]byte{0x32}, uint64(rest))
	one = binary.BigEndian.AppendUint16(one, uint16(len(topic)))
	one = append(one, topic...)
	r := &ring{form: form, idAt: len(one), start: start.UnixMilli()}
	one = append(one, 0, 0)
	one = append(one, sample...)
	r.size = len(one)
	for range window {
		r.packets = append(r.packets, one...)
	}
	return r
}

// next returns n packets, not more than the window. They are valid until the
// next call.
func (r *ring) next(n int) []byte {
	if r.live {
		r.sent = max(r.sent, time.Now().UnixMilli()-r.start)
	}
	for at := 0; at < n*r.size; at += r.size {
		r.id = follow(r.id)
		binary.BigEndian.PutUint16(r.packets[at+r.idAt:], r.id)
		r.form.stamp(r.packets[at+r.idAt+2:at+r.size], r.start, r.sent)
		r.sent++
	}
	return r.packets[:n*r.size]
}

// follow returns the packet id after id; 0 is none.
func follow(id uint16) uint16 {
	if id++; id == 0 {
		return 1
	}
	return id
}
