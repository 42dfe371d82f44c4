package columnar

import (
	"unsafe"

	"github.com/apache/arrow/go/v15/arrow"
	"github.com/apache/arrow/go/v15/arrow/array"
	"github.com/apache/arrow/go/v15/arrow/memory"
)

// A fixed collects an Arrow column of fixed width that has no NULLs. Arrow's
// builders do the same at three times the cost, as they keep validity bits and
// ask for room value by value.
type fixed[T int32 | int64 | uint8 | uint16 | uint32 | uint64] struct {
	mem    memory.Allocator
	buf    *memory.Buffer
	values []T // in buf
}

func (c *fixed[T]) append(v T) {
	if len(c.values) == cap(c.values) {
		c.reserve(len(c.values) + 1)
	}
	c.values = append(c.values, v)
}

// reserve makes room for n values in all, and for more so that values appended
// one by one are copied once on average.
func (c *fixed[T]) reserve(n int) {
	if c.buf == nil {
		c.buf = memory.NewResizableBuffer(c.mem)
	}
	size := int(unsafe.Sizeof(*new(T)))
	c.buf.ResizeNoShrink(size * max(64, n, 2*cap(c.values)))
	bytes := c.buf.Buf()
	c.values = unsafe.Slice((*T)(unsafe.Pointer(unsafe.SliceData(bytes))), len(bytes)/size)[:len(c.values)]
}

// buffer hands the values over.
func (c *fixed[T]) buffer() *memory.Buffer {
	if c.buf == nil {
		c.reserve(1)
	}
	buf := c.buf
	buf.ResizeNoShrink(int(unsafe.Sizeof(*new(T))) * len(c.values))
	c.buf, c.values = nil, nil
	return buf
}

func (c *fixed[T]) array(dtype arrow.DataType) arrow.Array {
	return arrayOf(dtype, len(c.values), c.buffer())
}

func (c *fixed[T]) release() {
	if c.buf != nil {
		c.buf.Release()
	}
	c.buf, c.values = nil, nil
}

// A texts collects an Arrow column of strings or bytes that has no NULLs. A
// batch holds less than 2^31 bytes of them: see Config.MaxBytes.
type texts struct {
	ends  fixed[int32] // where each value ends, behind a 0 that the first begins at
	bytes fixed[uint8]
}

func newTexts(mem memory.Allocator) texts {
	c := texts{fixed[int32]{mem: mem}, fixed[uint8]{mem: mem}}
	c.ends.append(0)
	return c
}

func (c *texts) append(s string) {
	c.room(len(s))
	c.bytes.values = append(c.bytes.values, s...)
	c.ends.append(int32(len(c.bytes.values)))
}

func (c *texts) appendBytes(s []byte) {
	c.room(len(s))
	c.bytes.values = append(c.bytes.values, s...)
	c.ends.append(int32(len(c.bytes.values)))
}

func (c *texts) room(n int) {
	if cap(c.bytes.values)-len(c.bytes.values) < n {
		c.bytes.reserve(len(c.bytes.values) + n)
	}
}

func (c *texts) array(dtype arrow.DataType) arrow.Array {
	return arrayOf(dtype, len(c.ends.values)-1, c.ends.buffer(), c.bytes.buffer())
}

func (c *texts) release() {
	c.ends.release()
	c.bytes.release()
}

// A bits collects an Arrow column of booleans that has no NULLs.
type bits struct {
	n     int
	bytes fixed[uint8]
}

func (c *bits) append(v bool) {
	if c.n%8 == 0 {
		c.bytes.append(0)
	}
	if v {
		c.bytes.values[c.n/8] |= 1 << (c.n % 8)
	}
	c.n++
}

func (c *bits) array() arrow.Array {
	return arrayOf(arrow.FixedWidthTypes.Boolean, c.n, c.bytes.buffer())
}

// arrayOf makes an array without NULLs of its buffers, which become its own.
func arrayOf(dtype arrow.DataType, n int, buffers ...*memory.Buffer) arrow.Array {
	data := array.NewData(dtype, n, append([]*memory.Buffer{nil}, buffers...), nil, 0, 0)
	defer data.Release()
	for _, b := range buffers {
		b.Release()
	}
	return array.MakeFromData(data)
}
