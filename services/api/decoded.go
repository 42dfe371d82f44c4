package api

import (
	"encoding/json"

	"github.com/apache/arrow/go/v15/arrow"
	"github.com/apache/arrow/go/v15/arrow/memory"

	"github.com/tachograph/tachograph/events"
	"github.com/tachograph/tachograph/schemas"
)

// What of a protobuf payload is shown as JSON at most: a byte of it can be an
// enum's name, and three bytes a sample of many columns.
const (
	decodedBytes = 256 << 10
	decodedRows  = 1000
)

// appendDecoded appends a protobuf payload as JSON: an object with the names of
// the table's columns, NULLs left out, or an array of them where the message
// holds several samples. It answers false for everything that does not decode
// to the last sample.
func (c *eventEncoder) appendDecoded(b []byte, e *events.Event) ([]byte, bool) {
	if e.Stream.Kind != events.Telemetry || e.Schema == 0 || len(e.Payload) == 0 || len(e.Payload) > decodedBytes {
		return b, false
	}
	batch := c.batch(e.Type, e.Schema)
	if batch == nil {
		return b, false
	}
	rows, bad, err := batch.Append(e.Payload, e.Received)
	if rows == 0 || err != nil {
		return b, false
	}
	record := batch.Record()
	defer record.Release()
	if rows > decodedRows { // its memory is not kept for the next
		delete(c.batches, checkerKey{e.Type, e.Schema})
		batch.Release()
		return b, false
	}
	if len(bad) > 0 {
		return b, false
	}
	whole := len(b)
	if rows > 1 {
		b = append(b, '[')
	}
	for row := range rows {
		if row > 0 {
			b = append(b, ',')
		}
		var ok bool
		if b, ok = appendRow(b, record, row); !ok {
			return b[:whole], false
		}
	}
	if rows > 1 {
		b = append(b, ']')
	}
	return b, true
}

// appendRow appends all columns but the last, the sample's index.
func appendRow(b []byte, record arrow.Record, row int) ([]byte, bool) {
	b = append(b, '{')
	first := true
	for col := range int(record.NumCols()) - 1 {
		value, ok := schemas.Value(record, col, row)
		if !ok {
			continue
		}
		text, err := json.Marshal(value)
		if err != nil {
			return b, false
		}
		if !first {
			b = append(b, ',')
		}
		first = false
		b = appendString(b, record.ColumnName(col))
		b = append(append(b, ':'), text...)
	}
	return append(b, '}'), true
}

// batch returns what decodes a message type that is protobuf; nil for others.
func (c *eventEncoder) batch(name string, version uint32) *schemas.Batch {
	key := checkerKey{name, version}
	if batch, ok := c.batches[key]; ok {
		return batch
	}
	var batch *schemas.Batch
	if s, ok := c.schemas.Version(name, version); ok && s.Source().Format == schemas.FormatProto {
		batch = s.NewBatch(memory.DefaultAllocator)
	}
	if c.batches == nil {
		c.batches = make(map[checkerKey]*schemas.Batch)
	}
	c.batches[key] = batch
	return batch
}
