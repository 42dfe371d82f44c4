package schemas_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/apache/arrow/go/v15/arrow/memory"

	"github.com/tachograph/tachograph/schemas"
)

// TestInvalidSources pins what is said about sources that are no schema.
func TestInvalidSources(t *testing.T) {
	deep := func(n int) string {
		var b strings.Builder
		for i := range n {
			fmt.Fprintf(&b, "message M%d { M%d m = 1; }\n", i, i+1)
		}
		fmt.Fprintf(&b, "message M%d { optional int32 x = 1; }\n", n)
		return b.String()
	}
	for _, c := range []struct {
		name string
		src  schemas.Source
		want string
	}{
		{"format", schemas.Source{Format: "avro", Text: "x"}, `format "avro"`},
		{"too large", schemas.Source{Format: schemas.FormatProto, Text: strings.Repeat(" ", 256<<10+1)}, "source has 262145 bytes"},
		{"empty", schemas.Source{Format: schemas.FormatProto}, "declares no message"},
		{"syntax", schemas.Source{Format: schemas.FormatProto, Text: "syntax = \"proto3\";\nmessage A {\n  int32 x = ;\n}"}, "3:13: syntax error"},
		{"unknown type", message("Nowhere n = 1;"), "unknown type Nowhere"},
		{"import", schemas.Source{Format: schemas.FormatProto, Text: `syntax = "proto3"; import "other.proto"; message A { int32 x = 1; }`}, "only google/protobuf/*.proto can be imported"},
		{"recursion", protoFile("message A { B b = 1; } message B { A a = 1; }"), "is recursive"},
		{"recursion in a list", protoFile("message A { repeated A a = 1; optional int32 x = 2; }"), "is recursive"},
		{"recursion in a map", protoFile("message A { map<string, B> b = 1; } message B { map<string, A> a = 1; }"), "is recursive"},
		{"depth", protoFile(deep(20)), "is nested more than 16 levels deep"},
		{"several roots", protoFile("message A { optional int32 x = 1; } message B { optional int32 x = 1; }"), "several messages could be the sample, name one as root: A, B"},
		{"no such root", schemas.Source{Format: schemas.FormatProto, Text: `syntax = "proto3"; message A { int32 x = 1; }`, Root: "B"}, "root message B is not in the file"},
		{"empty message", protoFile("message A {}"), "has no fields"},
		{"any", schemas.Source{Format: schemas.FormatProto, Text: `syntax = "proto3"; import "google/protobuf/any.proto"; message A { google.protobuf.Any x = 1; }`}, "google.protobuf.Any is not supported"},
		{"long name", protoFile("message A { optional E e = 1; } enum E { " + strings.Repeat("A", 129) + " = 0; }"), "has 129 bytes, at most 128 are taken"},
		{"proto2 required", schemas.Source{Format: schemas.FormatProto, Text: `syntax = "proto2"; message A { required int32 x = 1; }`}, "required is not supported"},
		{"proto2 group", schemas.Source{Format: schemas.FormatProto, Text: `syntax = "proto2"; message A { optional group G = 1 { optional int32 x = 1; } }`}, "groups are not supported"},
		{"collision", protoFile("message A { B b = 1; optional int32 b_x = 2; } message B { optional int32 x = 1; }"), "field b_x: column b_x is already that of field b.x"},
		{"device", message("optional string device = 1;"), "column device is reserved"},
		{"underscore", message("optional string _x = 1;"), "column _x is reserved"},
		{"time", message("optional int64 time = 1;"), "make it a google.protobuf.Timestamp, or name its time unit"},
		{"time unit", message("optional int64 t = 1; // @time-unit fortnight"), `time unit "fortnight" is not one of`},
		{"batch tag", protoFile("message A { optional int32 x = 1; } message ABatch { repeated A samples = 1; }"), "a batch could not be told from a sample"},

		{"not JSON", schemas.Source{Format: schemas.FormatJSONSchema, Text: "{\n \"a\": }"}, "2:"},
		{"two documents", schemas.Source{Format: schemas.FormatJSONSchema, Text: "{} {}"}, "text after the document"},
		{"key twice", schemas.Source{Format: schemas.FormatJSONSchema, Text: `{"type":"object","type":"object"}`}, `key "type" stands twice`},
		{"not a schema", schemas.Source{Format: schemas.FormatJSONSchema, Text: `{"type":"thing"}`}, "type"},
		{"no object", schemas.Source{Format: schemas.FormatJSONSchema, Text: `{"type":"string"}`}, "is not an object with properties"},
		{"no properties", schemas.Source{Format: schemas.FormatJSONSchema, Text: `{"type":"object"}`}, "is not an object with properties"},
		{"two types", jsonSchema(`"a":{"type":["string","number"]}`), "field a: type string, number: a column has one type"},
		{"any of", jsonSchema(`"a":{"anyOf":[{"type":"string"},{"type":"number"}]}`), "field a: anyOf: a column has one type"},
		{"keyword", jsonSchema(`"a":{"type":"string","pattern":"x"}`), "field a: keyword pattern is not supported here"},
		{"remote", jsonSchema(`"a":{"$ref":"https://example.com/x.json"}`), "only #/... can be referred to"},
		{"dangling", jsonSchema(`"a":{"$ref":"#/$defs/nothing"}`), "nothing"},
		{"json recursion", jsonSchema(`"a":{"$ref":"#/$defs/n"}`, `,"$defs":{"n":{"type":"object","properties":{"n":{"$ref":"#/$defs/n"}}}}`), "$ref #/$defs/n is recursive"},
		{"self", jsonSchema(`"a":{"$ref":"#"}`), "recursive"},
		{"required what", jsonSchema(`"a":{"type":"string"}`, `,"required":["b"]`), "required field b is not among the properties"},
		{"enum of numbers", jsonSchema(`"a":{"enum":[1,2]}`), "only strings are supported"},
		{"impossible", jsonSchema(`"a":{"type":"number","minimum":2,"maximum":1}`), "no number is between 2 and 1"},
		{"json collision", jsonSchema(`"a-b":{"type":"string"},"a_b":{"type":"string"}`), "column a_b is already that of field a-b"},
		{"json device", jsonSchema(`"device":{"type":"string"}`), "column device is reserved"},
		{"json time", jsonSchema(`"time":{"type":"string"}`), "field time"},
		{"many columns", jsonSchema(strings.Join(numbered(`"c%d":{"type":"string"}`, 1001), ",")), "is one too many, at most 1000 are taken"},
		{"false", jsonSchema(`"a":false`), "field a: admits no value"},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := schemas.NewRegistry().Check("sample", c.src)
			var invalid *schemas.InvalidError
			if !errors.As(err, &invalid) || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, want %q", err, c.want)
			}
		})
	}
}

