package peers

import (
	"encoding/binary"
	"strconv"
	"time"
)

// sample is a message of type position, 125 bytes. Its time is of fixed width
// and is counted up in place, so that no two messages of a device are the same.
const sample = `{"time":1700000000000,"latitude":52.520008,"longitude":13.404954,"altitude":34.125,"heading":271.25,"speed":53.75,"fix":"3D"}`

const (
	timeAt    = len(`{"time":`)
	timeWidth = len("1700000000000")
)

// Payload returns the n-th message of a device whose first one is of the given time.
func Payload(start time.Time, n int) []byte {
	b := []byte(sample)
	strconv.AppendInt(b[:timeAt], start.UnixMilli()+int64(n), 10)
	return b
}

// tick adds one to decimal digits.
func tick(digits []byte) {
	for i := len(digits) - 1; i >= 0; i-- {
		if digits[i]++; digits[i] <= '9' {
			return
		}
		digits[i] = '0'
	}
}

// A ring of PUBLISH packets (QoS 1), encoded once. What differs from one
// message to the next, packet id and time, is written over.
type ring struct {
	packets []byte
	size    int    // of one packet
	idAt    int    // in a packet
	time    []byte // of the newest message
	id      uint16 // of the newest message
}

func newRing(topic string, start time.Time, window int) *ring {
	rest := 2 + len(topic) + 2 + len(sample)
	one := binary.AppendUvarint([]byte{0x32}, uint64(rest))
	one = binary.BigEndian.AppendUint16(one, uint16(len(topic)))
	one = append(one, topic...)
	r := &ring{idAt: len(one), time: strconv.AppendInt(nil, start.UnixMilli()-1, 10)}
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
	for at := 0; at < n*r.size; at += r.size {
		r.id = follow(r.id)
		tick(r.time)
		binary.BigEndian.PutUint16(r.packets[at+r.idAt:], r.id)
		copy(r.packets[at+r.idAt+2+timeAt:], r.time)
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
