package schemas

import (
	"encoding/base64"
	"encoding/binary"
	"math"
	"slices"
	"strings"
)

// object reads the object at i into the current row and returns where it ends.
//
// Nearly all messages of a fleet name their keys in the same order, so each
// step remembers what followed it the last time and only compares.
func (d *decoder) object(p *plan, i int) int {
	b := d.buf
	i = d.space(i + 1)
	if b[i] == '}' {
		return d.complete(p, i)
	}
	prediction := &p.first
	aliens := len(d.keys)
	for {
		st := *prediction
		if st != nil && len(b)-i >= len(st.key) && string(b[i:i+len(st.key)]) == st.key {
			i += len(st.key)
		} else {
			if st, i = d.keyed(p, i); i < 0 {
				return -1
			}
			if st != nil {
				*prediction = st
			}
		}
		if c := b[i]; c == ' ' || c == '\n' || c == '\t' || c == '\r' {
			i = d.space(i)
		}
		if st != nil {
			prediction = &st.next
			if d.seen[st.id] == d.epoch {
				return d.failAt(st, i, DuplicateKey, "")
			}
			d.seen[st.id] = d.epoch
			if next := d.usual(st, i); next > 0 {
				i = next
			} else if i = d.member(st, i); i < 0 {
				if d.path == "" {
					d.path = st.path
				}
				return -1
			}
		} else if i = d.alien(i); i < 0 {
			return -1
		}
		if c := b[i]; c != ',' && c != '}' {
			i = d.space(i)
		}
		switch b[i] {
		case ',':
			if c := b[i+1]; c == '"' {
				i++
			} else {
				i = d.space(i + 1)
			}
		case '}':
			if len(d.keys) > aliens {
				if at := d.twice(aliens); at >= 0 {
					return d.fail(at, DuplicateKey, "")
				}
				d.keys = d.keys[:aliens]
			}
			return d.complete(p, i)
		default:
			return d.syntax(i)
		}
	}
}

// usual reads the values that most messages consist of in their most common
// form. It answers 0 for everything else, having done nothing.
func (d *decoder) usual(st *step, i int) int {
	if st.node.limits != nil || st.oneof != 0 {
		return 0
	}
	switch st.op {
	case opFloat64:
		f, next := d.plainFloat(i)
		if next > 0 {
			st.vec.putFloat64(d.row, f)
		}
		return next
	case opFloat32:
		f, next := d.plainFloat(i)
		if next == 0 || math.Float64bits(f)&(1<<29-1) == 1<<28 {
			return 0 // exactly between two floats, perhaps
		}
		st.vec.putFloat32(d.row, float32(f))
		return next
	case opTime:
		m, next := d.plainInteger(i)
		if next == 0 || st.node.timeUnit != "" || m > uint64(maxTime)/1000 {
			return 0
		}
		st.vec.putTime(d.row, int64(m)*1000)
		return next
	case opInt:
		m, next := d.plainInteger(i)
		if next == 0 || m > st.high {
			return 0
		}
		st.vec.putBits(d.row, m)
		return next
	case opBool:
		switch binary.LittleEndian.Uint32(d.buf[i:]) {
		case 't' | 'r'<<8 | 'u'<<16 | 'e'<<24:
			st.vec.putBool(d.row, true)
			return i + 4
		case 'f' | 'a'<<8 | 'l'<<16 | 's'<<24:
			if d.buf[i+4] == 'e' {
				st.vec.putBool(d.row, false)
				return i + 5
			}
		}
	}
	return 0
}

// complete checks that no required field is missing in the object that ends at
// i.
func (d *decoder) complete(p *plan, i int) int {
	for _, st := range p.required {
		if d.seen[st.id] != d.epoch {
			return d.failAt(st, i, MissingField, "")
		}
	}
	return i + 1
}

