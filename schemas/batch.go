package schemas

import (
	"time"

	"github.com/apache/arrow/go/v15/arrow"
	"github.com/apache/arrow/go/v15/arrow/array"
	"github.com/apache/arrow/go/v15/arrow/memory"
)

// What a batch takes before it is full: bytes of payloads, and bytes in one
// column. A message more, which is maxPayload at most, stays below 2^31 then.
const (
	maxFed    = 128 << 20
	maxColumn = 512 << 20
)

// A Batch collects the samples of messages as Arrow columns. It is not safe for
// concurrent use.
type Batch struct {
	schema *Schema
	own    *Recycler // nil if it is the caller's
	d      *decoder
	index  *vector // _row
	width  int64   // of a row without what has a length of its own
	fed    int     // bytes of payloads since the last record

	// Of the message that is being appended.
	first    int
	sample   uint32
	received int64
	badOnes  []BadSample
}

// A BadSample is one that could not be decoded while its siblings could.
type BadSample struct {
	Index  int    // in its message
	Reason string // a Reason
	Detail string // for people: path, offset, what was expected
	Bytes  []byte // the sample as it came; part of the payload, not a copy
}

// NewBatch returns an empty batch that takes its memory from mem. It keeps the
// memory of records that were released for the next ones, until Release; with a
// Recycler as mem, that does.
func (s *Schema) NewBatch(mem memory.Allocator) *Batch {
	var own *Recycler
	if _, shared := mem.(*Recycler); !shared {
		own = NewRecycler(mem, ownIdle)
		mem = own
	}
	b := &Batch{schema: s, own: own, d: newDecoder(s, mem), index: newVector(mem, &Field{Kind: Uint32}), width: 4}
	for _, v := range b.d.vecs {
		b.width += v.rowWidth()
	}
	return b
}

// Schema is what the batch decodes by.
func (b *Batch) Schema() *Schema { return b.schema }

// Append decodes one message: a sample or a batch of them. Each good sample
// becomes a row, each bad one among siblings is reported in bad. Where a sample
// has no time of its own it gets received.
//
// With an error nothing was appended: *DecodeError if the message as a whole, or
// its only sample, cannot be read; ErrBatchFull if Record has to be called
// first.
func (b *Batch) Append(payload []byte, received time.Time) (rows int, bad []BadSample, err error) {
	if b.d.row > 0 && b.fed > maxColumn/maxNameBytes && b.full(len(payload)) {
		return 0, nil, ErrBatchFull
	}
	b.fed += len(payload)
	b.first, b.sample, b.received, b.badOnes = b.d.row, 0, received.UnixMicro(), nil
	if _, failed := b.d.samples(payload, b); failed != nil {
		for b.d.row > b.first {
			b.d.row--
			b.d.undo()
			b.index.undo(b.d.row)
		}
		return 0, nil, failed
	}
	return b.d.row - b.first, b.badOnes, nil
}

// full tells whether n bytes more might be too many.
func (b *Batch) full(n int) bool {
	for _, v := range b.d.lengths {
		if v.payload() > maxColumn {
			return true
		}
	}
	return b.fed+n > maxFed
}

// good implements sink.
func (b *Batch) good() {
	row := b.d.row - 1
	if !b.d.times.has(row) {
		b.d.times.putBits(row, uint64(b.received))
	}
	if b.index.slots <= row {
		b.index.grow(b.d.slots)
	}
	b.index.putBits(row, uint64(b.sample))
	b.sample++
}

// bad implements sink.
func (b *Batch) bad(index int, e *DecodeError, sample []byte) {
	b.sample++
	b.badOnes = append(b.badOnes, BadSample{Index: index, Reason: string(e.Reason), Detail: e.Error(), Bytes: sample})
}

// Rows is how many rows there are.
func (b *Batch) Rows() int { return b.d.row }

// Time is when the sample of a row was taken, as far as a column of microseconds
// tells, or when it was received where it has no time of its own. The row must
// be one of Rows.
func (b *Batch) Time(row int) time.Time { return time.UnixMicro(*at[int64](b.d.times, row)).UTC() }

// Bytes is how much memory the rows take, to within a few bytes per column. It
// is cheap enough to be asked after every message.
func (b *Batch) Bytes() int64 {
	size := b.width * int64(b.d.row)
	for _, v := range b.d.lengths {
		size += v.payload()
	}
	return size
}

// Record hands all rows over and empties the batch. Its columns are those of
// Schema.Arrow. The caller must release the record, and keep nothing that points
// into it beyond that: its memory is used again.
func (b *Batch) Record() arrow.Record {
	rows := b.d.row
	if b.d.slots == 0 {
		b.d.reserve(1)
	}
	if b.index.slots < b.d.slots {
		b.index.grow(b.d.slots)
	}
	columns := make([]arrow.Array, 0, len(b.d.vecs)+1)
	for _, v := range append(b.d.vecs[:len(b.d.vecs):len(b.d.vecs)], b.index) {
		columns = append(columns, v.array(rows))
	}
	rec := array.NewRecord(b.schema.arrow, columns, int64(rows))
	for _, c := range columns {
		c.Release()
	}
	b.d.row, b.d.slots, b.fed = 0, 0, 0
	b.d.reserve(max(64, rows))
	b.index.grow(b.d.slots)
	return rec
}

// Release gives up the batch's memory. Its rows are gone; records that it made
// stay as they are until they are released. A batch that is just dropped leaves
// its memory to the garbage collector, if mem does.
func (b *Batch) Release() {
	for _, v := range append(b.d.vecs[:len(b.d.vecs):len(b.d.vecs)], b.index) {
		v.release()
	}
	if b.own != nil {
		b.own.Close()
	}
	b.d.row, b.d.slots, b.fed = 0, 0, 0
}
