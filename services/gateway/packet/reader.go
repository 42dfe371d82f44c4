package packet

import (
	"bytes"
	"encoding/binary"
	"unicode/utf8"
)

// A reader takes fields off a packet's body. After the first failure all
// further fields are zero; the caller looks at err once.
type reader struct {
	b   []byte
	err *Error
}

func (r *reader) fail(e *Error) {
	if r.err == nil {
		r.err = e
	}
	r.b = nil
}

// end is called when nothing may be left.
func (r *reader) end() error {
	if r.err == nil && len(r.b) > 0 {
		r.fail(malformed("bytes after the end"))
	}
	if r.err != nil {
		return r.err
	}
	return nil
}

func (r *reader) take(n int) []byte {
	if n > len(r.b) {
		r.fail(malformed("ends in the middle"))
		return nil
	}
	field := r.b[:n:n]
	r.b = r.b[n:]
	return field
}

func (r *reader) byte() byte {
	if f := r.take(1); f != nil {
		return f[0]
	}
	return 0
}

func (r *reader) uint16() uint16 {
	if f := r.take(2); f != nil {
		return binary.BigEndian.Uint16(f)
	}
	return 0
}

func (r *reader) uint32() uint32 {
	if f := r.take(4); f != nil {
		return binary.BigEndian.Uint32(f)
	}
	return 0
}

func (r *reader) varint() uint32 {
	var v uint32
	for shift := 0; shift < 28; shift += 7 {
		b := r.byte()
		v |= uint32(b&0x7F) << shift
		if b < 0x80 {
			if shift > 0 && b == 0 {
				r.fail(malformed("integer is not written in the fewest bytes"))
			}
			return v
		}
	}
	r.fail(malformed("integer has more than four bytes"))
	return 0
}

func (r *reader) binary() []byte { return r.take(int(r.uint16())) }

func (r *reader) string() []byte {
	s := r.binary()
	if !utf8.Valid(s) || bytes.IndexByte(s, 0) >= 0 {
		r.fail(malformed("text is not UTF-8 without U+0000"))
		return nil
	}
	return s
}

// packetID reads an identifier, which is never 0.
func (r *reader) packetID() uint16 {
	id := r.uint16()
	if id == 0 {
		r.fail(violation("packet id 0"))
	}
	return id
}
