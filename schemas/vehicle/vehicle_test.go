package vehicle_test

import (
	"testing"
	"time"

	"github.com/apache/arrow/go/v15/arrow/memory"

	"github.com/tachograph/tachograph/schemas"
	"github.com/tachograph/tachograph/schemas/vehicle"
)

func TestFirst(t *testing.T) {
	reg := schemas.NewRegistry()
	for _, n := range vehicle.Schemas() {
		s, changed, err := reg.Add(n.Name, n.Source)
		if err != nil || !changed {
			t.Fatal(n.Name, changed, err)
		}
		for _, c := range s.Columns() {
			t.Logf("%s %+v", n.Name, c)
		}
	}
	s, _ := reg.Current("position")
	b := s.NewBatch(memory.DefaultAllocator)
	rows, bad, err := b.Append([]byte(`[{"time":1700000000123,"latitude":52.520008,"longitude":13.404954,"speed":48.5,"is_moving":true,"fix_type":"THREE_D","foo":{"a":[1,2]}},{"latitude":"x"},{"speed":NaN},{"horizontalAccuracy":3.5}]`), time.Now())
	t.Log(rows, bad, err)
	rec := b.Record()
	t.Log(rec)
	rec.Release()
}
