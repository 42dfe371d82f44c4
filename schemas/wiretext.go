package schemas

import (
	"cmp"
	"encoding/base64"
	"slices"
	"strconv"
	"time"

	"github.com/apache/arrow/go/v15/arrow/memory"
)

// A wireSpan is one field of a message that is written as text: which it is and
// where its value stands.
type wireSpan struct {
	field      int // index in the text's fields; -1: not known
	key        uint64
	start, end int
}

// wireText writes a field that no column can hold as JSON text. The bracket
// that closes a list or a map is added at the end of the row, for more of it may
// follow.
func (d *decoder) wireText(st *step, i, end int) int {
	t, v := st.node.text, st.vec
	start, stop := d.span(i, end)
	if stop < 0 {
		return -1
	}
	out := d.out[:0]
	switch more := v.has(d.row); {
	case more && !t.list && t.key == nil:
		return d.fail(i, DuplicateKey, "message in several pieces")
	case more:
		out = append(out, ',')
	case t.list:
		out = append(out, '[')
	case t.key != nil:
		out = append(out, '{')
	}
	keyAt := len(out)
	var ok bool
	if t.key != nil {
		out, ok = d.textEntry(out, t, start, stop, len(d.nest)+1)
	} else {
		out, ok = d.textValue(out, t, uint64(bytesType), start, stop, len(d.nest)+1)
	}
	d.out = out
	if !ok {
		return -1
	}
	v.room(len(out))
	if t.key != nil {
		at := len(v.data) + keyAt
		stop := at + quotedLen(out[keyAt:])
		d.textKeys = append(d.textKeys, keyRef{hash(out[keyAt : stop-len(v.data)]), int32(at), int32(stop), true})
		d.textKeyOf = append(d.textKeyOf, v)
		d.dirty = true
	}
	v.data = append(v.data, out...)
	v.close(d.row)
	return stop
}

// quotedLen is the length of the JSON string that text begins with.
func quotedLen(text []byte) int {
	for i := 1; ; i++ {
		switch text[i] {
		case '\\':
			i++
		case '"':
			return i + 1
		}
	}
}

// textValue writes one value: the bytes from i to end, framed as the wire type
// of key says.
func (d *decoder) textValue(out []byte, t *text, key uint64, i, end, depth int) ([]byte, bool) {
	switch {
	case depth > maxDepth:
		d.fail(i, TooDeep, "")
		return out, false
	case t.scalar != nil:
		return d.textScalar(out, t.scalar, i, end)
	case t.free == freeStruct:
		return d.textStruct(out, i, end, depth)
	case t.free == freeList:
		return d.textList(out, i, end, depth)
	case t.free == freeValue:
		return d.textAny(out, i, end, depth)
	}
	return d.textMessage(out, t, i, end, depth)
}

// textMessage writes a message: known fields by name in the order of the
// schema, unknown ones by tag.
func (d *decoder) textMessage(out []byte, t *text, i, end, depth int) ([]byte, bool) {
	base := len(d.spans)
	defer func() { d.spans = d.spans[:base] }()
	for i < end {
		key, start := d.key(i, end)
		if start < 0 {
			return out, false
		}
		field := slices.IndexFunc(t.fields, func(f *text) bool { return uint64(f.tag) == key>>3 })
		stop := d.over(key, start, end, depth)
		if stop < 0 {
			return out, false
		}
		if field >= 0 && !t.fields[field].framed(key&7) {
			d.foreign(key, i)
			return out, false
		}
		d.spans = append(d.spans, wireSpan{field, key, start, stop})
		i = stop
	}
	spans := d.spans[base:]
	slices.SortStableFunc(spans, func(a, b wireSpan) int {
		if c := cmp.Compare(uint(a.field), uint(b.field)); c != 0 || a.field >= 0 {
			return c
		}
		return cmp.Compare(a.key>>3, b.key>>3)
	})
	out = append(out, '{')
	ok := true
	for from := 0; from < len(spans) && ok; {
		to := from + 1
		for to < len(spans) && spans[to].field == spans[from].field && spans[to].key>>3 == spans[from].key>>3 {
			to++
		}
		if from > 0 {
			out = append(out, ',')
		}
		if f := spans[from].field; f >= 0 {
			out = append(append(append(out, '"'), t.fields[f].name...), `":`...)
			out, ok = d.textField(out, t.fields[f], base+from, base+to, depth)
		} else {
			out = append(strconv.AppendUint(append(out, '"'), spans[from].key>>3, 10), `":`...)
			out = appendStrays(out, d.buf, spans[from:to])
		}
		from = to
		spans = d.spans[base:]
	}
	return append(out, '}'), ok
}