// TestJSONSchemaTypes pins the type that follows from a JSON Schema.
func TestJSONSchemaTypes(t *testing.T) {
	for text, want := range map[string]string{
		`{"type":"integer"}`:                                         "Nullable(Int64)",
		`{"type":"integer","minimum":0}`:                             "Nullable(UInt64)",
		`{"type":"integer","minimum":0,"maximum":255}`:               "Nullable(UInt8)",
		`{"type":"integer","minimum":0,"maximum":256}`:               "Nullable(UInt16)",
		`{"type":"integer","exclusiveMinimum":-1,"maximum":10}`:      "Nullable(Int8)",
		`{"type":"integer","minimum":-40000,"maximum":1}`:            "Nullable(Int32)",
		`{"type":"integer","format":"int32"}`:                        "Nullable(Int32)",
		`{"type":"number"}`:                                          "Nullable(Float64)",
		`{"type":"number","format":"float"}`:                         "Nullable(Float32)",
		`{"type":["number","null"]}`:                                 "Nullable(Float64)",
		`{"anyOf":[{"type":"number"},{"type":"null"}]}`:              "Nullable(Float64)",
		`{"type":"boolean"}`:                                         "Nullable(Bool)",
		`{"type":"string"}`:                                          "Nullable(String)",
		`{"type":"string","format":"uuid"}`:                          "Nullable(String)",
		`{"type":"string","format":"date-time"}`:                     "Nullable(DateTime64(6, 'UTC'))",
		`{"type":"integer","x-time-unit":"ns"}`:                      "Nullable(DateTime64(6, 'UTC'))",
		`{"enum":["a","b"]}`:                                         "LowCardinality(Nullable(String))",
		`{"const":"a"}`:                                              "LowCardinality(Nullable(String))",
		`{"type":"array","items":{"type":"number"}}`:                 "Array(Float64)",
		`{"type":"array","items":{"enum":["a"]}}`:                    "Array(LowCardinality(String))",
		`{"type":"array","items":{"type":["number","null"]}}`:        "Nullable(String)",
		`{"type":"array"}`:                                           "Nullable(String)",
		`{"type":"array","items":{"type":"array"}}`:                  "Nullable(String)",
		`{"type":"object"}`:                                          "Nullable(String)",
		`{"type":"object","additionalProperties":{"type":"number"}}`: "Map(String, Float64)",
		`{"type":"object","additionalProperties":false}`:             "Nullable(String)",
		`true`: "Nullable(String)",
		`{}`:   "Nullable(String)",
		`{"$ref":"#/$defs/x","description":"ours","x-unit":"m"}`: "Nullable(Float32)",
	} {
		s, _, err := schemas.NewRegistry().Add("sample", jsonSchema(`"a":`+text, `,"$defs":{"x":{"type":"number","format":"float","description":"theirs"}}`))
		if err != nil {
			t.Errorf("%s: %v", text, err)
			continue
		}
		if c := s.Columns()[1]; c.Name != "a" || c.Type != want {
			t.Errorf("%s is %s, want %s", text, c.Type, want)
		}
		if strings.Contains(text, "ours") && s.Columns()[1].Comment != "ours [m]" {
			t.Errorf("comment is %q", s.Columns()[1].Comment)
		}
	}
}

