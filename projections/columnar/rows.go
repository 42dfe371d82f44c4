package columnar

import (
	"time"

	"github.com/apache/arrow/go/v15/arrow"
	"github.com/apache/arrow/go/v15/arrow/array"
	"github.com/apache/arrow/go/v15/arrow/memory"

	"github.com/tachograph/tachograph/events"
	"github.com/tachograph/tachograph/schemas"
)

var micros = &arrow.TimestampType{Unit: arrow.Microsecond, TimeZone: "UTC"}

// metaFields are where a sample comes from, in the order of metaColumns
// without device and _row.
var metaFields = []arrow.Field{
	{Name: "received", Type: micros},
	{Name: "_epoch", Type: arrow.PrimitiveTypes.Uint32},
	{Name: "_partition", Type: arrow.PrimitiveTypes.Uint16},
	{Name: "_seq", Type: arrow.PrimitiveTypes.Uint64},
	{Name: "_id", Type: arrow.BinaryTypes.String},
}

// metaRows collects them, one row a sample.
type metaRows struct {
	device    texts
	received  fixed[int64]
	epoch     fixed[uint32]
	partition fixed[uint16]
	seq       fixed[uint64]
	id        texts
}

func newMetaRows(mem memory.Allocator) *metaRows {
	return &metaRows{
		device: newTexts(mem), received: fixed[int64]{mem: mem}, epoch: fixed[uint32]{mem: mem},
		partition: fixed[uint16]{mem: mem}, seq: fixed[uint64]{mem: mem}, id: newTexts(mem),
	}
}

func (m *metaRows) append(e *events.Event, rows int) {
	for range rows {
		m.device.append(e.Stream.ID)
		m.received.append(e.Received.UnixMicro())
		m.epoch.append(e.Position.Epoch)
		m.partition.append(e.Position.Partition)
		m.seq.append(e.Position.Seq)
		m.id.append(e.ID)
	}
}

// columns hands over device and the metaFields.
func (m *metaRows) columns() (device arrow.Array, rest []arrow.Array) {
	typ := func(i int) arrow.DataType { return metaFields[i].Type }
	return m.device.array(arrow.BinaryTypes.String), []arrow.Array{
		m.received.array(typ(0)), m.epoch.array(typ(1)), m.partition.array(typ(2)), m.seq.array(typ(3)), m.id.array(typ(4)),
	}
}

func (m *metaRows) release() {
	for _, c := range []interface{ release() }{&m.device, &m.received, &m.epoch, &m.partition, &m.seq, &m.id} {
		c.release()
	}
}

func timestamp(t time.Time) arrow.Timestamp { return arrow.Timestamp(t.UnixMicro()) }

// eventRows collects the rows of tacho.events.
type eventRows struct {
	device, kind, message, subject, id texts
	schema                             fixed[uint32]
	time, received                     fixed[int64]
	payload                            texts
	repeat                             bits
	epoch                              fixed[uint32]
	partition                          fixed[uint16]
	seq                                fixed[uint64]
}

var eventSchema = arrow.NewSchema([]arrow.Field{
	{Name: "device", Type: arrow.BinaryTypes.String},
	{Name: "kind", Type: arrow.BinaryTypes.String},
	{Name: "message", Type: arrow.BinaryTypes.String},
	{Name: "subject", Type: arrow.BinaryTypes.String},
	{Name: "id", Type: arrow.BinaryTypes.String},
	{Name: "schema", Type: arrow.PrimitiveTypes.Uint32},
	{Name: "time", Type: micros},
	{Name: "received", Type: micros},
	{Name: "payload", Type: arrow.BinaryTypes.Binary},
	{Name: "repeat", Type: arrow.FixedWidthTypes.Boolean},
	{Name: "_epoch", Type: arrow.PrimitiveTypes.Uint32},
	{Name: "_partition", Type: arrow.PrimitiveTypes.Uint16},
	{Name: "_seq", Type: arrow.PrimitiveTypes.Uint64},
}, nil)

func newEventRows(mem memory.Allocator) *eventRows {
	return &eventRows{
		device: newTexts(mem), kind: newTexts(mem), message: newTexts(mem), subject: newTexts(mem), id: newTexts(mem),
		schema: fixed[uint32]{mem: mem}, time: fixed[int64]{mem: mem}, received: fixed[int64]{mem: mem},
		payload: newTexts(mem), repeat: bits{bytes: fixed[uint8]{mem: mem}},
		epoch: fixed[uint32]{mem: mem}, partition: fixed[uint16]{mem: mem}, seq: fixed[uint64]{mem: mem},
	}
}

