package schemas_test

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/tachograph/tachograph/schemas"
)

func protoFile(body string) schemas.Source {
	return schemas.Source{Format: schemas.FormatProto, Text: "syntax = \"proto3\";\nimport \"google/protobuf/timestamp.proto\";\n" + body}
}

func message(fields string) schemas.Source {
	return protoFile("message Sample {\n" + fields + "\n}\n")
}

func jsonSchema(properties string, more ...string) schemas.Source {
	return schemas.Source{Format: schemas.FormatJSONSchema, Text: `{"type":"object","properties":{` + properties + `}` + strings.Join(more, "") + `}`}
}

// TestEvolution adds a second source after a first and looks at the reasons, or
// at the changes to the table.
func TestEvolution(t *testing.T) {
	for _, c := range []struct {
		name    string
		a, b    schemas.Source
		changes string // "op column type" joined by ", "
		reasons []string
	}{
		{"add optional", message("optional double a = 1;"), message("optional double a = 1; optional string b = 2;"), "add b Nullable(String) after a", nil},
		{"add list and map", message("optional double a = 1;"), message("optional double a = 1; repeated int32 b = 2; map<string, double> c = 3;"),
			"add b Array(Int32) after a, add c Map(String, Float64) after b", nil},
		{"add in the middle", message("optional double a = 1; optional double z = 9;"), message("optional double a = 1; optional string b = 2; optional double z = 9;"), "add b Nullable(String) after a", nil},
		{"add implicit", message("optional double a = 1;"), message("optional double a = 1; double b = 2;"), "", []string{"field b: a new field must be optional"}},
		{"add nested", message("optional double a = 1;"), protoFile("message Sample { optional double a = 1; Sub s = 2; } message Sub { optional bool x = 1; Timestamp2 t = 2; } message Timestamp2 { optional uint64 ms = 1; }"),
			"add s_x Nullable(Bool) after a, add s_t_ms Nullable(UInt64) after s_x", nil},
		{"widen int", message("optional int32 a = 1;"), message("optional int64 a = 1;"), "modify a Nullable(Int64)", nil},
		{"widen sint", message("optional sint32 a = 1;"), message("optional sint64 a = 1;"), "modify a Nullable(Int64)", nil},
		{"widen uint into int", message("optional uint32 a = 1;"), message("optional int64 a = 1;"), "modify a Nullable(Int64)", nil},
		{"widen float", message("optional float a = 1;"), message("optional double a = 1;"), "modify a Nullable(Float64)", nil},
		{"implicit becomes optional", message("double a = 1;"), message("optional double a = 1;"), "modify a Nullable(Float64)", nil},
		{"optional becomes implicit", message("optional double a = 1;"), message("double a = 1;"), "", []string{"field a: was optional, is not"}},
		{"fixed width changes", message("optional fixed32 a = 1;"), message("optional fixed64 a = 1;"), "", []string{"field a: was uint32 (32 bits), is uint64 (64 bits)"}},
		{"zigzag changes", message("optional int32 a = 1;"), message("optional sint32 a = 1;"), "", []string{"field a: was int32, is int32 (zigzag)"}},
		{"narrow", message("optional int64 a = 1;"), message("optional int32 a = 1;"), "", []string{"field a: was int64, is int32"}},
		{"list of floats", message("repeated float a = 1;"), message("repeated double a = 1;"), "", []string{"field a: was list of float32, is list of float64"}},
		{"type and list", message("optional int64 a = 1; optional string b = 2;"), message("optional string a = 1; repeated string b = 2;"), "",
			[]string{"field a: was int64, is string", "field b: was string, is list of string"}},
		{"removed", message("optional int64 a = 1; optional string b = 2;"), message("optional string b = 2;"), "", []string{"field a: was removed: leave it in, or reserve its tag 1"}},
		{"retired", message("optional int64 a = 1; optional string b = 2;"), message("reserved 1; optional string b = 2;"), "", nil},
		{"renamed", message("optional int64 a = 1;"), message("optional int64 better = 1;"), "", nil},
		{"tag used for another", message("optional int64 a = 1; optional double b = 2;"), message("optional double b = 1;"), "",
			[]string{"field b: was int64, is float64", "field b: was removed"}},
		{"unit", message("optional float a = 1; // @unit km/h"), message("optional float a = 1; // @unit m/s"), "", []string{"field a: unit was km/h, is m/s"}},
		{"unit named", message("optional float a = 1;"), message("optional float a = 1; // @unit m/s"), "comment a Nullable(Float32)", nil},
		{"time unit", message("optional int64 t = 1; // @time-unit s"), message("optional int64 t = 1; // @time-unit ms"), "", []string{"field t: time unit was s, is ms"}},
		{"enum grows", protoFile("message S { optional E e = 1; } enum E { A = 0; }"), protoFile("message S { optional E e = 1; } enum E { A = 0; B = 1; }"), "", nil},
		{"enum changes", protoFile("message S { optional E e = 1; } enum E { A = 0; B = 1; C = 2; }"), protoFile("message S { optional E e = 1; } enum E { A = 0; X = 1; }"), "",
			[]string{"field e: value 1 was B, is X", "field e: value C = 2 was removed"}},
		{"message to scalar", protoFile("message S { M m = 1; } message M { optional int32 x = 1; }"), message("optional int32 m = 1;"), "", []string{"field m: was object, is int32"}},
		{"into a oneof", message("optional int32 a = 1;"), message("oneof x { int32 a = 1; }"), "", []string{"field a: was moved into a oneof"}},
		{"batch tag", message("optional int32 a = 1;"), message("optional int32 a = 1; optional int32 b = 15;"), "", []string{"samples of a batch had tag 15, have none"}},
		{"format", message("optional int32 a = 1;"), jsonSchema(`"a":{"type":"integer"}`), "", []string{"format was proto, is json-schema"}},

		{"json add", jsonSchema(`"a":{"type":"number"}`), jsonSchema(`"a":{"type":"number"},"b":{"type":"string"}`), "add b Nullable(String) after a", nil},
		{"json add required", jsonSchema(`"a":{"type":"number"}`), jsonSchema(`"a":{"type":"number"},"b":{"type":"string"}`, `,"required":["b"]`), "", []string{"field b: a new field cannot be required"}},
		{"json made required", jsonSchema(`"a":{"type":"number"}`), jsonSchema(`"a":{"type":"number"}`, `,"required":["a"]`), "", []string{"field a: was optional, is required"}},
		{"json no longer required", jsonSchema(`"a":{"type":"number"}`, `,"required":["a"]`), jsonSchema(`"a":{"type":"number"}`), "modify a Nullable(Float64)", nil},
		{"json removed", jsonSchema(`"a":{"type":"number"},"b":{"type":"string"}`), jsonSchema(`"a":{"type":"number"}`), "", []string{"field b: was removed: leave it in, marked deprecated"}},
		{"json renamed", jsonSchema(`"a":{"type":"number"}`), jsonSchema(`"better":{"type":"number","x-renamed-from":"a"}`), "", nil},
		{"json wider", jsonSchema(`"a":{"type":"integer","minimum":0,"maximum":100}`), jsonSchema(`"a":{"type":"integer","minimum":0,"maximum":1000}`), "modify a Nullable(UInt16)", nil},
		{"json enum", jsonSchema(`"a":{"enum":["x","y"]}`), jsonSchema(`"a":{"enum":["x","z"]}`), "", []string{`field a: value "y" was removed`}},
		{"several reasons", jsonSchema(`"a":{"type":"number"},"b":{"type":"string"},"c":{"type":"boolean"}`), jsonSchema(`"a":{"type":"string"},"b":{"type":"string"}`, `,"required":["b"]`), "",
			[]string{"field a: was float64, is string", "field b: was optional, is required", "field c: was removed"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			reg := schemas.NewRegistry()
			first, _, err := reg.Add("sample", c.a)
			if err != nil {
				t.Fatal(err)
			}
			second, changed, err := reg.Add("sample", c.b)
			if c.reasons != nil {
				var incompatible *schemas.IncompatibleError
				if !errors.As(err, &incompatible) || len(incompatible.Reasons) != len(c.reasons) {
					t.Fatalf("got %v, want %d reasons", err, len(c.reasons))
				}
				for i, want := range c.reasons {
					if !strings.HasPrefix(incompatible.Reasons[i], want) {
						t.Errorf("reason %d is %q, want %q", i, incompatible.Reasons[i], want)
					}
				}
				if now, _ := reg.Current("sample"); now != first {
					t.Error("a refused source became the current one")
				}
				return
			}
			if err != nil || !changed || second.Version() != 2 {
				t.Fatalf("add: %v, changed %v", err, changed)
			}
			var got []string
			for _, ch := range schemas.Diff(first, second) {
				line := fmt.Sprintf("%s %s %s", ch.Op, ch.Column.Name, ch.Column.Type)
				if ch.Op == schemas.AddColumn {
					line += " after " + ch.After
				}
				got = append(got, line)
			}
			if s := strings.Join(got, ", "); s != c.changes {
				t.Errorf("changes are %q, want %q", s, c.changes)
			}
			if back := schemas.Diff(second, second); len(back) != 0 {
				t.Errorf("a schema differs from itself: %v", back)
			}
		})
	}
}

