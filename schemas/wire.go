package schemas

import (
	"encoding/binary"
	"math"
	"strconv"
	"unicode/utf8"
)

// The wire types of protobuf.
const (
	varintType  = 0
	fixed64Type = 1
	bytesType   = 2
	startType   = 3 // of a group
	endType     = 4 // of a group
	fixed32Type = 5
)

// maxTag is the highest tag a field can have.
const maxTag = 1<<29 - 1

// wireTypeOf is how a value of n is framed.
func wireTypeOf(n *node) uint64 {
	if n.isMap {
		return bytesType
	}
	switch n.wire {
	case wireVarint, wireZigzag:
		return varintType
	case wireFixed32:
		return fixed32Type
	case wireFixed64:
		return fixed64Type
	}
	return bytesType
}

func tagText(tag int32) string { return strconv.Itoa(int(tag)) }

// varint reads a varint at i that must end at or before end (-1: failed).
func (d *decoder) varint(i, end int) (uint64, int) {
	b := d.buf
	x := uint64(b[i])
	if x < 0x80 && i < end {
		return x, i + 1
	}
	x &= 0x7f
	for shift := 7; shift < 64; shift += 7 {
		i++
		if i >= end {
			return 0, d.fail(min(i, end), Truncated, "")
		}
		c := uint64(b[i])
		x |= c & 0x7f << shift
		if c < 0x80 {
			if shift == 63 && c > 1 {
				break
			}
			return x, i + 1
		}
	}
	return 0, d.fail(i, NotProto, "varint beyond 64 bits")
}

// span reads a length and returns the bounds of the bytes behind it.
func (d *decoder) span(i, end int) (start, stop int) {
	n, start := d.varint(i, end)
	if start < 0 {
		return 0, -1
	}
	if n > uint64(end-start) {
		return 0, d.fail(end, Truncated, "")
	}
	return start, start + int(n)
}

// key reads a field's key: the tag and the wire type.
func (d *decoder) key(i, end int) (key uint64, next int) {
	key, next = d.varint(i, end)
	if next > 0 && (key>>3 == 0 || key>>3 > maxTag) {
		return 0, d.fail(i, NotProto, "tag out of range")
	}
	return key, next
}

// over passes over the value of a field and returns where it ends.
func (d *decoder) over(key uint64, i, end, depth int) int {
	switch key & 7 {
	case varintType:
		_, i = d.varint(i, end)
	case fixed64Type:
		i += 8
	case bytesType:
		_, i = d.span(i, end)
	case fixed32Type:
		i += 4
	case startType:
		return d.overGroup(key>>3, i, end, depth)
	default:
		return d.fail(i, NotProto, "wire type out of place")
	}
	if i > end {
		return d.fail(end, Truncated, "")
	}
	return i
}

func (d *decoder) overGroup(tag uint64, i, end, depth int) int {
	if depth >= maxDepth {
		return d.fail(i, TooDeep, "")
	}
	for {
		key, next := d.key(i, end)
		if next < 0 {
			return -1
		}
		if key&7 == endType {
			if key>>3 != tag {
				return d.fail(i, NotProto, "end of another group")
			}
			return next
		}
		if i = d.over(key, next, end, depth+1); i < 0 {
			return -1
		}
	}
}

// message reads the fields of one message into the current row. What most
// messages consist of is read in place; the rest, and whatever is wrong, is
// wireMember's.
func (d *decoder) message(p *plan, i, end int) int {
	b, row := d.buf, d.row
	for i < end {
		key := uint64(b[i])
		next := i + 1
		var st *step
		if key < 0x80 {
			st = p.tags[key]
		} else {
			if key, next = d.key(i, end); next < 0 {
				return -1
			}
			st = p.far[key]
			if st == nil && key < 0x80 { // spelled longer than need be
				st = p.tags[key]
			}
		}
		if st == nil {
			if i = d.stray(p, key, i, next, end); i < 0 {
				return -1
			}
			continue
		}
		switch st.usual {
		case usualDouble:
			if x := binary.LittleEndian.Uint64(b[next:]); end-next >= 8 && x>>52&0x7ff != 0x7ff {
				st.vec.putFloat64(row, math.Float64frombits(x))
				i = next + 8
				continue
			}
		case usualFloat:
			if x := binary.LittleEndian.Uint32(b[next:]); end-next >= 4 && x>>23&0xff != 0xff {
				st.vec.putFloat32(row, math.Float32frombits(x))
				i = next + 4
				continue
			}
		case usualBool:
			if x := b[next]; x < 0x80 && next < end {
				st.vec.putBool(row, x != 0)
				i = next + 1
				continue
			}
		case usualVarint:
			if x := uint64(b[next]); x < 0x80 && next < end {
				st.vec.putBits(row, x)
				i = next + 1
				continue
			} else if y := uint64(b[next+1]); y < 0x80 && next+1 < end {
				st.vec.putBits(row, x&0x7f|y<<7)
				i = next + 2
				continue
			}
		case usualTimestamp:
			if stop := d.usualTimestamp(st.vec, next, end); stop > 0 {
				i = stop
				continue
			}
		}
		if i = d.wireMember(st, next, end); i < 0 {
			if d.path == "" {
				d.path = st.path
			}
			return -1
		}
	}
	return i
}