// append adds an event whose device sent it at a time, in microseconds.
func (r *eventRows) append(e *events.Event, repeat bool, sent int64) {
	var stack [192]byte
	r.device.append(e.Stream.ID)
	r.kind.append(string(e.Stream.Kind))
	r.message.append(e.Type)
	r.subject.appendBytes(e.AppendSubject(stack[:0]))
	r.id.append(e.ID)
	r.schema.append(e.Schema)
	r.time.append(sent)
	r.received.append(e.Received.UnixMicro())
	r.payload.appendBytes(e.Payload)
	r.repeat.append(repeat)
	r.epoch.append(e.Position.Epoch)
	r.partition.append(e.Position.Partition)
	r.seq.append(e.Position.Seq)
}

func (r *eventRows) seal() *block {
	n := int64(len(r.seq.values))
	typ := func(i int) arrow.DataType { return eventSchema.Field(i).Type }
	seq := r.seq.array(typ(12))
	columns := []arrow.Array{
		r.device.array(typ(0)), r.kind.array(typ(1)), r.message.array(typ(2)), r.subject.array(typ(3)), r.id.array(typ(4)),
		r.schema.array(typ(5)), r.time.array(typ(6)), r.received.array(typ(7)), r.payload.array(typ(8)), r.repeat.array(),
		r.epoch.array(typ(10)), r.partition.array(typ(11)), seq,
	}
	record := array.NewRecord(eventSchema, columns, n)
	for _, c := range columns {
		c.Release()
	}
	return &block{table: "events", columns: eventColumns, record: record, seqs: seq.(*array.Uint64)}
}

var deadSchema = arrow.NewSchema([]arrow.Field{
	{Name: "device", Type: arrow.BinaryTypes.String},
	{Name: "message", Type: arrow.BinaryTypes.String},
	{Name: "id", Type: arrow.BinaryTypes.String},
	{Name: "schema", Type: arrow.PrimitiveTypes.Uint32},
	{Name: "sample", Type: arrow.PrimitiveTypes.Uint32},
	{Name: "reason", Type: arrow.BinaryTypes.String},
	{Name: "detail", Type: arrow.BinaryTypes.String},
	{Name: "payload", Type: arrow.BinaryTypes.Binary},
	{Name: "received", Type: micros},
	{Name: "_epoch", Type: arrow.PrimitiveTypes.Uint32},
	{Name: "_partition", Type: arrow.PrimitiveTypes.Uint16},
	{Name: "_seq", Type: arrow.PrimitiveTypes.Uint64},
	{Name: schemas.RowColumn, Type: arrow.PrimitiveTypes.Uint32},
}, nil)

func sealDead(mem memory.Allocator, dead []deadLetter) *block {
	r := array.NewRecordBuilder(mem, deadSchema)
	defer r.Release()
	for i := range dead {
		d := &dead[i]
		for j, s := range []string{d.event.Stream.ID, d.event.Type, d.event.ID} {
			r.Field(j).(*array.StringBuilder).Append(s)
		}
		r.Field(3).(*array.Uint32Builder).Append(d.event.Schema)
		r.Field(4).(*array.Uint32Builder).Append(d.sample)
		r.Field(5).(*array.StringBuilder).Append(d.reason)
		r.Field(6).(*array.StringBuilder).Append(d.detail)
		r.Field(7).(*array.BinaryBuilder).Append(d.bytes)
		r.Field(8).(*array.TimestampBuilder).Append(timestamp(d.event.Received))
		r.Field(9).(*array.Uint32Builder).Append(d.event.Position.Epoch)
		r.Field(10).(*array.Uint16Builder).Append(d.event.Position.Partition)
		r.Field(11).(*array.Uint64Builder).Append(d.event.Position.Seq)
		r.Field(12).(*array.Uint32Builder).Append(d.sample)
	}
	record := r.NewRecord()
	return &block{table: "dead_letters", columns: deadColumns, record: record, seqs: record.Column(11).(*array.Uint64), rows: record.Column(12).(*array.Uint32)}
}

// park is the dead letter as an event of the log. Its name is where it comes
// from, so that parking it again finds it there.
func (d *deadLetter) park() events.Event {
	name := events.LetterID{Position: d.event.Position, Sample: d.sample}
	return events.Event{
		Stream:  events.Stream{Kind: events.DeadLetter, ID: d.event.Stream.ID, Name: name.String()},
		Type:    d.event.Type,
		ID:      d.event.ID,
		Schema:  d.event.Schema,
		Payload: d.bytes,
	}
}
