package query

import (
	"bytes"
	"errors"
	"io"
	"testing"

	"github.com/apache/arrow/go/v15/arrow"
	"github.com/apache/arrow/go/v15/arrow/array"
	"github.com/apache/arrow/go/v15/arrow/ipc"
	"github.com/parquet-go/parquet-go"

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
			batch := r.Record()
			n, device, speed, time := batch.Column(0).(*array.Uint64), text(batch.Column(1)), batch.Column(2).(*array.Float64), batch.Column(3).(*array.Timestamp)
			for i := range int(batch.NumRows()) {
				s := sample{N: n.Value(i), Device: device(i), Time: time.Value(i).ToTime(arrow.Millisecond).UnixMilli()}
				if !speed.IsNull(i) {
					v := speed.Value(i)
					s.Speed = &v
				}
				sum.add(s)
			}
		}
		if r.Err() != nil {
			t.Fatal(r.Err())
		}
		sum.expect(rows)
		if schema := r.Schema(); schema.NumFields() != 4 || schema.Field(0).Name != "n" || schema.Field(2).Name != "speed" || !schema.Field(2).Nullable {
			t.Errorf("the schema is %s", schema)
		}
		r.Release()
	}
}

func TestParquet(t *testing.T) {
	b := newBench(t, Limits{}, engine.QueryLimits{})
	for _, rows := range []string{"0", "1", "200000"} {
		answer := []byte(b.text(Statement{Text: samples, Format: Parquet, Parameters: map[string]string{"rows": rows}}))
		f, err := parquet.OpenFile(bytes.NewReader(answer), int64(len(answer)))
		if err != nil {
			t.Fatal(err)
		}
		sum := check{t: t}
		r, batch := parquet.NewGenericReader[sample](f), make([]sample, 10_000)
		for err == nil {
			var n int
			n, err = r.Read(batch)
			for _, s := range batch[:n] {
				sum.add(s)
			}
		}
		if !errors.Is(err, io.EOF) {
			t.Fatal(err)
		}
		sum.expect(rows)
		if got, want := f.Schema(), parquet.SchemaOf(sample{}); !parquet.SameNodes(got, want) {
			t.Errorf("the schema is %s, not %s", got, want)
		}
	}
}

// A sample is a row of samples.
type sample struct {
	N      uint64   `parquet:"n"`
	Device string   `parquet:"device"`
	Speed  *float64 `parquet:"speed,optional"`
	Time   int64    `parquet:"time,timestamp(millisecond)"`
}

// A check adds up what the rows of samples hold.
type check struct {
	t     *testing.T
	rows  uint64
	nulls int
}

func (c *check) add(s sample) {
	c.t.Helper()
	want := c.rows
	c.rows++
	if s.N != want || s.Device != "car-"+string(rune('0'+want%3)) || s.Time != 1_795_428_000_000+int64(want) {
		c.t.Fatalf("row %d: %+v", want, s)
	}
	if (s.Speed == nil) != (want%7 == 0) || s.Speed != nil && *s.Speed != float64(want)/2 {
		c.t.Fatalf("row %d: speed %v", want, s.Speed)
	}
	if s.Speed == nil {
		c.nulls++
	}
}

func (c *check) expect(rows string) {
	c.t.Helper()
	want := map[string]uint64{"0": 0, "1": 1, "200000": 200_000}[rows]
	if c.rows != want || c.nulls != int(want+6)/7 {
		c.t.Errorf("%d rows, %d of them without a speed, want %d", c.rows, c.nulls, want)
	}
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