// keyed reads a key that was not predicted, and the colon. The step is nil if
// the schema does not know the key.
func (d *decoder) keyed(p *plan, i int) (*step, int) {
	if d.buf[i] != '"' {
		return nil, d.syntax(i)
	}
	start, end, plain, next := d.quoted(i)
	if next < 0 {
		return nil, -1
	}
	text, ok := d.plainText(start, end, plain)
	if !ok {
		return nil, d.fail(start, InvalidUTF8, "half of a surrogate pair")
	}
	st := p.names[string(text)]
	if st == nil {
		d.alienKey = keyRef{hash(text), int32(start), int32(end), plain}
		d.keys = append(d.keys, d.alienKey)
	}
	if i = d.space(next); d.buf[i] != ':' {
		return nil, d.syntax(i)
	}
	return st, i + 1
}

// alien keeps a value whose key the schema does not know.
func (d *decoder) alien(i int) int {
	key := d.alienKey
	next := d.skip(i, len(d.nest)+1)
	if next < 0 {
		return -1
	}
	if len(d.nest) == 0 && d.buf[i] == '[' && string(d.buf[key.start:key.end]) == "samples" {
		return d.fail(i, Misplaced, "samples beside other fields")
	}
	d.keep(d.buf[key.start-1:key.end+1], d.buf[i:next])
	return next
}

// member reads the value of a known field.
func (d *decoder) member(st *step, i int) int {
	b := d.buf
	if b[i] == 'n' {
		return d.null(st, i)
	}
	if st.oneof != 0 {
		if d.oneofs[st.oneof-1] == d.epoch {
			return d.fail(i, DuplicateKey, "two members of one oneof")
		}
		d.oneofs[st.oneof-1] = d.epoch
	}
	switch st.op {
	case opObject:
		if b[i] != '{' {
			return d.mistyped(i, "object")
		}
		d.nest = append(d.nest, st)
		i = d.object(st.plan, i)
		d.nest = d.nest[:len(d.nest)-1]
		d.leave()
		return i
	case opList:
		return d.list(st, i)
	case opMap:
		return d.mapping(st, i)
	}
	return d.value(st, st.node, st.vec, d.row, i)
}

// null leaves the field as it is: NULL, or zero where it cannot be NULL.
func (d *decoder) null(st *step, i int) int {
	if d.buf[i+1] == 'a' {
		return d.noNumber(i)
	}
	next := d.literal(i, "null")
	if next > 0 && st.node.required && !st.node.canBeNull {
		return d.fail(i, WrongType, "null")
	}
	return next
}

func (d *decoder) list(st *step, i int) int {
	if d.buf[i] != '[' {
		return d.mistyped(i, "array")
	}
	st.vec.mark(d.row)
	if i = d.space(i + 1); d.buf[i] == ']' {
		return i + 1
	}
	elements := st.vec.child
	for {
		if d.buf[i] == 'n' && d.buf[i+1] != 'a' {
			return d.mistyped(i, "value")
		}
		if i = d.value(st, st.node, elements, elements.next(), i); i < 0 {
			return -1
		}
		switch i = d.space(i); d.buf[i] {
		case ',':
			i = d.space(i + 1)
		case ']':
			return i + 1
		default:
			return d.syntax(i)
		}
	}
}

func (d *decoder) mapping(st *step, i int) int {
	if d.buf[i] != '{' {
		return d.mistyped(i, "object")
	}
	st.vec.mark(d.row)
	if i = d.space(i + 1); d.buf[i] == '}' {
		return i + 1
	}
	first := len(d.keys)
	for {
		if d.buf[i] != '"' {
			return d.syntax(i)
		}
		start, end, plain, next := d.quoted(i)
		if next < 0 || d.noteKey(start, end, plain) < 0 {
			return -1
		}
		if i = d.mapKey(st, i, next); i < 0 {
			return -1
		}
		if i = d.space(i); d.buf[i] != ':' {
			return d.syntax(i)
		}
		if i = d.space(i + 1); d.buf[i] == 'n' && d.buf[i+1] != 'a' {
			return d.mistyped(i, "value")
		}
		if i = d.value(st, st.node, st.vec.child, st.vec.child.next(), i); i < 0 {
			return -1
		}
		switch i = d.space(i); d.buf[i] {
		case ',':
			i = d.space(i + 1)
		case '}':
			if at := d.twice(first); at >= 0 {
				return d.fail(at, DuplicateKey, "")
			}
			d.keys = d.keys[:first]
			return i + 1
		default:
			return d.syntax(i)
		}
	}
}

