package schemas

import (
	"time"

	"github.com/apache/arrow/go/v15/arrow/memory"
)

// A decoder reads samples into the rows of its vectors: the shared inside of
// Batch and Checker. Scanning functions take an offset and return the next one,
// -1 after a failure that fail has noted.
type decoder struct {
	root    *node
	proto   bool
	plan    *plan
	vecs    []*vector // time, the fields, _unknown
	times   *vector
	unknown *vector
	slots   int // rows there is room for
	row     int // the one being read

	buf []byte // the payload and the sentinel
	end int    // of the payload

	// Of the current row. A stamp equals epoch where something was seen in it.
	epoch  uint32
	seen   []uint32 // by field
	oneofs []uint32
	chosen []*step // by oneof
	nest   []*step // objects that are open
	opened int     // how many of them are open in _unknown too
	strays []stray
	dirty  bool // there may be something left of these

	// What has to be finished when a row is: see finish.
	lengths  []*vector
	closers  []*step // lists and maps kept as text
	maps     []*step
	defaults []*step // enums that cannot be NULL

	lenient bool // skip checks syntax alone

	// The failure.
	reason Reason
	at     int
	path   string
	detail string

	// Scratch, kept for its memory.
	alienKey  keyRef
	scratch   []byte
	out       []byte
	frames    []frame
	keys      []keyRef
	spans     []wireSpan
	textKeys  []keyRef
	textKeyOf []*vector
	cells     [JSON + 1]*vector
}

func newDecoder(s *Schema, mem memory.Allocator) *decoder {
	d := &decoder{root: s.root, proto: s.source.Format == FormatProto, epoch: 1}
	d.times = newVector(mem, &Field{Kind: Time})
	d.vecs = append(d.vecs, d.times)
	for i := range s.fields {
		d.vecs = append(d.vecs, newVector(mem, &s.fields[i]))
	}
	d.unknown = newVector(mem, &Field{Kind: JSON})
	d.vecs = append(d.vecs, d.unknown)

	p := planner{vecs: d.vecs, oneofs: map[string]int{}}
	d.plan = p.plan(s.root, "", "")
	if d.plan.names[TimeColumn] == nil {
		d.plan.name(p.step(&node{name: TimeColumn, kind: Time, sampled: true}, "", ""))
	}
	d.seen = make([]uint32, p.ids)
	d.oneofs = make([]uint32, len(p.oneofs))
	d.chosen = make([]*step, len(p.oneofs))
	for _, v := range d.vecs {
		if v.offsets() {
			d.lengths = append(d.lengths, v)
		}
	}
	d.finishers(d.plan)
	return d
}

// finishers collects what has to be done at the end of a row.
func (d *decoder) finishers(p *plan) {
	for _, st := range p.steps {
		n := st.node
		switch {
		case st.plan != nil:
			d.finishers(st.plan)
		case n.isMap:
			d.maps = append(d.maps, st)
		case n.text != nil && (n.text.list || n.text.key != nil):
			d.closers = append(d.closers, st)
		case n.kind == Enum && !n.list && !n.nullable:
			d.defaults = append(d.defaults, st)
		}
	}
}

// load takes a payload in.
func (d *decoder) load(payload []byte) {
	d.buf = append(d.buf[:0], payload...)
	d.buf = append(d.buf, sentinel...)
	d.end = len(payload)
	d.reason, d.path, d.detail = "", "", ""
}

// fail notes why and where, and answers -1.
func (d *decoder) fail(i int, r Reason, detail string) int {
	d.at, d.reason, d.detail, d.path = i, r, detail, ""
	d.dirty = true
	return -1
}

func (d *decoder) failAt(st *step, i int, r Reason, detail string) int {
	d.fail(i, r, detail)
	d.path = st.path
	return -1
}

// failure is what fail has noted.
func (d *decoder) failure(sample int) *DecodeError {
	return &DecodeError{Reason: d.reason, Path: d.path, Offset: d.at, Sample: sample, Detail: d.detail}
}

// begin makes the next row the current one.
func (d *decoder) begin() {
	if d.row == d.slots {
		d.reserve(max(64, 2*d.slots))
	}
	if d.epoch++; d.epoch == 0 {
		clear(d.seen)
		clear(d.oneofs)
		d.epoch = 1
	}
	if d.dirty {
		d.dirty = false
		d.nest, d.opened = d.nest[:0], 0
		d.keys, d.strays = d.keys[:0], d.strays[:0]
		d.textKeys, d.textKeyOf = d.textKeys[:0], d.textKeyOf[:0]
	}
}

func (d *decoder) reserve(slots int) {
	for _, v := range d.vecs {
		v.grow(slots)
	}
	d.slots = slots
}

// jsonSample reads the object at i as one row.
func (d *decoder) jsonSample(i int) int {
	d.begin()
	if d.buf[i] != '{' {
		return d.mistyped(i, "object")
	}
	if i = d.object(d.plan, i); i < 0 {
		return -1
	}
	if u := d.unknown; len(u.data) > int(u.off[d.row]) {
		u.room(1)
		u.data = append(u.data, '}')
	}
	d.finish()
	return i
}

// protoSample reads the message from i to end as one row.
func (d *decoder) protoSample(i, end int) int {
	d.begin()
	if i = d.message(d.plan, i, end); i < 0 {
		return -1
	}
	if len(d.strays) > 0 {
		d.dirty = true
		d.keepStrays()
	}
	for _, st := range d.maps {
		if d.sameKeys(st.vec) {
			return d.failAt(st, i, DuplicateKey, "")
		}
	}
	for _, st := range d.closers {
		if v := st.vec; v.has(d.row) {
			if d.sameTextKeys(v) {
				return d.failAt(st, i, DuplicateKey, "")
			}
			v.room(1)
			shut := byte(']')
			if st.node.text.key != nil {
				shut = '}'
			}
			v.data = append(v.data, shut)
		}
	}
	d.finish()
	return i
}

// finish ends the current row's strings and lists. The row counts from now on.
func (d *decoder) finish() {
	for _, st := range d.defaults {
		if !st.vec.has(d.row) {
			d.putEnum(st.node, st.vec, d.row, 0)
		}
	}
	for _, v := range d.lengths {
		v.off[d.row+1] = v.end()
	}
	d.row++
}

// sameKeys tells whether a key stands twice in the current row of a map.
func (d *decoder) sameKeys(m *vector) bool {
	from, to := int(m.off[d.row]), m.key.n
	if to-from < 2 {
		return false
	}
	base := len(d.keys)
	defer func() { d.keys = d.keys[:base] }()
	out := d.out[:0]
	for k := from; k < to; k++ {
		at := len(out)
		out = m.key.appendRaw(out, k)
		d.keys = append(d.keys, keyRef{hash(out[at:]), int32(at), int32(len(out)), true})
	}
	d.out = out
	return twice(d.keys[base:], out) >= 0
}

func (d *decoder) sameTextKeys(v *vector) bool {
	base := len(d.keys)
	defer func() { d.keys = d.keys[:base] }()
	for k, of := range d.textKeyOf {
		if of == v {
			d.keys = append(d.keys, d.textKeys[k])
		}
	}
	return twice(d.keys[base:], v.data) >= 0
}

// undo empties the current row, which is not finished or just was.
func (d *decoder) undo() {
	for _, v := range d.vecs {
		v.undo(d.row)
	}
}

// timeOf is the device time of a finished row.
func (d *decoder) timeOf(row int) (time.Time, bool) {
	if !d.times.has(row) {
		return time.Time{}, false
	}
	return time.UnixMicro(*at[int64](d.times, row)).UTC(), true
}
