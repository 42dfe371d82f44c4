package schemas_test

import (
	"testing"
	"time"

	"github.com/apache/arrow/go/v15/arrow"
	"github.com/apache/arrow/go/v15/arrow/memory"

	"github.com/tachograph/tachograph/schemas"
)

// arrival is the arrival time of all messages in tests.
var arrival = time.Date(2026, 7, 1, 12, 0, 0, 0, time.UTC)

// decode appends one message that must be good and returns its rows, without
// what is NULL and without _row.
func decode(t *testing.T, s *schemas.Schema, payload string) []map[string]any {
	t.Helper()
	mem := memory.NewCheckedAllocator(memory.NewGoAllocator())
	defer mem.AssertSize(t, 0)
	b := s.NewBatch(mem)
	defer b.Release()
	_, bad, err := b.Append([]byte(payload), arrival)
	if err != nil || len(bad) > 0 {
		t.Fatalf("append %.200q: %v, bad %v", payload, err, bad)
	}
	rec := b.Record()
	defer rec.Release()
	return rowsOf(rec)
}

func rowsOf(rec arrow.Record) []map[string]any {
	var rows []map[string]any
	for r := range int(rec.NumRows()) {
		row := map[string]any{}
		for c := range int(rec.NumCols()) - 1 {
			if v, ok := schemas.Value(rec, c, r); ok {
				row[rec.ColumnName(c)] = v
			}
		}
		rows = append(rows, row)
	}
	return rows
}
