package schemas_test

import (
	"encoding/json"
	"testing"
	"time"

	"github.com/apache/arrow/go/v15/arrow/memory"
	"google.golang.org/protobuf/encoding/protowire"

	"github.com/tachograph/tachograph/schemas"
	"github.com/tachograph/tachograph/schemas/vehicle"
)

// positionJSON is one message of 8 fields in 157 bytes.
const positionJSON = `{"time":1700000000123,"latitude":52.520008,"longitude":13.404954,"altitude":34.5,` +
	`"heading":271.3,"speed":48.25,"horizontal_accuracy":3.5,"is_moving":true}`

// positionProto is the same message.
var positionProto = func() []byte {
	ts := protowire.AppendVarint(protowire.AppendTag(nil, 1, protowire.VarintType), 1700000000)
	ts = protowire.AppendVarint(protowire.AppendTag(ts, 2, protowire.VarintType), 123000000)
	b := protowire.AppendBytes(protowire.AppendTag(nil, 1, protowire.BytesType), ts)
	for i, f := range []uint64{0x404a428f9f44d446, 0x402acf5617a0b6e5, 0x4041400000000000, 0x4070f4cccccccccd} {
		b = protowire.AppendFixed64(protowire.AppendTag(b, protowire.Number(i+2), protowire.Fixed64Type), f)
	}
	b = protowire.AppendFixed32(protowire.AppendTag(b, 6, protowire.Fixed32Type), 0x42410000)
	b = protowire.AppendFixed64(protowire.AppendTag(b, 7, protowire.Fixed64Type), 0x400c000000000000)
	return protowire.AppendVarint(protowire.AppendTag(b, 8, protowire.VarintType), 1)
}()

func vehicleSchema(tb testing.TB, name string) *schemas.Schema {
	tb.Helper()
	reg := schemas.NewRegistry()
	for _, n := range vehicle.Schemas() {
		if n.Name == name {
			s, _, err := reg.Add(n.Name, n.Source)
			if err != nil {
				tb.Fatal(err)
			}
			return s
		}
	}
	tb.Fatalf("no schema %s", name)
	return nil
}

func benchmarkAppend(b *testing.B, payload []byte) {
	s := vehicleSchema(b, "position")
	batch := s.NewBatch(memory.DefaultAllocator)
	now := time.Now()
	b.SetBytes(int64(len(payload)))
	b.ReportAllocs()
	for b.Loop() {
		if rows, _, err := batch.Append(payload, now); rows != 1 || err != nil {
			b.Fatal(rows, err)
		}
		if batch.Rows() == 8192 {
			batch.Record().Release()
		}
	}
}

func BenchmarkAppendJSON(b *testing.B)  { benchmarkAppend(b, []byte(positionJSON)) }
func BenchmarkAppendProto(b *testing.B) { benchmarkAppend(b, positionProto) }

func benchmarkCheck(b *testing.B, payload []byte) {
	c := vehicleSchema(b, "position").NewChecker()
	b.SetBytes(int64(len(payload)))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := c.Check(payload); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkCheckJSON(b *testing.B)  { benchmarkCheck(b, []byte(positionJSON)) }
func BenchmarkCheckProto(b *testing.B) { benchmarkCheck(b, positionProto) }

// BenchmarkEncodingJSON is what the standard library needs to read the same
// message into a struct, without any column.
func BenchmarkEncodingJSON(b *testing.B) {
	var p struct {
		Time               int64   `json:"time"`
		Latitude           float64 `json:"latitude"`
		Longitude          float64 `json:"longitude"`
		Altitude           float64 `json:"altitude"`
		Heading            float64 `json:"heading"`
		Speed              float32 `json:"speed"`
		HorizontalAccuracy float64 `json:"horizontal_accuracy"`
		IsMoving           bool    `json:"is_moving"`
	}
	b.SetBytes(int64(len(positionJSON)))
	b.ReportAllocs()
	for b.Loop() {
		if err := json.Unmarshal([]byte(positionJSON), &p); err != nil {
			b.Fatal(err)
		}
	}
}

// TestAllocations holds the hot path to its budget: nothing per message, once
// the columns have room.
func TestAllocations(t *testing.T) {
	s := vehicleSchema(t, "position")
	batch := s.NewBatch(memory.DefaultAllocator)
	checker := s.NewChecker()
	now := time.Now()
	for name, payload := range map[string][]byte{
		"json":         []byte(positionJSON),
		"protobuf":     positionProto,
		"json batch":   []byte(`[` + positionJSON + `,` + positionJSON + `]`),
		"unknown json": []byte(`{"latitude":1.5,"route_id":"r1","engine":{"x":[1,2,{"y":"z"}]},"fix_type":"a\nb"}`),
		"unknown wire": append(append([]byte{}, positionProto...), 0xf8, 0x07, 0x01, 0xf2, 0x07, 0x02, 'h', 'i'),
	} {
		for range 20000 {
			if _, _, err := batch.Append(payload, now); err != nil {
				t.Fatal(err)
			}
		}
		batch.Record().Release()
		if n := testing.AllocsPerRun(1000, func() { batch.Append(payload, now) }); n > 0.1 {
			t.Errorf("append %s: %v allocations", name, n)
		}
		if n := testing.AllocsPerRun(1000, func() { checker.Check(payload) }); n > 0 {
			t.Errorf("check %s: %v allocations", name, n)
		}
	}
}
