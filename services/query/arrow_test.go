package query

import (
	"bytes"
	"testing"

	"github.com/apache/arrow/go/v15/arrow"
	"github.com/apache/arrow/go/v15/arrow/array"
	"github.com/apache/arrow/go/v15/arrow/ipc"
	"github.com/apache/arrow/go/v15/arrow/memory"
	"github.com/apache/arrow/go/v15/parquet/file"
	"github.com/apache/arrow/go/v15/parquet/pqarrow"

	"github.com/tachograph/tachograph/projections/columnar/engine"
)

const samples = `SELECT number AS n, concat('car-', toString(number % 3)) AS device, if(number % 7 = 0, NULL, number / 2) AS speed,
	toDateTime64('2026-11-23 10:00:00.000', 3, 'UTC') + toIntervalMillisecond(number) AS time FROM numbers({rows:UInt64})`

// TestArrow and TestParquet: what other programs read is what was asked.
func TestArrow(t *testing.T) {
	b := newBench(t, Limits{}, engine.QueryLimits{})
	for _, rows := range []string{"0", "1", "200000"} {
		r, err := ipc.NewReader(bytes.NewReader([]byte(b.text(Statement{Text: samples, Format: Arrow, Parameters: map[string]string{"rows": rows}}))))
		if err != nil {
			t.Fatal(err)
		}
		sum := check{t: t}
		for r.Next() {
			sum.add(r.Record())
		}
		if r.Err() != nil {
			t.Fatal(r.Err())
		}
		sum.expect(r.Schema(), rows)
		r.Release()
	}
}

func TestParquet(t *testing.T) {
	b := newBench(t, Limits{}, engine.QueryLimits{})
	for _, rows := range []string{"0", "1", "200000"} {
		f, err := file.NewParquetReader(bytes.NewReader([]byte(b.text(Statement{Text: samples, Format: Parquet, Parameters: map[string]string{"rows": rows}}))))
		if err != nil {
			t.Fatal(err)
		}
		r, err := pqarrow.NewFileReader(f, pqarrow.ArrowReadProperties{BatchSize: 10_000}, memory.DefaultAllocator)
		if err != nil {
			t.Fatal(err)
		}
		table, err := r.ReadTable(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		sum := check{t: t}
		batches := array.NewTableReader(table, 10_000)
		for batches.Next() {
			sum.add(batches.Record())
		}
		sum.expect(table.Schema(), rows)
		table.Release()
		if err := f.Close(); err != nil {
			t.Error(err)
		}
	}
}

// A check adds up what the rows of samples hold.
type check struct {
	t     *testing.T
	rows  uint64
	next  uint64
	nulls int
}

func (c *check) add(batch arrow.Record) {
	c.t.Helper()
	n, device, speed, time := batch.Column(0).(*array.Uint64), text(batch.Column(1)), batch.Column(2).(*array.Float64), batch.Column(3).(*array.Timestamp)
	for i := range int(batch.NumRows()) {
		want := c.next
		c.next++
		at := time.Value(i).ToTime(arrow.Millisecond).UnixMilli()
		if n.Value(i) != want || device(i) != "car-"+string(rune('0'+want%3)) || at != 1_795_428_000_000+int64(want) {
			c.t.Fatalf("row %d: %d %s %d", want, n.Value(i), device(i), at)
		}
		if speed.IsNull(i) != (want%7 == 0) || !speed.IsNull(i) && speed.Value(i) != float64(want)/2 {
			c.t.Fatalf("row %d: speed %v", want, speed.ValueStr(i))
		}
		if speed.IsNull(i) {
			c.nulls++
		}
	}
	c.rows += uint64(batch.NumRows())
}

func text(column arrow.Array) func(int) string {
	switch a := column.(type) {
	case *array.String:
		return a.Value
	case *array.Binary:
		return a.ValueString
	}
	return func(int) string { return column.DataType().String() }
}

func (c *check) expect(schema *arrow.Schema, rows string) {
	c.t.Helper()
	want := map[string]uint64{"0": 0, "1": 1, "200000": 200_000}[rows]
	if c.rows != want || c.nulls != int(want+6)/7 {
		c.t.Errorf("%d rows, %d of them without a speed, want %d", c.rows, c.nulls, want)
	}
	if schema.NumFields() != 4 || schema.Field(0).Name != "n" || schema.Field(2).Name != "speed" || !schema.Field(2).Nullable {
		c.t.Errorf("the schema is %s", schema)
	}
}