// usualTimestamp reads seconds of today, in five bytes, and nanoseconds if any.
func (d *decoder) usualTimestamp(v *vector, i, end int) int {
	b := d.buf
	n := int(b[i])
	stop := i + 1 + n
	if n >= 0x80 || stop > end || n < 6 || b[i+1] != 1<<3 || v.has(d.row) {
		return 0
	}
	w := binary.LittleEndian.Uint64(b[i+2:])
	if w&0x8080808080 != 0x0080808080 {
		return 0
	}
	micros := int64(w&0x7f|w>>1&(0x7f<<7)|w>>2&(0x7f<<14)|w>>3&(0x7f<<21)|w>>4&(0x7f<<28)) * micro
	if i += 7; i < stop {
		if b[i] != 2<<3 {
			return 0
		}
		nanos, next := d.varint(i+1, stop)
		if next != stop || nanos > 999_999_999 {
			return 0
		}
		micros += int64(nanos) / 1000
		i = next
	}
	if micros > maxTime {
		return 0
	}
	v.putTime(d.row, micros)
	return i
}

// stray deals with a field that the schema does not know in this form.
func (d *decoder) stray(p *plan, key uint64, i, next, end int) int {
	if key>>3 == 0 {
		return d.fail(i, NotProto, "tag out of range")
	}
	stop := d.over(key, next, end, len(d.nest))
	switch st := p.byTag(key >> 3); {
	case stop < 0:
		return -1
	case st != nil:
		return d.failAt(st, i, WrongType, "wire type "+strconv.FormatUint(key&7, 10))
	case len(d.nest) == 0 && d.root.batch != 0 && key == uint64(d.root.batch)<<3|bytesType:
		return d.fail(i, Misplaced, "samples beside other fields")
	}
	d.strays = append(d.strays, stray{p, key, next, stop})
	return stop
}

// wireMember reads the value of a known field.
func (d *decoder) wireMember(st *step, i, end int) int {
	if st.oneof != 0 {
		d.choose(st)
	}
	switch st.op {
	case opObject:
		start, stop := d.span(i, end)
		if stop < 0 {
			return -1
		}
		d.nest = append(d.nest, st)
		i = d.message(st.plan, start, stop)
		d.nest = d.nest[:len(d.nest)-1]
		return i
	case opList:
		return d.wireList(st, i, end)
	case opMap:
		return d.wireEntry(st, i, end)
	case opJSON:
		return d.wireText(st, i, end)
	}
	return d.wireValue(st.node, st.vec, d.row, i, end)
}

// choose makes st the member of its oneof that counts: the last one does.
func (d *decoder) choose(st *step) {
	if d.oneofs[st.oneof-1] == d.epoch && d.chosen[st.oneof-1].node != st.node {
		d.forget(d.chosen[st.oneof-1])
	}
	d.oneofs[st.oneof-1] = d.epoch
	d.chosen[st.oneof-1] = st
}

func (d *decoder) forget(st *step) {
	if st.plan == nil {
		st.vec.undo(d.row)
		return
	}
	for _, sub := range st.plan.steps {
		d.forget(sub)
	}
}

func (d *decoder) wireList(st *step, i, end int) int {
	st.vec.mark(d.row)
	elements := st.vec.child
	if !st.packed {
		return d.wireValue(st.node, elements, elements.next(), i, end)
	}
	i, stop := d.span(i, end)
	if stop < 0 {
		return -1
	}
	for i < stop {
		if i = d.wireValue(st.node, elements, elements.next(), i, stop); i < 0 {
			return -1
		}
	}
	return i
}

// wireEntry reads one entry of a map: a message with the key in tag 1 and the
// value in tag 2, both zero where they are missing.
func (d *decoder) wireEntry(st *step, i, end int) int {
	start, stop := d.span(i, end)
	if stop < 0 {
		return -1
	}
	st.vec.mark(d.row)
	keys, values := st.vec.key, st.vec.child
	k, v := keys.next(), values.next()
	keys.zero(k)
	values.zero(v)
	if st.node.kind == Enum {
		d.putEnum(st.node, values, v, 0)
	}
	for i = start; i < stop; {
		key, next := d.key(i, stop)
		if next < 0 {
			return -1
		}
		switch key {
		case 1<<3 | wireTypeOf(st.node.key):
			i = d.wireValue(st.node.key, keys, k, next, stop)
		case 2<<3 | elementType(st.node):
			i = d.wireValue(st.node, values, v, next, stop)
		default:
			return d.foreign(key, i)
		}
		if i < 0 {
			return -1
		}
	}
	return i
}

