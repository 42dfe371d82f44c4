package schemas

import (
	"math/bits"
	"unsafe"

	"github.com/apache/arrow/go/v15/arrow"
	"github.com/apache/arrow/go/v15/arrow/array"
	"github.com/apache/arrow/go/v15/arrow/memory"
)

// A vector builds one Arrow array in Arrow's own layout. It differs from
// Arrow's builders in two ways that the decoder stands on: a slot is written by
// its index, so fields may come in any order and what does not come is NULL (or
// zero) without being written, and a row can be undone.
//
// Slots from n on are zero and not valid. Memory comes from the allocator and
// goes to the array as it is.
type vector struct {
	kind   Kind
	mem    memory.Allocator
	dtype  arrow.DataType
	always bool // never NULL: the validity bits only tell what was written

	slots int // how many there is room for

	valid []byte
	fixed []byte // numbers, times; the bits of Bool
	off   []int32
	data  []byte // of strings; its length is what is used

	validBuf, fixedBuf, offBuf, dataBuf *memory.Buffer

	// Lists and maps: the elements, how many there are, and the keys.
	child *vector
	key   *vector
	n     int // as an element or key vector: elements written
}

// newVector returns a vector without room.
func newVector(mem memory.Allocator, f *Field) *vector {
	v := &vector{mem: mem, dtype: arrowType(f), kind: f.Kind, always: !f.Nullable}
	if f.List || f.Map {
		v.always = true
		v.child = &vector{mem: mem, dtype: arrowScalars[f.Kind], kind: f.Kind, always: true}
		if f.Map {
			v.key = &vector{mem: mem, dtype: arrowScalars[f.KeyKind], kind: f.KeyKind, always: true}
		}
	}
	return v
}

// offsets tells whether slots have a length of their own.
func (v *vector) offsets() bool { return v.child != nil || v.kind.varLen() }

func (v *vector) width() int { return v.kind.bits() / 8 }

// grow makes room for slots. Reserved but unused bytes are zero.
func (v *vector) grow(slots int) {
	for _, elements := range [...]*vector{v.child, v.key} {
		if elements != nil && elements.validBuf == nil {
			elements.grow(0) // gives the first of them where to begin
		}
	}
	bitmap := (slots + 63) / 64 * 8
	v.valid = resize(v.mem, &v.validBuf, bitmap)
	switch {
	case v.offsets():
		off := resize(v.mem, &v.offBuf, 4*(slots+1))
		v.off = unsafe.Slice((*int32)(unsafe.Pointer(unsafe.SliceData(off))), slots+1)
	case v.kind == Bool:
		v.fixed = resize(v.mem, &v.fixedBuf, bitmap)
	default:
		v.fixed = resize(v.mem, &v.fixedBuf, v.width()*slots)
	}
	v.slots = slots
}

// resize gives a buffer n bytes, the new ones zero.
func resize(mem memory.Allocator, buf **memory.Buffer, n int) []byte {
	if *buf == nil {
		*buf = memory.NewResizableBuffer(mem)
	}
	had := (*buf).Len()
	(*buf).ResizeNoShrink(max(n, 64))
	b := (*buf).Bytes()
	if had < len(b) {
		clear(b[had:])
	}
	return b[:n]
}

// room makes sure that n bytes can be appended to data in place.
func (v *vector) room(n int) {
	if cap(v.data)-len(v.data) >= n {
		return
	}
	used := len(v.data)
	if v.dataBuf == nil {
		v.dataBuf = memory.NewResizableBuffer(v.mem)
	}
	v.dataBuf.ResizeNoShrink(max(1024, 2*used, used+n))
	// No further than the buffer knows: what is beyond would not be copied when it
	// grows, however much room its block has.
	v.data = v.dataBuf.Buf()[:used:v.dataBuf.Cap()]
}

// at returns a typed view of the slots of a fixed-width vector.
func at[T any](v *vector, i int) *T {
	size := int(unsafe.Sizeof(*new(T)))
	_ = v.fixed[i*size+size-1]
	return (*T)(unsafe.Add(unsafe.Pointer(unsafe.SliceData(v.fixed)), i*size))
}

func (v *vector) mark(i int) { v.valid[i>>3] |= 1 << (i & 7) }

func (v *vector) has(i int) bool { return v.valid[i>>3]&(1<<(i&7)) != 0 }

func (v *vector) putFloat64(i int, x float64) { *at[float64](v, i) = x; v.mark(i) }

func (v *vector) putFloat32(i int, x float32) { *at[float32](v, i) = x; v.mark(i) }

func (v *vector) putTime(i int, micros int64) { *at[int64](v, i) = micros; v.mark(i) }

// putBits stores an integer that is known to fit; unsigned ones as their bits.
func (v *vector) putBits(i int, x uint64) {
	switch v.kind {
	case Int64, Uint64, Float64, Time:
		*at[uint64](v, i) = x
	case Int32, Uint32, Float32:
		*at[uint32](v, i) = uint32(x)
	case Int16, Uint16:
		*at[uint16](v, i) = uint16(x)
	default:
		v.fixed[i] = uint8(x)
	}
	v.mark(i)
}

func (v *vector) putBool(i int, x bool) {
	if x {
		v.fixed[i>>3] |= 1 << (i & 7)
	} else {
		v.fixed[i>>3] &^= 1 << (i & 7)
	}
	v.mark(i)
}

// putBytes stores a string in the last slot written so far or the one after it.
func (v *vector) putBytes(i int, b []byte) {
	v.data = v.data[:v.off[i]]
	v.room(len(b))
	v.data = append(v.data, b...)
	v.close(i)
}

