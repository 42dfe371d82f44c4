package packet

// A Frame is one packet, undecoded.
type Frame struct {
	Type  Type
	Flags byte
	Body  []byte
}

// Next takes the first packet off buf. n is its length, 0 as long as it is not
// whole; want is the length it will have as far as is known, so that a buffer
// can grow in time. A packet longer than limit is an error as soon as its
// length is known: PacketTooLarge.
func Next(buf []byte, limit int) (f Frame, n, want int, err error) {
	if len(buf) == 0 {
		return f, 0, 2, nil
	}
	f.Type, f.Flags = Type(buf[0]>>4), buf[0]&0x0F
	if !flagsOK(f.Type, f.Flags) {
		return f, 0, 0, malformed("flags of the fixed header")
	}
	length, head := 0, 1
	for {
		if head == 5 {
			return f, 0, 0, malformed("length has more than four bytes")
		}
		if head == len(buf) {
			return f, 0, head + 1, nil
		}
		b := buf[head]
		length |= int(b&0x7F) << (7 * (head - 1))
		head++
		if b < 0x80 {
			break
		}
	}
	if head > 2 && buf[head-1] == 0 {
		return f, 0, 0, malformed("length is not written in the fewest bytes")
	}
	if head+length > limit {
		return f, 0, 0, &Error{PacketTooLarge, "packet is longer than this server takes"}
	}
	if len(buf) < head+length {
		return f, 0, head + length, nil
	}
	f.Body = buf[head : head+length : head+length]
	return f, head + length, head + length, nil
}

func flagsOK(t Type, flags byte) bool {
	switch t {
	case PUBLISH:
		qos := flags >> 1 & 3
		return qos < 3 && (qos > 0 || flags&8 == 0)
	case PUBREL, SUBSCRIBE, UNSUBSCRIBE:
		return flags == 2
	case 0:
		return false
	}
	return flags == 0
}
