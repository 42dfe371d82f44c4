package columnar

import (
	"testing"

	"google.golang.org/protobuf/encoding/protowire"

	"github.com/tachograph/tachograph/schemas"
)

// TestEveryKind sends a value of every kind there is, as JSON and as protobuf,
// and reads it back from ClickHouse.
func TestEveryKind(t *testing.T) {
	b := newBench(t)
	source := `syntax = "proto3";
		import "google/protobuf/timestamp.proto";
		enum Gear { PARK = 0; DRIVE = 1; }
		message Part { optional string name = 1; }
		message Everything {
			google.protobuf.Timestamp time = 1;
			optional bool flag = 2;
			optional int32 i32 = 3; optional int64 i64 = 4; optional uint32 u32 = 5; optional uint64 u64 = 6;
			optional sint64 s64 = 7; optional fixed32 f32 = 8; optional sfixed64 sf64 = 9;
			optional float small = 10; optional double large = 11;
			optional string label = 12; optional bytes blob = 13;
			optional Gear gear = 14; optional google.protobuf.Timestamp seen = 15;
			optional Part part = 16; repeated Part parts = 17;
			repeated int32 numbers = 18; repeated string words = 19; repeated Gear gears = 20;
			map<string, double> pressures = 21; map<int32, string> names = 22;
			int32 plain = 23; Gear plain_gear = 24; repeated bool flags = 25;
		}`
	s, _, err := b.catalog.Add(t.Context(), "everything", schemas.Source{Format: schemas.FormatProto, Text: source, Root: "Everything"})
	if err != nil {
		t.Fatal(err)
	}
	w, stop := b.start(0, nil)
	b.send("car", "everything", `{"time":1700000000123,"flag":true,"i32":-2147483648,"i64":"-9223372036854775808","u32":4294967295,"u64":"18446744073709551615",
		"s64":-5,"f32":7,"sf64":-8,"small":1.5,"large":1e300,"label":"Zürich \"a\"","blob":"AP8=","gear":"DRIVE","seen":"2024-02-29T12:00:00.000001Z",
		"part":{"name":"axle"},"parts":[{"name":"a"},{"name":"b"}],"numbers":[1,-2],"words":["x",""],"gears":["PARK","DRIVE"],
		"pressures":{"fl":2.5,"fr":2.25},"names":{"-1":"minus"},"plain":3,"plain_gear":"DRIVE","flags":[true,false]}`)
	b.send("car", "everything", `{"time":1700000000124}`)
	wire := protowire.AppendTag(nil, 3, protowire.VarintType)
	wire = protowire.AppendVarint(wire, 42)
	wire = protowire.AppendBytes(protowire.AppendTag(wire, 12, protowire.BytesType), []byte("wire"))
	wire = protowire.AppendVarint(protowire.AppendTag(wire, 14, protowire.VarintType), 9) // no such gear
	b.send("car", "everything", string(wire))
	b.await(w)
	b.expect("SELECT count() FROM tacho.dead_letters", "(0)")
	b.expect(`SELECT flag, i32, i64, u32, u64, s64, f32, sf64, small, large, label, hex(blob), gear, toString(seen), part_name, parts,
		numbers, words, gears, pressures, names, plain, plain_gear, flags FROM tacho.everything WHERE _seq = 1`,
		`(true,-2147483648,-9223372036854775808,4294967295,18446744073709551615,-5,7,-8,1.5,1e300,'Zürich "a"','00FF','DRIVE','2024-02-29 12:00:00.000001','axle',`+
			`'[{"name":"a"},{"name":"b"}]',[1,-2],['x',''],['PARK','DRIVE'],{'fl':2.5,'fr':2.25},{-1:'minus'},3,'DRIVE',[true,false])`)
	b.expect("SELECT flag, i32, large, label, blob, gear, seen, part_name, numbers, pressures, plain, plain_gear FROM tacho.everything WHERE _seq = 2",
		"(NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,[],{},0,'PARK')")
	b.expect("SELECT i32, label, gear, time = received FROM tacho.everything WHERE _seq = 3", "(42,'wire','9',1)")
	b.expect("SELECT count() FROM system.columns WHERE database = 'tacho' AND table = 'everything' AND type LIKE 'Nullable%'", "(15)")
	if n := len(s.Columns()) + len(metaColumns); n != 33 {
		t.Errorf("%d columns", n)
	}
	if err := stop(); err != nil {
		t.Fatal(err)
	}
}