// mapKey stores the key at i, which is a string whatever its kind.
func (d *decoder) mapKey(st *step, i, end int) int {
	keys, key := st.vec.key, st.node.key
	slot := keys.next()
	switch key.kind {
	case String:
		return d.text(keys, slot, i)
	case Bool:
		switch text := string(d.buf[i+1 : end-1]); text {
		case "true", "false":
			keys.putBool(slot, text == "true")
			return end
		}
		return d.mistyped(i, "true or false as key")
	}
	low, high := integerRange(key.kind)
	if i = d.integer(keys, slot, i+1, low, high); i < 0 {
		return -1
	}
	if i != end-1 {
		return d.mistyped(i, "integer as key")
	}
	return end
}

// value reads one value of a leaf into a slot.
func (d *decoder) value(st *step, n *node, v *vector, slot, i int) int {
	b := d.buf
	quotes := 0
	if b[i] == '"' && n.strings && st.item <= opInt {
		quotes = 1
		i++
	}
	switch st.item {
	case opFloat64:
		x, next := d.number(i)
		if next < 0 {
			return d.numberless(i, quotes)
		}
		f, ok := x.float64(b)
		if !ok {
			return d.fail(i, OutOfRange, "")
		}
		if n.limits != nil && !n.limits.admits(f) {
			return d.fail(i, OutOfRange, "")
		}
		v.putFloat64(slot, f)
		i = next
	case opFloat32:
		x, next := d.number(i)
		if next < 0 {
			return d.numberless(i, quotes)
		}
		f, ok := x.float32(b)
		if !ok || n.limits != nil && !n.limits.admits(float64(f)) {
			return d.fail(i, OutOfRange, "")
		}
		v.putBits(slot, uint64(math.Float32bits(f)))
		i = next
	case opInt:
		next := d.integer(v, slot, i, st.low, st.high)
		if next < 0 {
			return d.numberless(i, quotes)
		}
		if n.limits != nil {
			if x, _ := d.number(i); !d.admitted(&x, n.limits) {
				return d.fail(i, OutOfRange, "")
			}
		}
		i = next
	case opString:
		if b[i] != '"' {
			return d.mistyped(i, "string")
		}
		return d.text(v, slot, i)
	case opBool:
		switch b[i] {
		case 't':
			v.putBool(slot, true)
			return d.literal(i, "true")
		case 'f':
			v.putBool(slot, false)
			return d.literal(i, "false")
		}
		return d.mistyped(i, "true or false")
	case opEnum:
		return d.enum(n, v, slot, i)
	case opTime:
		return d.time(n, v, slot, i)
	case opDuration:
		return d.duration(v, slot, i)
	case opBytes:
		return d.base64(v, slot, i)
	default:
		return d.json(n, v, slot, i)
	}
	if quotes == 1 {
		if b[i] != '"' {
			return d.mistyped(i, "number")
		}
		i++
	}
	return i
}

// admitted tells whether a number is within a schema's limits.
func (d *decoder) admitted(x *number, l *limits) bool {
	f, ok := x.float64(d.buf)
	return ok && l.admits(f)
}

// mistyped fails on a value of another type. What is no value at all is a
// syntax error.
func (d *decoder) mistyped(i int, want string) int {
	switch c := d.buf[i]; {
	case i >= d.end, strings.IndexByte(`"{[tfn-0123456789`, c) < 0 && c != 'N' && c != 'I':
		return d.syntax(i)
	case c == 'N' || c == 'I':
		return d.noNumber(i)
	}
	return d.fail(i, WrongType, "want "+want)
}

// numberless says what stands where a number should be, after number failed.
func (d *decoder) numberless(i, quotes int) int {
	if quotes == 1 {
		if d.reason != OutOfRange && d.reason != NotFinite {
			d.reason = WrongType
		}
		return -1
	}
	if d.reason == NotJSON && strings.IndexByte(`"{[tfn`, d.buf[i]) >= 0 {
		return d.fail(i, WrongType, "want number")
	}
	return -1
}

