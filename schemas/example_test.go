package schemas_test

import (
	"encoding/json"
	"fmt"
	"time"

	"github.com/apache/arrow/go/v15/arrow/memory"

	"github.com/tachograph/tachograph/schemas"
)

const brakes = `syntax = "proto3";
import "google/protobuf/timestamp.proto";

message Brakes {
  google.protobuf.Timestamp time = 1;
  optional float pressure = 2; // Main cylinder. @unit kPa
  repeated uint32 wear = 3;
}`

// A schema becomes the columns of a table.
func ExampleSchema_Columns() {
	s, _, err := schemas.NewRegistry().Add("brakes", schemas.Source{Format: schemas.FormatProto, Text: brakes})
	if err != nil {
		fmt.Println(err)
		return
	}
	for _, c := range s.Columns() {
		fmt.Println(c.Name, c.Type)
	}
	// Output:
	// time DateTime64(6, 'UTC')
	// pressure Nullable(Float32)
	// wear Array(UInt32)
	// _unknown String
}

// A message of several samples becomes as many rows. The one that is wrong is
// reported, its siblings stay.
func ExampleBatch_Append() {
	s, _, _ := schemas.NewRegistry().Add("brakes", schemas.Source{Format: schemas.FormatProto, Text: brakes})
	b := s.NewBatch(memory.DefaultAllocator)
	defer b.Release()

	rows, bad, err := b.Append([]byte(`[{"time":1700000000000,"pressure":812.5,"fluid":"DOT4"},{"pressure":"high"}]`), time.Now())
	fmt.Println(rows, err)
	fmt.Println(bad[0].Index, bad[0].Reason, string(bad[0].Bytes))

	rec := b.Record()
	defer rec.Release()
	for c := range int(rec.NumCols()) {
		if v, ok := schemas.Value(rec, c, 0); ok {
			text, _ := json.Marshal(v)
			fmt.Println(rec.ColumnName(c), string(text))
		}
	}
	// Output:
	// 1 <nil>
	// 1 wrong_type {"pressure":"high"}
	// time "2023-11-14T22:13:20Z"
	// pressure 812.5
	// wear []
	// _unknown {"fluid":"DOT4"}
	// _row 0
}

// A change that would make stored rows mean something else is refused, with
// every reason.
func ExampleRegistry_Add() {
	reg := schemas.NewRegistry()
	reg.Add("brakes", schemas.Source{Format: schemas.FormatProto, Text: brakes})
	_, _, err := reg.Add("brakes", schemas.Source{Format: schemas.FormatProto, Text: `syntax = "proto3";
message Brakes {
  optional float pressure = 2; // @unit bar
}`})
	fmt.Println(err)
	// Output:
	// schema brakes: incompatible change: field time: was removed: leave it in, or reserve its tag 1; field pressure: unit was kPa, is bar: stored rows would mean something else; field wear: was removed: leave it in, or reserve its tag 3
}