// elementType is how one value of a map is framed.
func elementType(n *node) uint64 {
	one := *n
	one.isMap = false
	return wireTypeOf(&one)
}

// wireValue reads one value of a leaf into a slot.
func (d *decoder) wireValue(n *node, v *vector, slot, i, end int) int {
	b := d.buf
	var x uint64
	switch n.wire {
	case wireVarint, wireZigzag:
		if x = uint64(b[i]); x < 0x80 && i < end {
			i++
		} else if x, i = d.varint(i, end); i < 0 {
			return -1
		}
	case wireFixed64:
		if end-i < 8 {
			return d.fail(end, Truncated, "")
		}
		x = binary.LittleEndian.Uint64(b[i:])
		i += 8
	case wireFixed32:
		if end-i < 4 {
			return d.fail(end, Truncated, "")
		}
		x = uint64(binary.LittleEndian.Uint32(b[i:]))
		i += 4
		if n.widened {
			x = math.Float64bits(float64(math.Float32frombits(uint32(x))))
		}
	default:
		start, stop := d.span(i, end)
		if stop < 0 {
			return -1
		}
		return d.wireBytes(n, v, slot, start, stop)
	}
	kind := n.kind
	if kind == Time {
		kind = n.number
	}
	switch kind {
	case Float64:
		if x>>52&0x7ff == 0x7ff {
			return d.fail(i-8, NotFinite, "")
		}
	case Float32:
		if x>>23&0xff == 0xff {
			return d.fail(i-4, NotFinite, "")
		}
	case Bool:
		v.putBool(slot, x != 0)
		return i
	case Enum:
		d.putEnum(n, v, slot, int32(x))
		return i
	case Int32:
		if n.wire == wireZigzag {
			x = uint64(uint32(x)>>1) ^ -(x & 1)
		}
		x = uint64(int64(int32(x)))
	case Int64:
		if n.wire == wireZigzag {
			x = x>>1 ^ -(x & 1)
		}
	case Uint32:
		x = uint64(uint32(x))
	}
	if n.kind == Time {
		return d.wireNumericTime(n, v, slot, x, i)
	}
	v.putBits(slot, x)
	return i
}

// putEnum stores the name of a number, or its text where it has none.
func (d *decoder) putEnum(n *node, v *vector, slot int, number int32) {
	if name, ok := n.enum.byNumber[number]; ok {
		v.putString(slot, name)
		return
	}
	var text [12]byte
	v.putBytes(slot, strconv.AppendInt(text[:0], int64(number), 10))
}

// wireNumericTime stores a time that is a number with a declared unit.
func (d *decoder) wireNumericTime(n *node, v *vector, slot int, x uint64, i int) int {
	var t int64
	ok := true
	switch n.number {
	case Float64:
		var f float64
		if f = math.Floor(math.Float64frombits(x) * float64(n.scale) / 1000); f < float64(minTime) || f > float64(maxTime) {
			return d.fail(i, BadTime, "outside 1900 to 2299")
		}
		t = int64(f)
	case Uint64:
		if ok = x < 1<<63; ok {
			t, ok = scaleTime(int64(x), n.scale)
		}
	default:
		t, ok = scaleTime(int64(x), n.scale)
	}
	if !ok {
		return d.fail(i, BadTime, "outside 1900 to 2299")
	}
	v.putBits(slot, uint64(t))
	return i
}

// wireBytes stores a value that has a length: strings and google.protobuf's own
// messages.
func (d *decoder) wireBytes(n *node, v *vector, slot, start, stop int) int {
	switch n.wire {
	case wireTimestamp:
		return d.wireTimestamp(v, slot, start, stop)
	case wireDuration:
		return d.wireDuration(v, slot, start, stop)
	case wireWrapper:
		return d.wireWrapper(n, v, slot, start, stop)
	}
	text := d.buf[start:stop]
	if n.kind != Bytes && !utf8.Valid(text) {
		return d.fail(start, InvalidUTF8, "")
	}
	if n.kind == Time {
		t, ok := parseRFC3339(text)
		if !ok || t < minTime || t > maxTime {
			return d.fail(start, BadTime, "")
		}
		v.putBits(slot, uint64(t))
		return stop
	}
	v.putBytes(slot, text)
	return stop
}
