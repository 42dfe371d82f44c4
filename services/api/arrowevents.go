package api

import (
	"bytes"

	"github.com/apache/arrow/go/v15/arrow"
	"github.com/apache/arrow/go/v15/arrow/array"
	"github.com/apache/arrow/go/v15/arrow/ipc"
	"github.com/apache/arrow/go/v15/arrow/memory"

	"github.com/tachograph/tachograph/events"
	"github.com/tachograph/tachograph/services/api/problem"
)

const arrowMedia = "application/vnd.apache.arrow.stream"

// What a record batch holds at most.
const (
	arrowRows  = 4096
	arrowBytes = 1 << 20
)

var utcMicros = &arrow.TimestampType{Unit: arrow.Microsecond, TimeZone: "UTC"}

// eventColumns are those of events as an Arrow stream.
var eventColumns = arrow.NewSchema([]arrow.Field{
	{Name: "token", Type: arrow.BinaryTypes.String},
	{Name: "id", Type: arrow.BinaryTypes.String},
	{Name: "kind", Type: arrow.BinaryTypes.String},
	{Name: "device", Type: arrow.BinaryTypes.String},
	{Name: "name", Type: arrow.BinaryTypes.String},
	{Name: "type", Type: arrow.BinaryTypes.String},
	{Name: "schema", Type: arrow.PrimitiveTypes.Uint32},
	{Name: "time", Type: utcMicros},
	{Name: "received", Type: utcMicros},
	{Name: "epoch", Type: arrow.PrimitiveTypes.Uint32},
	{Name: "partition", Type: arrow.PrimitiveTypes.Uint16},
	{Name: "seq", Type: arrow.PrimitiveTypes.Uint64},
	{Name: "data", Type: arrow.BinaryTypes.String, Nullable: true},
	{Name: "payload", Type: arrow.BinaryTypes.Binary, Nullable: true},
}, nil)

// arrowEvents is one row for each event; DESIGN.md, "Events as Arrow".
type arrowEvents struct {
	eventEncoder
	rows   *array.RecordBuilder
	held   int // bytes of payloads in rows
	count  int
	out    bytes.Buffer
	writer *ipc.Writer
	token  []byte
}

func newArrowEvents(encoder eventEncoder) *arrowEvents {
	f := &arrowEvents{eventEncoder: encoder, rows: array.NewRecordBuilder(memory.DefaultAllocator, eventColumns)}
	f.writer = ipc.NewWriter(&f.out, ipc.WithSchema(eventColumns))
	return f
}

func (f *arrowEvents) media() string { return arrowMedia }

func (f *arrowEvents) event(e *events.Event, at events.Cursors) ([]byte, error) {
	f.token = at.AppendToken(f.token[:0])
	text := func(col int, s string) { f.rows.Field(col).(*array.StringBuilder).Append(s) }
	moment := func(col int, micros int64) {
		f.rows.Field(col).(*array.TimestampBuilder).Append(arrow.Timestamp(micros))
	}
	text(0, string(f.token))
	text(1, e.ID)
	text(2, string(e.Stream.Kind))
	text(3, validUTF8(e.Stream.ID))
	text(4, validUTF8(e.Stream.Name))
	text(5, validUTF8(e.Type))
	f.rows.Field(6).(*array.Uint32Builder).Append(e.Schema)
	moment(7, f.time(e).UnixMicro())
	moment(8, e.Received.UnixMicro())
	f.rows.Field(9).(*array.Uint32Builder).Append(e.Position.Epoch)
	f.rows.Field(10).(*array.Uint16Builder).Append(e.Position.Partition)
	f.rows.Field(11).(*array.Uint64Builder).Append(e.Position.Seq)
	data, _, raw := f.forms(e)
	if data == nil {
		f.rows.Field(12).AppendNull()
	} else {
		text(12, string(data))
	}
	if raw {
		f.rows.Field(13).(*array.BinaryBuilder).Append(e.Payload)
	} else {
		f.rows.Field(13).AppendNull()
	}
	f.held += len(e.Payload) + len(data) + len(f.token)
	if f.count++; f.count == arrowRows || f.held > arrowBytes {
		return f.pending()
	}
	return nil, nil
}

// beat is a record batch without rows.
func (f *arrowEvents) beat(events.Cursors) ([]byte, error) { return f.write() }

func (f *arrowEvents) pending() ([]byte, error) {
	if f.count == 0 {
		return nil, nil
	}
	return f.write()
}

func (f *arrowEvents) write() ([]byte, error) {
	f.held, f.count = 0, 0
	record := f.rows.NewRecord()
	defer record.Release()
	f.out.Reset()
	if err := f.writer.Write(record); err != nil {
		return nil, err
	}
	return f.out.Bytes(), nil
}

// end writes the rest and the mark that a stream that was cut off lacks.
func (f *arrowEvents) end() ([]byte, error) {
	f.out.Reset()
	if f.count > 0 {
		if _, err := f.write(); err != nil {
			return nil, err
		}
	}
	if err := f.writer.Close(); err != nil {
		return nil, err
	}
	return f.out.Bytes(), nil
}

func (f *arrowEvents) fail(*problem.Problem) []byte { return nil }