// FuzzSource checks that no text hurts the compilers, and that what they take
// can be decoded by.
func FuzzSource(f *testing.F) {
	f.Add(everythingProto)
	f.Add(everythingJSON)
	f.Add(brakes)
	f.Add(`{"type":"object","properties":{"a":{"$ref":"#/$defs/a"}},"$defs":{"a":{"type":["integer","null"],"minimum":1}}}`)
	f.Add(`syntax = "proto2"; message A { optional int32 x = 1 [default = 5]; extensions 100 to 200; }`)
	f.Add(`edition = "2023"; message A { int32 x = 1; message B { int32 y = 1 [features.message_encoding = DELIMITED]; } B b = 2 [features.message_encoding = DELIMITED]; }`)
	f.Fuzz(func(t *testing.T, text string) {
		for _, format := range []schemas.Format{schemas.FormatProto, schemas.FormatJSONSchema} {
			reg := schemas.NewRegistry()
			s, _, err := reg.Add("sample", schemas.Source{Format: format, Text: text})
			if err != nil {
				var invalid *schemas.InvalidError
				if !errors.As(err, &invalid) {
					t.Fatalf("error is %T: %v", err, err)
				}
				continue
			}
			if _, err := reg.Check("sample", schemas.Source{Format: format, Text: text + " "}); err != nil {
				t.Fatalf("the same again is refused: %v", err)
			}
			b := s.NewBatch(memory.DefaultAllocator)
			b.Append([]byte(`{"a":1,"x":2}`), arrival)
			b.Append([]byte("\x08\x01\x12\x02\x08\x01"), arrival)
			b.Record().Release()
			b.Release()
		}
	})
}
