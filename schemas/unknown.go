package schemas

import (
	"cmp"
	"encoding/base64"
	"slices"
	"strconv"
)

// keep adds a JSON field that the schema does not know to _unknown, under the
// names of the objects it stands in, as the sender wrote it. key includes the
// quotes.
func (d *decoder) keep(key, value []byte) {
	out := d.out[:0]
	u := d.unknown
	if len(u.data) == int(u.off[d.row]) {
		out = append(out, '{')
	}
	separate := func() {
		if last := d.lastKept(out); last != '{' {
			out = append(out, ',')
		}
	}
	for ; d.opened < len(d.nest); d.opened++ {
		separate()
		out = append(append(out, d.nest[d.opened].key...), '{')
	}
	separate()
	out = append(append(append(out, key...), ':'), value...)
	d.out = out
	u.room(len(out))
	u.data = append(u.data, out...)
}

func (d *decoder) lastKept(out []byte) byte {
	if len(out) > 0 {
		return out[len(out)-1]
	}
	return d.unknown.data[len(d.unknown.data)-1]
}

// leave closes the object in _unknown that stands for the one just read, if
// there was anything unknown in it.
func (d *decoder) leave() {
	if d.opened > len(d.nest) {
		d.opened--
		d.unknown.room(1)
		d.unknown.data = append(d.unknown.data, '}')
	}
}

// A stray is a protobuf field that the schema does not know.
type stray struct {
	plan       *plan // of the message it stands in
	key        uint64
	start, end int
}

// keepStrays adds the strays of the row to _unknown: an object by tag, or dotted
// tags from the root.
func (d *decoder) keepStrays() {
	slices.SortStableFunc(d.strays, func(a, b stray) int {
		if c := cmp.Compare(a.plan.prefix, b.plan.prefix); c != 0 {
			return c
		}
		return cmp.Compare(a.key>>3, b.key>>3)
	})
	out := append(d.out[:0], '{')
	for from := 0; from < len(d.strays); {
		s := d.strays[from]
		d.spans = d.spans[:0]
		for ; from < len(d.strays) && d.strays[from].plan == s.plan && d.strays[from].key>>3 == s.key>>3; from++ {
			d.spans = append(d.spans, wireSpan{-1, d.strays[from].key, d.strays[from].start, d.strays[from].end})
		}
		if len(out) > 1 {
			out = append(out, ',')
		}
		out = append(append(out, '"'), s.plan.prefix...)
		out = append(strconv.AppendUint(out, s.key>>3, 10), `":`...)
		out = appendStrays(out, d.buf, d.spans)
	}
	d.spans = d.spans[:0]
	d.out = append(out, '}')
	d.unknown.putBytes(d.row, d.out)
}

// appendStrays writes the values of one unknown tag: the value, or an array of
// them. What the bytes mean only a schema could tell, so the wire type stays
// visible: a varint is a number, 32 and 64 bits are hexadecimal text, bytes are
// base64, a group is an object.
func appendStrays(out, buf []byte, spans []wireSpan) []byte {
	if len(spans) > 1 {
		out = append(out, '[')
	}
	for k, s := range spans {
		if k > 0 {
			out = append(out, ',')
		}
		b := buf[s.start:s.end]
		switch s.key & 7 {
		case varintType:
			out = strconv.AppendUint(out, readVarint(b), 10)
		case fixed32Type, fixed64Type:
			out = append(out, `"0x`...)
			for j := len(b) - 1; j >= 0; j-- {
				out = append(out, hexDigits[b[j]>>4], hexDigits[b[j]&15])
			}
			out = append(out, '"')
		case bytesType:
			for b[0] >= 0x80 { // the length
				b = b[1:]
			}
			out = base64.StdEncoding.AppendEncode(append(out, '"'), b[1:])
			out = append(out, '"')
		default:
			out = base64.StdEncoding.AppendEncode(append(out, `{"group":"`...), b)
			out = append(out, `"}`...)
		}
	}
	if len(spans) > 1 {
		out = append(out, ']')
	}
	return out
}

// readVarint reads a varint that was checked.
func readVarint(b []byte) (x uint64) {
	for i, c := range b {
		x |= uint64(c&0x7f) << (7 * i)
	}
	return x
}