// putString is putBytes for a string.
func (v *vector) putString(i int, s string) {
	v.data = v.data[:v.off[i]]
	v.room(len(s))
	v.data = append(v.data, s...)
	v.close(i)
}

// zero stores zero, false or the empty string.
func (v *vector) zero(i int) {
	switch {
	case v.kind.varLen():
		v.putString(i, "")
	case v.kind == Bool:
		v.putBool(i, false)
	default:
		v.putBits(i, 0)
	}
}

// close ends the string of slot i with all that data holds.
func (v *vector) close(i int) {
	v.off[i+1] = int32(len(v.data))
	v.mark(i)
}

// next returns the slot for one more element.
func (v *vector) next() int {
	if v.n == v.slots {
		v.grow(max(64, 2*v.slots))
	}
	v.n++
	return v.n - 1
}

// end is where the slot after the last begins.
func (v *vector) end() int32 {
	if v.child != nil {
		return int32(v.child.n)
	}
	return int32(len(v.data))
}

// undo empties slot i again and all after it; offsets before it must be right.
func (v *vector) undo(i int) {
	v.valid[i>>3] &^= 1 << (i & 7)
	switch {
	case v.child != nil:
		v.child.cut(int(v.off[i]))
		if v.key != nil {
			v.key.cut(int(v.off[i]))
		}
	case v.kind.varLen():
		v.data = v.data[:v.off[i]]
	case v.kind == Bool:
		v.fixed[i>>3] &^= 1 << (i & 7)
	case v.always:
		w := v.width()
		clear(v.fixed[i*w : i*w+w])
	}
}

// cut drops the elements from n on.
func (v *vector) cut(n int) {
	v.n = n
	if v.kind.varLen() {
		v.data = v.data[:v.off[n]]
	}
}

// rowWidth is the memory that a slot takes, apart from its payload.
func (v *vector) rowWidth() int64 {
	if v.offsets() {
		return 5
	}
	return 1 + int64(v.width())
}

// payload is the memory of what has a length: text, elements, keys.
func (v *vector) payload() int64 {
	size := int64(len(v.data))
	if v.child != nil {
		size += v.child.rowWidth()*int64(v.child.n) + v.child.payload()
	}
	if v.key != nil {
		size += v.key.rowWidth()*int64(v.key.n) + v.key.payload()
	}
	return size
}

// array hands the first rows slots over and leaves the vector without room.
func (v *vector) array(rows int) arrow.Array {
	data := v.arrayData(rows)
	defer data.Release()
	return array.MakeFromData(data)
}

func (v *vector) arrayData(rows int) *array.Data {
	var buffers []*memory.Buffer
	var children []arrow.ArrayData
	nulls := 0
	if v.always {
		buffers = append(buffers, nil)
	} else {
		nulls = rows - popcount(v.valid, rows)
		v.validBuf.ResizeNoShrink((rows + 7) / 8)
		buffers = append(buffers, v.validBuf)
	}
	switch {
	case v.child != nil:
		v.offBuf.ResizeNoShrink(4 * (rows + 1))
		buffers = append(buffers, v.offBuf)
		elements := v.child.arrayData(v.child.n)
		defer elements.Release()
		if v.key == nil {
			children = append(children, elements)
			break
		}
		keys := v.key.arrayData(v.key.n)
		defer keys.Release()
		entries := array.NewData(v.dtype.(*arrow.MapType).Elem(), keys.Len(), []*memory.Buffer{nil}, []arrow.ArrayData{keys, elements}, 0, 0)
		defer entries.Release()
		children = append(children, entries)
	case v.kind.varLen():
		v.offBuf.ResizeNoShrink(4 * (rows + 1))
		if v.dataBuf == nil {
			v.dataBuf = memory.NewResizableBuffer(v.mem)
		}
		v.dataBuf.ResizeNoShrink(len(v.data))
		buffers = append(buffers, v.offBuf, v.dataBuf)
	case v.kind == Bool:
		v.fixedBuf.ResizeNoShrink((rows + 7) / 8)
		buffers = append(buffers, v.fixedBuf)
	default:
		v.fixedBuf.ResizeNoShrink(v.width() * rows)
		buffers = append(buffers, v.fixedBuf)
	}
	data := array.NewData(v.dtype, rows, buffers, children, nulls, 0)
	v.release()
	return data
}

// release gives up all memory.
func (v *vector) release() {
	for _, buf := range []**memory.Buffer{&v.validBuf, &v.fixedBuf, &v.offBuf, &v.dataBuf} {
		if *buf != nil {
			(*buf).Release()
			*buf = nil
		}
	}
	v.valid, v.fixed, v.off, v.data = nil, nil, nil, nil
	v.slots, v.n = 0, 0
	if v.child != nil {
		v.child.release()
	}
	if v.key != nil {
		v.key.release()
	}
}

func popcount(bitmap []byte, n int) int {
	count := 0
	for _, b := range bitmap[:n/8] {
		count += bits.OnesCount8(b)
	}
	if n%8 != 0 {
		count += bits.OnesCount8(bitmap[n/8] & (1<<(n%8) - 1))
	}
	return count
}

// appendRaw appends the bytes of a slot.
func (v *vector) appendRaw(out []byte, i int) []byte {
	switch {
	case v.kind.varLen():
		return append(out, v.data[v.off[i]:v.off[i+1]]...)
	case v.kind == Bool:
		return append(out, v.fixed[i>>3]>>(i&7)&1)
	}
	w := v.width()
	return append(out, v.fixed[i*w:i*w+w]...)
}
