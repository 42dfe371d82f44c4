package latest

import (
	"errors"
	"time"

	"github.com/apache/arrow/go/v15/arrow/array"
	"github.com/apache/arrow/go/v15/arrow/memory"

	"github.com/tachograph/tachograph/schemas"
)

// Rows are the samples of one device among those of a message type that were
// decoded together, in the order of the log.
type Rows struct {
	of    *decoded
	first int32
	count int
}

// received is what an event says of its samples.
type received struct {
	device   int32 // index among the states of the batch
	received time.Time
	place    place
}

// decoded collects events of one version of one message type and turns them
// into columns at once. It is reused.
type decoded struct {
	typ    string
	batch  *schemas.Batch
	schema *schemas.Schema
	events []received
	event  []int32 // of each row, its index in events

	// Of the record.
	cells  []cells
	times  []int64
	sample []uint32
	order  []int64
	flags  []Flag
	until  int64   // rows of a later order are left out
	next   []int32 // next row of the same device; -1 at the end
}

func newDecoded(typ string, s *schemas.Schema) *decoded {
	return &decoded{typ: typ, schema: s, batch: s.NewBatch(memory.DefaultAllocator)}
}

func (d *decoded) place(row int32) place {
	p := d.events[d.event[row]].place
	p.sample = d.sample[row]
	return p
}

// add decodes one message. It answers how many rows it gave and how many of
// its samples, or it as a whole, did not decode. full means that nothing was
// done: evolve first.
func (d *decoded) add(payload []byte, e received) (rows, bad int, full bool) {
	n, badSamples, err := d.batch.Append(payload, e.received)
	if err != nil {
		return 0, 1, errors.Is(err, schemas.ErrBatchFull)
	}
	if n > 0 {
		for range n {
			d.event = append(d.event, int32(len(d.events)))
		}
		d.events = append(d.events, e)
	}
	return n, len(badSamples), false
}

// evolve applies all rows to the states of their devices and empties d.
func (d *decoded) evolve(states []*State, rules bounds) {
	if len(d.event) == 0 {
		return
	}
	record := d.batch.Record()
	defer record.Release()
	n := int(record.NumRows())
	d.cells = d.cells[:0]
	fields := d.schema.Fields()
	for i := range len(fields) + 1 { // the fields and _unknown, after time
		c := cells{column: record.Column(i + 1), record: record, index: i + 1}
		if i < len(fields) {
			c.name, c.kind, c.many = fields[i].Column, fields[i].Kind, fields[i].List || fields[i].Map
		} else {
			c.name, c.kind = schemas.UnknownColumn, schemas.JSON
		}
		if c.nulls = c.column.NullN() > 0; c.column.NullN() < n {
			d.cells = append(d.cells, c)
		}
	}
	times := record.Column(0).(*array.Timestamp).TimestampValues()
	d.sample = record.Column(int(record.NumCols()) - 1).(*array.Uint32).Uint32Values()
	d.times, d.order, d.flags, d.next = d.times[:0], d.order[:0], d.flags[:0], d.next[:0]
	for row, t := range times {
		order, flag := rules.judge(int64(t), d.events[d.event[row]].received.UnixMicro())
		d.times, d.order, d.flags, d.next = append(d.times, int64(t)), append(d.order, order), append(d.flags, flag), append(d.next, -1)
	}
	d.until = rules.until
	rows := make(map[int32]Rows, 16)
	for row := n - 1; row >= 0; row-- {
		device := d.events[d.event[row]].device
		r, ok := rows[device]
		if ok {
			d.next[row] = r.first
		}
		rows[device] = Rows{of: d, first: int32(row), count: r.count + 1}
	}
	for device, r := range rows {
		states[device].Evolve(r)
	}
	clear(d.cells) // they point into the record
	d.events, d.event = d.events[:0], d.event[:0]
}
