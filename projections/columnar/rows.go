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
	device    *array.StringBuilder
	received  *array.TimestampBuilder
	epoch     *array.Uint32Builder
	partition *array.Uint16Builder
	seq       *array.Uint64Builder
	id        *array.StringBuilder
}

func newMetaRows(mem memory.Allocator) *metaRows {
	return &metaRows{
		device: array.NewStringBuilder(mem), received: array.NewTimestampBuilder(mem, micros),
		epoch: array.NewUint32Builder(mem), partition: array.NewUint16Builder(mem),
		seq: array.NewUint64Builder(mem), id: array.NewStringBuilder(mem),
	}
}

func (m *metaRows) append(e *events.Event, rows int) {
	received := timestamp(e.Received)
	for range rows {
		m.device.Append(e.Stream.ID)
		m.received.Append(received)
		m.epoch.Append(e.Position.Epoch)
		m.partition.Append(e.Position.Partition)
		m.seq.Append(e.Position.Seq)
		m.id.Append(e.ID)
	}
}

// columns hands over device and the metaFields.
func (m *metaRows) columns() (device arrow.Array, rest []arrow.Array) {
	return m.device.NewArray(), []arrow.Array{
		m.received.NewArray(), m.epoch.NewArray(), m.partition.NewArray(), m.seq.NewArray(), m.id.NewArray(),
	}
}

func (m *metaRows) release() {
	for _, b := range []array.Builder{m.device, m.received, m.epoch, m.partition, m.seq, m.id} {
		b.Release()
	}
}

func timestamp(t time.Time) arrow.Timestamp { return arrow.Timestamp(t.UnixMicro()) }

// eventRows collects the rows of tacho.events.
type eventRows struct {
	*array.RecordBuilder
	refs []rowRef // of each event
}

// A rowRef says where an event's device time is: in its first sample, or, where
// table is nil, here.
type rowRef struct {
	table *messageRows
	row   int
	sent  time.Time
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

const (
	eventTime = 6
	eventSeq  = 12
)

func newEventRows(mem memory.Allocator) *eventRows {
	return &eventRows{RecordBuilder: array.NewRecordBuilder(mem, eventSchema)}
}

func (r *eventRows) append(e *events.Event, repeat bool, ref rowRef) {
	var stack [192]byte
	r.Field(0).(*array.StringBuilder).Append(e.Stream.ID)
	r.Field(1).(*array.StringBuilder).Append(string(e.Stream.Kind))
	r.Field(2).(*array.StringBuilder).Append(e.Type)
	r.Field(3).(*array.StringBuilder).BinaryBuilder.Append(e.AppendSubject(stack[:0]))
	r.Field(4).(*array.StringBuilder).Append(e.ID)
	r.Field(5).(*array.Uint32Builder).Append(e.Schema)
	r.Field(7).(*array.TimestampBuilder).Append(timestamp(e.Received))
	r.Field(8).(*array.BinaryBuilder).Append(e.Payload)
	r.Field(9).(*array.BooleanBuilder).Append(repeat)
	r.Field(10).(*array.Uint32Builder).Append(e.Position.Epoch)
	r.Field(11).(*array.Uint16Builder).Append(e.Position.Partition)
	r.Field(eventSeq).(*array.Uint64Builder).Append(e.Position.Seq)
	r.refs = append(r.refs, ref)
}

// seal fills in the device times, which the sealed samples hold.
func (r *eventRows) seal(times map[*messageRows]*array.Timestamp) *block {
	column := r.Field(eventTime).(*array.TimestampBuilder)
	for _, ref := range r.refs {
		if ref.table != nil {
			column.Append(times[ref.table].Value(ref.row))
		} else {
			column.Append(timestamp(ref.sent))
		}
	}
	record := r.NewRecord()
	r.Release()
	return &block{table: "events", columns: eventColumns, record: record, seqs: record.Column(eventSeq).(*array.Uint64)}
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