func TestRegistry(t *testing.T) {
	reg := schemas.NewRegistry()
	a, changed, err := reg.Add("beta", message("optional int32 a = 1;"))
	if err != nil || !changed || a.Version() != 1 || a.Name() != "beta" {
		t.Fatal(a, changed, err)
	}
	again, changed, err := reg.Add("beta", message("optional int32 a = 1;"))
	if err != nil || changed || again != a {
		t.Error("the identical source made a new version")
	}
	if checked, err := reg.Check("beta", message("optional int32 a = 1; optional int32 b = 2;")); err != nil || checked.Version() != 2 {
		t.Error("check:", checked, err)
	}
	if _, _, err := reg.Add("alpha", message("optional int32 a = 1;")); err != nil {
		t.Error(err)
	}
	if all := reg.All(); len(all) != 2 || all[0].Name() != "alpha" || all[1] != a {
		t.Errorf("all is %v", all)
	}
	if v, ok := reg.Version("beta", 1); !ok || v != a {
		t.Error("version 1 is not there")
	}
	for _, v := range []uint32{0, 2} {
		if _, ok := reg.Version("beta", v); ok {
			t.Errorf("version %d is there", v)
		}
	}
	for _, name := range []string{"", "Events", "events", "1a", "a-b", "a.b", "latest", "dead_letters", "position_1m", strings.Repeat("a", 64)} {
		if _, _, err := reg.Add(name, message("optional int32 a = 1;")); err == nil {
			t.Errorf("name %q was taken", name)
		}
	}
}

