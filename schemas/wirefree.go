package schemas

// The free-form messages of struct.proto, written as the JSON that they stand
// for.

var stringNode = &node{kind: String, wire: wireBytes}

// textStruct writes a google.protobuf.Struct: map<string, Value> fields = 1.
func (d *decoder) textStruct(out []byte, i, end, depth int) ([]byte, bool) {
	entry := text{key: stringNode, free: freeValue}
	out = append(out, '{')
	keys := len(d.keys)
	for first := true; i < end; first = false {
		start, stop := d.only(1, i, end)
		if stop < 0 {
			return out, false
		}
		if !first {
			out = append(out, ',')
		}
		at, ok := len(out), false
		if out, ok = d.textEntry(out, &entry, start, stop, depth+1); !ok {
			return out, false
		}
		shut := at + quotedLen(out[at:])
		d.keys = append(d.keys, keyRef{hash(out[at:shut]), int32(at), int32(shut), true})
		i = stop
	}
	again := twice(d.keys[keys:], out)
	d.keys = d.keys[:keys]
	if again >= 0 {
		d.fail(i, DuplicateKey, "")
		return out, false
	}
	return append(out, '}'), true
}

// textList writes a google.protobuf.ListValue: repeated Value values = 1.
func (d *decoder) textList(out []byte, i, end, depth int) ([]byte, bool) {
	value := text{free: freeValue}
	out = append(out, '[')
	for first := true; i < end; first = false {
		start, stop := d.only(1, i, end)
		if stop < 0 {
			return out, false
		}
		if !first {
			out = append(out, ',')
		}
		var ok bool
		if out, ok = d.textValue(out, &value, bytesType, start, stop, depth+1); !ok {
			return out, false
		}
		i = stop
	}
	return append(out, ']'), true
}

// only reads the one field that a message has.
func (d *decoder) only(tag uint64, i, end int) (start, stop int) {
	key, next := d.key(i, end)
	if next < 0 {
		return 0, -1
	}
	if key != tag<<3|bytesType {
		return 0, d.foreign(key, i)
	}
	return d.span(next, end)
}

// freeKinds are the members of google.protobuf.Value by wire key.
var freeKinds = map[uint64]*text{
	1<<3 | varintType:  {}, // null_value
	2<<3 | fixed64Type: {scalar: &node{kind: Float64, wire: wireFixed64}},
	3<<3 | bytesType:   {scalar: stringNode},
	4<<3 | varintType:  {scalar: &node{kind: Bool, wire: wireVarint}},
	5<<3 | bytesType:   {free: freeStruct},
	6<<3 | bytesType:   {free: freeList},
}

// textAny writes a google.protobuf.Value. Of several members the last counts.
func (d *decoder) textAny(out []byte, i, end, depth int) ([]byte, bool) {
	mark := len(out)
	out = append(out, "null"...)
	for i < end {
		key, start := d.key(i, end)
		if start < 0 {
			return out, false
		}
		t := freeKinds[key]
		if t == nil {
			d.foreign(key, i)
			return out, false
		}
		stop := d.over(key, start, end, depth)
		if stop < 0 {
			return out, false
		}
		out = out[:mark]
		if key>>3 == 1 {
			out = append(out, "null"...)
		} else {
			ok := false
			from, to := wireSpan{0, key, start, stop}.body(d)
			if out, ok = d.textValue(out, t, key, from, to, depth+1); !ok {
				return out, false
			}
		}
		i = stop
	}
	return out, true
}