// framed tells whether a field may come with a wire type.
func (t *text) framed(wireType uint64) bool {
	if t.scalar == nil || t.key != nil {
		return wireType == bytesType
	}
	return wireType == wireTypeOf(t.scalar) || t.list && wireType == bytesType
}

// textField writes all that a message has of one field; from and to are its
// spans.
func (d *decoder) textField(out []byte, t *text, from, to, depth int) ([]byte, bool) {
	if !t.list && t.key == nil {
		if t.scalar == nil && to-from > 1 {
			d.fail(d.spans[from].start, DuplicateKey, "message in several pieces")
			return out, false
		}
		mark := len(out)
		for k := from; k < to; k++ { // all are checked, the last one counts
			s := d.spans[k]
			var ok bool
			start, stop := s.body(d)
			if out, ok = d.textValue(out[:mark], t, s.key, start, stop, depth+1); !ok {
				return out, false
			}
		}
		return out, true
	}
	open, shut := byte('['), byte(']')
	if t.key != nil {
		open, shut = '{', '}'
	}
	out = append(out, open)
	keys := len(d.keys)
	first := true
	for k := from; k < to; k++ {
		s := d.spans[k]
		start, stop := s.body(d)
		packed := t.list && t.scalar != nil && s.key&7 == bytesType && wireTypeOf(t.scalar) != bytesType
		for i := start; i < stop || !packed && i == start; {
			if !first {
				out = append(out, ',')
			}
			first = false
			at, ok := len(out), false
			next := stop
			switch {
			case t.key != nil:
				if out, ok = d.textEntry(out, t, start, stop, depth+1); ok {
					shut := at + quotedLen(out[at:])
					d.keys = append(d.keys, keyRef{hash(out[at:shut]), int32(at), int32(shut), true})
				}
			case packed:
				key := wireTypeOf(t.scalar)
				if next = d.over(key, i, stop, depth); next < 0 {
					return out, false
				}
				out, ok = d.textValue(out, t, key, i, next, depth+1)
			default:
				out, ok = d.textValue(out, t, s.key, i, stop, depth+1)
			}
			if !ok {
				return out, false
			}
			if i = next; !packed {
				break
			}
		}
	}
	twice := twice(d.keys[keys:], out)
	d.keys = d.keys[:keys]
	if twice >= 0 {
		d.fail(d.spans[from].start, DuplicateKey, "")
		return out, false
	}
	return append(out, shut), true
}

// body is where the value of a span stands, without the length before it.
func (s wireSpan) body(d *decoder) (start, end int) {
	if s.key&7 == bytesType {
		return d.span(s.start, s.end)
	}
	return s.start, s.end
}

// textEntry writes an entry of a map: "key":value.
func (d *decoder) textEntry(out []byte, t *text, i, end, depth int) ([]byte, bool) {
	cell := d.cell(t.key.kind)
	cell.zero(0)
	value := wireSpan{key: 0}
	for i < end {
		key, start := d.key(i, end)
		if start < 0 {
			return out, false
		}
		stop := d.over(key, start, end, depth)
		if stop < 0 {
			return out, false
		}
		switch one := (&text{scalar: t.scalar}); {
		case key == 1<<3|wireTypeOf(t.key):
			if d.wireValue(t.key, cell, 0, start, stop) < 0 {
				return out, false
			}
		case key>>3 == 2 && one.framed(key&7):
			value = wireSpan{0, key, start, stop}
		default:
			d.foreign(key, i)
			return out, false
		}
		i = stop
	}
	if t.key.kind == String {
		out = appendCell(out, t.key, cell)
	} else {
		out = append(appendCell(append(out, '"'), t.key, cell), '"')
	}
	out = append(out, ':')
	if value.key == 0 {
		return d.textZero(out, t), true
	}
	start, stop := value.body(d)
	return d.textValue(out, t, value.key, start, stop, depth)
}