// integer reads a whole number within -low to high.
func (d *decoder) integer(v *vector, slot, i int, low, high uint64) int {
	x, next := d.number(i)
	if next < 0 {
		return -1
	}
	m, whole, fits := x.integer(d.buf)
	switch {
	case !whole:
		return d.fail(i, WrongType, "want whole number")
	case !fits, x.negative && m > low, !x.negative && m > high:
		return d.fail(i, OutOfRange, "")
	case x.negative:
		m = -m
	}
	v.putBits(slot, m)
	return next
}

// text reads a string.
func (d *decoder) text(v *vector, slot, i int) int {
	start, end, plain, next := d.quoted(i)
	if next < 0 {
		return -1
	}
	v.data = v.data[:v.off[slot]]
	v.room(end - start)
	if plain {
		v.data = append(v.data, d.buf[start:end]...)
	} else {
		var ok bool
		if v.data, ok = unescape(v.data, d.buf[start:end]); !ok {
			return d.fail(start, InvalidUTF8, "half of a surrogate pair")
		}
	}
	v.close(slot)
	return next
}

// enum reads the name of a value, or its number in a .proto.
func (d *decoder) enum(n *node, v *vector, slot, i int) int {
	if d.buf[i] == '"' {
		start, end, plain, next := d.quoted(i)
		if next < 0 {
			return -1
		}
		text, ok := d.plainText(start, end, plain)
		if !ok {
			return d.fail(start, InvalidUTF8, "half of a surrogate pair")
		}
		name, known := n.enum.byName[string(text)]
		if !known {
			return d.fail(i, OutOfRange, "not a value of the enum")
		}
		v.putString(slot, name)
		return next
	}
	if !n.enum.open {
		return d.mistyped(i, "string")
	}
	x, next := d.number(i)
	if next < 0 {
		return d.numberless(i, 0)
	}
	m, whole, fits := x.integer(d.buf)
	switch {
	case !whole:
		return d.fail(i, WrongType, "want whole number")
	case !fits, x.negative && m > 1<<31, !x.negative && m > 1<<31-1:
		return d.fail(i, OutOfRange, "")
	case x.negative:
		m = -m
	}
	d.putEnum(n, v, slot, int32(m))
	return next
}

// base64 reads bytes as protojson writes them: standard or URL alphabet, padded
// or not.
func (d *decoder) base64(v *vector, slot, i int) int {
	if d.buf[i] != '"' {
		return d.mistyped(i, "base64 string")
	}
	start, end, plain, next := d.quoted(i)
	if next < 0 {
		return -1
	}
	text, ok := d.plainText(start, end, plain)
	if !ok {
		return d.fail(start, InvalidUTF8, "half of a surrogate pair")
	}
	url := slices.ContainsFunc(text, func(c byte) bool { return c == '-' || c == '_' })
	encoding := base64.StdEncoding
	switch padded := len(text)%4 == 0; {
	case url && padded:
		encoding = base64.URLEncoding
	case url:
		encoding = base64.RawURLEncoding
	case !padded:
		encoding = base64.RawStdEncoding
	}
	v.data = v.data[:v.off[slot]]
	v.room(encoding.DecodedLen(len(text)))
	used := len(v.data)
	n, err := encoding.Decode(v.data[used:cap(v.data)], text)
	if err != nil {
		return d.fail(i, WrongType, "want base64 string")
	}
	v.data = v.data[:used+n]
	v.close(slot)
	return next
}

// json keeps a value as the text that the sender wrote.
func (d *decoder) json(n *node, v *vector, slot, i int) int {
	if n.shape != 0 && d.buf[i] != n.shape {
		if n.shape == '[' {
			return d.mistyped(i, "array")
		}
		return d.mistyped(i, "object")
	}
	next := d.skip(i, len(d.nest)+1)
	if next < 0 {
		return -1
	}
	v.putBytes(slot, d.buf[i:next])
	return next
}