// TestRenamedAndRetired checks that old firmware is still understood.
func TestRenamedAndRetired(t *testing.T) {
	reg := schemas.NewRegistry()
	for _, src := range []schemas.Source{
		message("optional int64 a = 1; optional string b = 2;"),
		message("optional int64 better = 1; reserved 2;"),
		message("optional int64 best = 1; reserved 2;"),
	} {
		if _, _, err := reg.Add("sample", src); err != nil {
			t.Fatal(err)
		}
	}
	s, _ := reg.Current("sample")
	for _, payload := range []string{`{"a":7,"b":"x"}`, `{"better":7,"b":"x"}`, `{"best":7,"b":"x"}`, "\x08\x07\x12\x01x"} {
		rows := decode(t, s, payload)
		if len(rows) != 1 || rows[0]["a"] != int64(7) || rows[0]["b"] != "x" {
			t.Errorf("%q is %v", payload, rows)
		}
	}
	if i := slices.IndexFunc(s.Fields(), func(f schemas.Field) bool { return f.Retired }); i < 0 || s.Fields()[i].Column != "b" {
		t.Errorf("b is not marked as retired: %v", s.Fields())
	}
	_, _, err := reg.Add("sample", message("optional int64 best = 1; optional string other = 2;"))
	if err == nil || !strings.Contains(err.Error(), "tag 2 was that of b") {
		t.Errorf("a retired tag was used again: %v", err)
	}
}

// TestWidenedFloat checks that the float of old firmware goes into the double.
func TestWidenedFloat(t *testing.T) {
	reg := schemas.NewRegistry()
	reg.Add("sample", message("optional float a = 1;"))
	s, _, err := reg.Add("sample", message("optional double a = 1;"))
	if err != nil {
		t.Fatal(err)
	}
	for _, payload := range []string{"\x0d\x00\x00\xc0\x3f", "\x09\x00\x00\x00\x00\x00\x00\xf8\x3f", `{"a":1.5}`} {
		if rows := decode(t, s, payload); len(rows) != 1 || rows[0]["a"] != 1.5 {
			t.Errorf("%q is %v", payload, rows)
		}
	}
}
