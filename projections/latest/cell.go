package latest

import (
	"encoding/json"
	"math"
	"strconv"
	"time"

	"github.com/apache/arrow/go/v15/arrow"
	"github.com/apache/arrow/go/v15/arrow/array"

	"github.com/tachograph/tachograph/schemas"
)

// A cells is one column of a record, seen by its JSON.
type cells struct {
	name   string
	column arrow.Array
	record arrow.Record
	index  int
	kind   schemas.Kind
	many   bool // a list or a map
	nulls  bool
}

// has tells whether a row says something of the signal. NULL, an empty list or
// map, and empty JSON text do not: a message without the field looks the same.
func (c *cells) has(row int) bool {
	if c.nulls && c.column.IsNull(row) {
		return false
	}
	switch {
	case c.many:
		from, to := c.column.(array.ListLike).ValueOffsets(row)
		return from < to
	case c.kind == schemas.JSON:
		return c.column.(*array.String).ValueLen(row) > 0
	}
	return true
}

// append appends a cell that is there as JSON.
func (c *cells) append(b []byte, row int) []byte {
	if !c.many {
		switch col := c.column.(type) {
		case *array.Float64:
			return appendFloat(b, col.Value(row), 64)
		case *array.Float32:
			return appendFloat(b, float64(col.Value(row)), 32)
		case *array.Boolean:
			return strconv.AppendBool(b, col.Value(row))
		case *array.Int64:
			return strconv.AppendInt(b, col.Value(row), 10)
		case *array.Int32:
			return strconv.AppendInt(b, int64(col.Value(row)), 10)
		case *array.Uint64:
			return strconv.AppendUint(b, col.Value(row), 10)
		case *array.Uint32:
			return strconv.AppendUint(b, uint64(col.Value(row)), 10)
		case *array.Timestamp:
			return appendTime(b, time.UnixMicro(int64(col.Value(row))))
		case *array.String:
			if c.kind != schemas.JSON {
				return appendString(b, col.Value(row))
			}
			if text := []byte(col.Value(row)); json.Valid(text) {
				return append(b, text...)
			}
			return appendString(b, col.Value(row))
		}
	}
	value, _ := schemas.Value(c.record, c.index, row)
	return appendValue(b, value)
}

// appendFloat writes a number as encoding/json does. The decoder lets no NaN
// and no infinity through.
func appendFloat(b []byte, f float64, bits int) []byte {
	format := byte('f')
	if a := math.Abs(f); a != 0 && (bits == 64 && (a < 1e-6 || a >= 1e21) || bits == 32 && (float32(a) < 1e-6 || float32(a) >= 1e21)) {
		format = 'e'
	}
	return strconv.AppendFloat(b, f, format, -1, bits)
}
