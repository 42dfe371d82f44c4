package schemas

import (
	"bytes"
	"encoding/json"
	"strings"
	"time"

	"github.com/apache/arrow/go/v15/arrow"
	"github.com/apache/arrow/go/v15/arrow/array"
)

// Value returns a cell of a record that a Batch made, as a Go value that
// encoding/json writes: bool, int64, uint64, float32, float64, string, []byte,
// time as RFC 3339 text, json.RawMessage, []any, map[string]any. It answers
// false for NULL. The value is a copy and outlives the record.
func Value(rec arrow.Record, col, row int) (any, bool) {
	c := rec.Column(col)
	if c.IsNull(row) {
		return nil, false
	}
	kind, _ := rec.Schema().Field(col).Metadata.GetValue(kindKey)
	if kind == JSON.String() {
		text := c.(*array.String).Value(row)
		if text == "" {
			return nil, false
		}
		return json.RawMessage(text), true
	}
	return cellOf(c, row), true
}

func cellOf(c arrow.Array, i int) any {
	switch c := c.(type) {
	case *array.Boolean:
		return c.Value(i)
	case *array.Int8:
		return int64(c.Value(i))
	case *array.Int16:
		return int64(c.Value(i))
	case *array.Int32:
		return int64(c.Value(i))
	case *array.Int64:
		return c.Value(i)
	case *array.Uint8:
		return uint64(c.Value(i))
	case *array.Uint16:
		return uint64(c.Value(i))
	case *array.Uint32:
		return uint64(c.Value(i))
	case *array.Uint64:
		return c.Value(i)
	case *array.Float32:
		return c.Value(i)
	case *array.Float64:
		return c.Value(i)
	case *array.String:
		return strings.Clone(c.Value(i))
	case *array.Binary:
		return bytes.Clone(c.Value(i))
	case *array.Timestamp:
		return time.UnixMicro(int64(c.Value(i))).UTC().Format(time.RFC3339Nano)
	case *array.Map:
		m := map[string]any{}
		from, to := c.ValueOffsets(i)
		for k := int(from); k < int(to); k++ {
			m[strings.Clone(c.Keys().ValueStr(k))] = cellOf(c.Items(), k)
		}
		return m
	case *array.List:
		list := []any{}
		from, to := c.ValueOffsets(i)
		for k := int(from); k < int(to); k++ {
			list = append(list, cellOf(c.ListValues(), k))
		}
		return list
	}
	return nil
}