// textZero writes the value of an entry that names none.
func (d *decoder) textZero(out []byte, t *text) []byte {
	switch {
	case t.scalar != nil && t.scalar.kind == Enum:
		cell := d.cell(Enum)
		d.putEnum(t.scalar, cell, 0, 0)
		return appendCell(out, t.scalar, cell)
	case t.scalar != nil:
		cell := d.cell(t.scalar.kind)
		cell.zero(0)
		return appendCell(out, t.scalar, cell)
	case t.free == freeValue:
		return append(out, "null"...)
	case t.free == freeList:
		return append(out, "[]"...)
	}
	return append(out, "{}"...)
}

// cell is a vector of one slot, to read a value that goes into text.
func (d *decoder) cell(k Kind) *vector {
	if d.cells[k] == nil {
		d.cells[k] = &vector{mem: memory.DefaultAllocator, kind: k, always: true}
		d.cells[k].grow(1)
	}
	v := d.cells[k]
	v.valid[0] = 0
	return v
}

func (d *decoder) textScalar(out []byte, n *node, i, end int) ([]byte, bool) {
	cell := d.cell(n.kind)
	if n.wire >= wireBytes {
		if d.wireBytes(n, cell, 0, i, end) < 0 {
			return out, false
		}
	} else if d.wireValue(n, cell, 0, i, end) < 0 {
		return out, false
	}
	return appendCell(out, n, cell), true
}

// appendCell writes the value of a cell as JSON.
func appendCell(out []byte, n *node, v *vector) []byte {
	switch k := n.kind; {
	case k == Bool:
		return strconv.AppendBool(out, v.fixed[0]&1 != 0)
	case k == Float64:
		return appendFloat(out, *at[float64](v, 0), 64)
	case k == Float32:
		return appendFloat(out, float64(*at[float32](v, 0)), 32)
	case k == Int32:
		return strconv.AppendInt(out, int64(*at[int32](v, 0)), 10)
	case k == Int64:
		return strconv.AppendInt(out, *at[int64](v, 0), 10)
	case k == Uint32:
		return strconv.AppendUint(out, uint64(*at[uint32](v, 0)), 10)
	case k == Uint64:
		return strconv.AppendUint(out, *at[uint64](v, 0), 10)
	case k == Time:
		out = time.UnixMicro(*at[int64](v, 0)).UTC().AppendFormat(append(out, '"'), time.RFC3339Nano)
		return append(out, '"')
	case k == Bytes:
		out = base64.StdEncoding.AppendEncode(append(out, '"'), v.data)
		return append(out, '"')
	}
	return appendQuoted(out, v.data)
}

// appendFloat writes the shortest number that reads back the same.
func appendFloat(out []byte, f float64, bits int) []byte {
	format := byte('f')
	if abs := max(f, -f); abs != 0 && (abs < 1e-6 || abs >= 1e21) {
		format = 'e'
	}
	return strconv.AppendFloat(out, f, format, -1, bits)
}

const hexDigits = "0123456789abcdef"

// appendQuoted writes valid UTF-8 as a JSON string.
func appendQuoted(out, s []byte) []byte {
	out = append(out, '"')
	for _, c := range s {
		switch {
		case c == '"' || c == '\\':
			out = append(out, '\\', c)
		case c == '\n':
			out = append(out, `\n`...)
		case c < 0x20:
			out = append(out, '\\', 'u', '0', '0', hexDigits[c>>4], hexDigits[c&15])
		default:
			out = append(out, c)
		}
	}
	return append(out, '"')
}

func quoteKey(name string) string { return string(appendQuoted(nil, []byte(name))) + ":" }
