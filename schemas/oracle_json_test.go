package schemas_test

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"math/big"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/apache/arrow/go/v15/arrow/memory"

	"github.com/tachograph/tachograph/schemas"
)

// everythingProto has every kind of field that a .proto can have.
const everythingProto = `syntax = "proto3";
import "google/protobuf/timestamp.proto";
import "google/protobuf/duration.proto";
import "google/protobuf/struct.proto";
import "google/protobuf/wrappers.proto";
message Everything {
  google.protobuf.Timestamp time = 1;
  optional double f64 = 2;
  optional float f32 = 3;
  int32 i32 = 4;
  optional sint32 s32 = 5;
  optional fixed32 u32 = 6;
  optional sfixed64 i64 = 7;
  uint64 u64 = 8;
  optional bool flag = 9;
  optional string text = 10;
  bytes raw = 11;
  Gear gear = 12;
  optional Gear best_gear = 13;
  Engine engine = 14;
  repeated double list = 16;
  repeated string names = 17;
  repeated Gear gears = 18;
  map<string, double> readings = 19;
  map<int32, Gear> shifts = 20;
  repeated Engine engines = 21;
  map<string, Engine> by_name = 22;
  google.protobuf.Struct free = 23;
  google.protobuf.Duration took = 24;
  google.protobuf.DoubleValue wrapped = 25;
  oneof choice {
    string one = 26;
    Engine other = 27;
    int64 third = 28;
  }
  int64 stamp = 29; // @time-unit s
  repeated google.protobuf.Timestamp stamps = 30;
  repeated sint64 packed = 31;
  optional bool last = 32;
}
message Engine {
  optional float rpm = 1; // @unit rpm
  optional Gear gear = 2;
  repeated int32 codes = 3;
  google.protobuf.Timestamp at = 4;
}
enum Gear {
  PARK = 0;
  DRIVE = 1;
  REVERSE = 2;
}`

// everythingJSON has every kind of field that a JSON Schema can have.
const everythingJSON = `{
  "$schema": "https://json-schema.org/draft/2020-12/schema",
  "type": "object",
  "required": ["id"],
  "properties": {
    "id": {"type": "string"},
    "f64": {"type": "number"},
    "part": {"type": "number", "minimum": 0, "exclusiveMaximum": 1},
    "f32": {"type": "number", "format": "float"},
    "i64": {"type": "integer"},
    "u8": {"type": "integer", "minimum": 0, "maximum": 250},
    "i16": {"type": "integer", "minimum": -1000, "maximum": 1000},
    "u64": {"type": "integer", "minimum": 0},
    "flag": {"type": "boolean"},
    "state": {"enum": ["on", "off", "ünknown"]},
    "at": {"type": "string", "format": "date-time"},
    "at_s": {"type": "integer", "x-time-unit": "s"},
    "at_us": {"type": "number", "x-time-unit": "us"},
    "engine": {"$ref": "#/$defs/engine"},
    "list": {"type": "array", "items": {"type": "integer"}},
    "names": {"type": "array", "items": {"type": "string"}},
    "readings": {"type": "object", "additionalProperties": {"type": "number"}},
    "free": {"type": "object"},
    "any": true,
    "engines": {"type": "array", "items": {"$ref": "#/$defs/engine"}},
    "maybe": {"type": ["number", "null"]}
  },
  "$defs": {"engine": {"type": "object", "properties": {"rpm": {"type": "number"}, "on": {"type": "boolean"}}}}
}`

// A want is what the oracle knows of a field; it is written by hand, not taken
// from the package under test.
type want struct {
	kind     string // f64 f32 i8..u64 bool string bytes enum time duration json object
	list     bool
	dict     string // kind of the keys
	zero     any    // what a missing field is; nil: NULL
	required bool
	proto    bool // strings hold numbers
	unit     string
	low      *float64
	below    *float64
	high     *float64
	shape    byte
	enum     []string
	oneof    bool
	fields   map[string]want
	column   string
	strict   bool // a time with a unit takes only numbers, one of text only text
}

func limit(f float64) *float64 { return &f }

var gears = []string{"PARK", "DRIVE", "REVERSE"}

func engineWants(column string) map[string]want {
	return map[string]want{
		"rpm":   {kind: "f32", proto: true, column: column + "_rpm"},
		"gear":  {kind: "enum", enum: gears, proto: true, column: column + "_gear"},
		"codes": {kind: "i32", list: true, proto: true, column: column + "_codes", zero: []any{}},
		"at":    {kind: "time", proto: true, column: column + "_at"},
	}
}

var protoWants = map[string]want{
	"time": {kind: "time", proto: true},
	"f64":  {kind: "f64", proto: true}, "f32": {kind: "f32", proto: true},
	"i32": {kind: "i32", proto: true, zero: int64(0)}, "s32": {kind: "i32", proto: true}, "u32": {kind: "u32", proto: true},
	"i64": {kind: "i64", proto: true}, "u64": {kind: "u64", proto: true, zero: uint64(0)},
	"flag": {kind: "bool"}, "text": {kind: "string"}, "raw": {kind: "bytes", zero: []byte{}},
	"gear": {kind: "enum", enum: gears, proto: true, zero: "PARK"}, "best_gear": {kind: "enum", enum: gears, proto: true},
	"engine": {kind: "object", fields: engineWants("engine")},
	"list":   {kind: "f64", list: true, proto: true, zero: []any{}}, "names": {kind: "string", list: true, zero: []any{}},
	"gears":    {kind: "enum", enum: gears, list: true, proto: true, zero: []any{}},
	"readings": {kind: "f64", dict: "string", proto: true, zero: map[string]any{}}, "shifts": {kind: "enum", enum: gears, dict: "i32", proto: true, zero: map[string]any{}},
	"engines": {kind: "json", shape: '['}, "by_name": {kind: "json", shape: '{'}, "free": {kind: "json", shape: '{'},
	"took": {kind: "duration"}, "wrapped": {kind: "f64", proto: true},
	"one": {kind: "string", oneof: true}, "other": {kind: "object", fields: engineWants("other"), oneof: true}, "third": {kind: "i64", proto: true, oneof: true},
	"stamp": {kind: "time", unit: "s", proto: true, strict: true, zero: "1970-01-01T00:00:00Z"}, "stamps": {kind: "time", list: true, proto: true, zero: []any{}},
	"packed": {kind: "i64", list: true, proto: true, zero: []any{}}, "last": {kind: "bool"},
}

var jsonEngine = map[string]want{"rpm": {kind: "f64", column: "engine_rpm"}, "on": {kind: "bool", column: "engine_on"}}

var jsonWants = map[string]want{
	"time": {kind: "time"},
	"id":   {kind: "string", required: true},
	"f64":  {kind: "f64"}, "part": {kind: "f64", low: limit(0), below: limit(1)}, "f32": {kind: "f32"},
	"i64": {kind: "i64"}, "u8": {kind: "u8", high: limit(250)}, "i16": {kind: "i16", low: limit(-1000), high: limit(1000)}, "u64": {kind: "u64"},
	"flag": {kind: "bool"}, "state": {kind: "enum", enum: []string{"on", "off", "ünknown"}},
	"at": {kind: "time", unit: "rfc3339", strict: true}, "at_s": {kind: "time", unit: "s", strict: true}, "at_us": {kind: "time", unit: "us", strict: true},
	"engine": {kind: "object", fields: jsonEngine},
	"list":   {kind: "i64", list: true, zero: []any{}}, "names": {kind: "string", list: true, zero: []any{}},
	"readings": {kind: "f64", dict: "string", zero: map[string]any{}},
	"free":     {kind: "json", shape: '{'}, "any": {kind: "json"}, "engines": {kind: "json", shape: '['},
	"maybe": {kind: "f64"},
}

// camel are the lowerCamel names of a .proto's fields.
var camel = map[string]string{"bestGear": "best_gear", "byName": "by_name"}

// A tree is a JSON value as encoding/json's tokens have it, keys in order.
type tree struct {
	keys   []string
	values []tree
	object bool
	array  bool
	scalar any
	raw    json.RawMessage
}

var errBad = errors.New("bad")

// parseTree reads one value and refuses what the package promises to refuse:
// keys that stand twice, nesting beyond 64, half surrogates.
func parseTree(raw json.RawMessage, depth int) (tree, error) {
	t := tree{raw: raw}
	dec := json.NewDecoder(bytes.NewReader(raw))
	dec.UseNumber()
	token, err := dec.Token()
	if err != nil {
		return t, err
	}
	switch token {
	case json.Delim('{'):
		t.object = true
		seen := map[string]bool{}
		for dec.More() {
			key, err := dec.Token()
			if err != nil {
				return t, err
			}
			var value json.RawMessage
			if err := dec.Decode(&value); err != nil {
				return t, err
			}
			sub, err := parseTree(value, depth+1)
			if err != nil {
				return t, err
			}
			if seen[key.(string)] {
				return t, errBad
			}
			seen[key.(string)] = true
			t.keys = append(t.keys, key.(string))
			t.values = append(t.values, sub)
		}
	case json.Delim('['):
		t.array = true
		for dec.More() {
			var value json.RawMessage
			if err := dec.Decode(&value); err != nil {
				return t, err
			}
			sub, err := parseTree(value, depth+1)
			if err != nil {
				return t, err
			}
			t.values = append(t.values, sub)
		}
	default:
		t.scalar = token
		return t, nil
	}
	if depth > 64 {
		return t, errBad
	}
	return t, nil
}

var surrogates = regexp.MustCompile(`(?i)\\\\|\\u(d[89ab][0-9a-f]{2})\\u(d[c-f][0-9a-f]{2})|\\u(d[89a-f][0-9a-f]{2})`)

func halfSurrogate(raw []byte) bool {
	return slices.ContainsFunc(surrogates.FindAllSubmatch(raw, -1), func(m [][]byte) bool { return m[3] != nil })
}

// naiveRow is the row that a JSON sample should become.
func naiveRow(raw json.RawMessage, wants map[string]want, proto bool) (map[string]any, error) {
	if !utf8.Valid(raw) || halfSurrogate(raw) {
		return nil, errBad
	}
	t, err := parseTree(raw, 1)
	if err != nil {
		return nil, err
	}
	if !t.object {
		return nil, errBad
	}
	row := map[string]any{}
	unknown, err := naiveObject(t, wants, proto, row, true)
	if err != nil {
		return nil, err
	}
	if row["time"] == nil {
		row["time"] = arrival.Format(time.RFC3339Nano)
	}
	if len(unknown) > 0 {
		row["_unknown"] = unknown
	}
	naiveZeros(wants, row)
	return row, nil
}

func naiveZeros(wants map[string]want, row map[string]any) {
	for name, w := range wants {
		if w.column == "" {
			w.column = name
		}
		if w.kind == "object" {
			naiveZeros(w.fields, row)
		} else if _, there := row[w.column]; !there && w.zero != nil {
			row[w.column] = w.zero
		}
	}
}

func naiveObject(t tree, wants map[string]want, proto bool, row map[string]any, root bool) (map[string]any, error) {
	unknown := map[string]any{}
	seen := map[string]bool{}
	chosen := 0
	for i, key := range t.keys {
		name := key
		if proto && camel[key] != "" {
			name = camel[key]
		}
		w, known := wants[name]
		if !known {
			if key == "samples" && t.values[i].array && root && bytes.Contains(t.raw, []byte(`"samples"`)) {
				return nil, errBad
			}
			dec := json.NewDecoder(bytes.NewReader(t.values[i].raw))
			dec.UseNumber()
			var v any
			dec.Decode(&v)
			unknown[key] = v
			continue
		}
		if seen[name] {
			return nil, errBad
		}
		seen[name] = true
		if w.column == "" {
			w.column = name
		}
		v := t.values[i]
		if v.scalar == nil && !v.object && !v.array {
			if w.required {
				return nil, errBad
			}
			continue
		}
		if w.oneof {
			if chosen++; chosen > 1 {
				return nil, errBad
			}
		}
		if w.kind == "object" {
			if !v.object {
				return nil, errBad
			}
			sub, err := naiveObject(v, w.fields, proto, row, false)
			if err != nil {
				return nil, err
			}
			if len(sub) > 0 {
				unknown[name] = sub
			}
			continue
		}
		value, err := naiveField(v, w)
		if err != nil {
			return nil, err
		}
		row[w.column] = value
	}
	for name, w := range wants {
		if w.required && !seen[name] {
			return nil, errBad
		}
	}
	return unknown, nil
}

func naiveField(t tree, w want) (any, error) {
	switch {
	case w.list:
		if !t.array {
			return nil, errBad
		}
		list := []any{}
		for _, item := range t.values {
			v, err := naiveScalar(item, w)
			if err != nil {
				return nil, err
			}
			list = append(list, v)
		}
		return list, nil
	case w.dict != "":
		if !t.object {
			return nil, errBad
		}
		m := map[string]any{}
		for i, key := range t.keys {
			k := key
			if w.dict != "string" {
				if !regexp.MustCompile(`^-?(0|[1-9]\d*)(\.\d+)?([eE][+-]?\d+)?$`).MatchString(key) {
					return nil, errBad
				}
				n, err := naiveScalar(tree{scalar: json.Number(key)}, want{kind: w.dict})
				if err != nil {
					return nil, err
				}
				k = fmt.Sprint(n)
			}
			v, err := naiveScalar(t.values[i], w)
			if err != nil {
				return nil, err
			}
			m[k] = v
		}
		return m, nil
	}
	return naiveScalar(t, w)
}

var integerBits = map[string]int{"i8": 8, "i16": 16, "i32": 32, "i64": 64, "u8": 8, "u16": 16, "u32": 32, "u64": 64}

var numberText = regexp.MustCompile(`^-?(0|[1-9]\d*)(\.\d+)?([eE][+-]?\d+)?$`)

func naiveScalar(t tree, w want) (any, error) {
	if w.kind == "json" {
		if w.shape == '{' && !t.object || w.shape == '[' && !t.array {
			return nil, errBad
		}
		return t.raw, nil
	}
	if t.object || t.array || t.scalar == nil {
		return nil, errBad
	}
	text, isText := t.scalar.(string)
	number, isNumber := t.scalar.(json.Number)
	if isText && w.proto && w.kind != "enum" && w.kind != "time" && numberText.MatchString(rawText(t)) {
		number, isNumber = json.Number(text), true
	}
	switch w.kind {
	case "f64", "f32":
		if !isNumber {
			return nil, errBad
		}
		bits := 64
		if w.kind == "f32" {
			bits = 32
		}
		f, err := strconv.ParseFloat(string(number), bits)
		if err != nil || w.low != nil && f < *w.low || w.high != nil && f > *w.high || w.below != nil && f >= *w.below {
			return nil, errBad
		}
		if bits == 32 {
			return float32(f), nil
		}
		return f, nil
	case "bool":
		if b, ok := t.scalar.(bool); ok {
			return b, nil
		}
		return nil, errBad
	case "string":
		if !isText {
			return nil, errBad
		}
		return text, nil
	case "bytes":
		if !isText {
			return nil, errBad
		}
		enc := base64.StdEncoding
		if strings.ContainsAny(text, "-_") {
			enc = base64.URLEncoding
		}
		if len(text)%4 != 0 {
			enc = enc.WithPadding(base64.NoPadding)
		}
		b, err := enc.DecodeString(text)
		if err != nil {
			return nil, errBad
		}
		return b, nil
	case "enum":
		if isText {
			if !slices.Contains(w.enum, text) {
				return nil, errBad
			}
			return text, nil
		}
		if !isNumber || !w.proto {
			return nil, errBad
		}
		n, err := naiveInteger(number, want{kind: "i32"})
		if err != nil {
			return nil, err
		}
		if i := n.(int64); i >= 0 && int(i) < len(w.enum) {
			return w.enum[i], nil
		}
		return fmt.Sprint(n), nil
	case "time":
		return naiveTime(t, w)
	case "duration":
		m := regexp.MustCompile(`^(-?)(\d+)(?:\.(\d{1,9}))?s$`).FindStringSubmatch(text)
		if !isText || m == nil || rawText(t) != text {
			return nil, errBad
		}
		ns, _ := new(big.Int).SetString(m[2]+(m[3] + "000000000")[:9], 10)
		if m[1] == "-" {
			ns.Neg(ns)
		}
		if new(big.Int).Abs(ns).Cmp(big.NewInt(1<<62/1_000_000_000*1_000_000_000+999_999_999)) > 0 {
			return nil, errBad
		}
		return ns.Int64(), nil
	}
	if !isNumber {
		return nil, errBad
	}
	return naiveInteger(number, w)
}

// rawText is what stands between the quotes.
func rawText(t tree) string {
	return strings.Trim(string(t.raw), `"`)
}

func naiveInteger(number json.Number, w want) (any, error) {
	if _, exp, ok := strings.Cut(strings.ToLower(string(number)), "e"); ok {
		if e, err := strconv.Atoi(exp); err != nil || e > 400 || e < -400 {
			return nil, io.ErrNoProgress // too much for big.Rat: no verdict
		}
	}
	r, ok := new(big.Rat).SetString(string(number))
	if !ok || !r.IsInt() {
		return nil, errBad
	}
	n := r.Num()
	bits := integerBits[w.kind]
	low, high := new(big.Int), new(big.Int).Lsh(big.NewInt(1), uint(bits))
	if w.kind[0] == 'i' {
		high.Rsh(high, 1)
		low.Neg(high)
	}
	if n.Cmp(low) < 0 || n.Cmp(high) >= 0 {
		return nil, errBad
	}
	f, _ := new(big.Float).SetInt(n).Float64()
	if w.low != nil && f < *w.low || w.high != nil && f > *w.high {
		return nil, errBad
	}
	if w.kind[0] == 'i' {
		return n.Int64(), nil
	}
	return n.Uint64(), nil
}

var rfc3339 = regexp.MustCompile(`^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]([01]\d|2[0-3]):[0-5]\d)$`)

func naiveTime(t tree, w want) (any, error) {
	number, isNumber := t.scalar.(json.Number)
	text, isText := t.scalar.(string)
	hasUnit := w.unit != "" && w.unit != "rfc3339"
	if isText && w.proto && hasUnit && numberText.MatchString(rawText(t)) {
		number, isNumber, isText = json.Number(text), true, false
	}
	var micros *big.Int
	switch {
	case isText:
		if w.strict && hasUnit || !rfc3339.MatchString(text) {
			return nil, errBad
		}
		at, err := time.Parse(time.RFC3339Nano, text)
		if err != nil {
			return nil, errBad
		}
		micros = new(big.Int).Add(new(big.Int).Mul(big.NewInt(at.Unix()), big.NewInt(1e6)), big.NewInt(int64(at.Nanosecond()/1000)))
	case isNumber:
		if w.strict && w.unit == "rfc3339" {
			return nil, errBad
		}
		if _, exp, ok := strings.Cut(strings.ToLower(string(number)), "e"); ok {
			if e, err := strconv.Atoi(exp); err != nil || e > 400 || e < -400 {
				return nil, io.ErrNoProgress
			}
		}
		r, ok := new(big.Rat).SetString(string(number))
		if !ok {
			return nil, errBad
		}
		scale := map[string]*big.Rat{"": big.NewRat(1000, 1), "ms": big.NewRat(1000, 1), "s": big.NewRat(1e6, 1), "us": big.NewRat(1, 1), "ns": big.NewRat(1, 1000)}[w.unit]
		r.Mul(r, scale)
		micros = new(big.Int).Div(r.Num(), r.Denom()) // Euclidean: floor for a positive denominator
	default:
		return nil, errBad
	}
	if micros.Cmp(big.NewInt(-2208988800*1e6)) < 0 || micros.Cmp(big.NewInt(10413792000*1e6)) >= 0 {
		return nil, errBad
	}
	return time.UnixMicro(micros.Int64()).UTC().Format(time.RFC3339Nano), nil
}

// naiveSplit takes a message apart into samples. It answers nil for a message
// that has to be refused as a whole.
func naiveSplit(payload []byte, wants map[string]want) (samples []json.RawMessage, batch bool) {
	if !json.Valid(payload) {
		return nil, false
	}
	trimmed := bytes.TrimLeft(payload, " \t\r\n")
	switch trimmed[0] {
	case '[':
		json.Unmarshal(payload, &samples)
		return samples, true
	case '{':
		dec := json.NewDecoder(bytes.NewReader(payload))
		dec.Token()
		rest := bytes.TrimLeft(trimmed[1:], " \t\r\n")
		if !bytes.HasPrefix(rest, []byte(`"samples"`)) {
			return []json.RawMessage{bytes.TrimSpace(payload)}, false
		}
		dec.Token()
		var first json.RawMessage
		dec.Decode(&first)
		if first[0] != '[' {
			return []json.RawMessage{bytes.TrimSpace(payload)}, false
		}
		if dec.More() {
			return nil, true
		}
		json.Unmarshal(first, &samples)
		return samples, true
	}
	return nil, false
}

// checkJSON holds the decoder against the oracle for one payload.
func checkJSON(t *testing.T, s *schemas.Schema, wants map[string]want, payload []byte, proto bool) {
	if proto && len(payload) > 0 && payload[0] != '{' && payload[0] != '[' {
		return
	}
	b := s.NewBatch(memory.DefaultAllocator)
	defer b.Release()
	b.Append([]byte(`{"id":"before"}`), arrival) // something to be left alone
	if len(payload)%2 == 1 {
		b.Record().Release() // into used memory
	}
	before := b.Rows()
	rows, bad, err := b.Append(payload, arrival)
	if b.Rows() != before+rows || err != nil && (rows > 0 || bad != nil) {
		t.Fatalf("%d rows reported, %d there", rows, b.Rows()-before)
	}
	info, checkErr := s.NewChecker().Check(payload)
	if err == nil && (info.Samples != rows+len(bad) || info.Bad != len(bad)) || (checkErr != nil) != (err != nil || len(bad) > 0) {
		t.Fatalf("checker says %+v, %v; batch says %d, %d bad, %v", info, checkErr, rows, len(bad), err)
	}
	for _, word := range []string{"NaN", "nan", "Inf", "inf"} {
		if bytes.Contains(payload, []byte(word)) {
			return // not JSON to the oracle, yet it does not spoil its siblings
		}
	}
	samples, batch := naiveSplit(payload, wants)
	if len(samples) == 0 {
		if err == nil {
			t.Fatalf("took what must be refused: %q", payload)
		}
		return
	}
	rec := b.Record()
	defer rec.Release()
	got := rowsOf(rec)[before:]
	badAt := map[int]schemas.BadSample{}
	for _, x := range bad {
		badAt[x.Index] = x
	}
	next := 0
	for i, sample := range samples {
		row, want := naiveRow(sample, wants, proto)
		if want == io.ErrNoProgress {
			return
		}
		_, isBad := badAt[i]
		isBad = isBad || err != nil
		if isBad != (want != nil) {
			t.Fatalf("sample %d %q: bad is %v (%v %v), oracle says %v", i, sample, isBad, err, badAt[i].Detail, want)
		}
		if isBad {
			if batch && !bytes.Equal(badAt[i].Bytes, bytes.TrimSpace(sample)) {
				t.Fatalf("sample %d: bytes are %q", i, badAt[i].Bytes)
			}
			continue
		}
		if next >= len(got) {
			t.Fatalf("sample %d is missing", i)
		}
		compareRows(t, got[next], row)
		next++
	}
	if next != len(got) {
		t.Fatalf("%d rows, want %d", len(got), next)
	}
}

func compareRows(t *testing.T, got, want map[string]any) {
	t.Helper()
	for column, w := range want {
		if !sameValue(got[column], w) {
			t.Fatalf("%s is %#v, want %#v", column, got[column], w)
		}
	}
	for column, g := range got {
		if _, there := want[column]; !there {
			t.Fatalf("%s is %#v, want nothing", column, g)
		}
	}
}

func sameValue(got, want any) bool {
	switch w := want.(type) {
	case json.RawMessage:
		g, ok := got.(json.RawMessage)
		return ok && bytes.Equal(g, w)
	case map[string]any:
		if g, ok := got.(json.RawMessage); ok { // _unknown
			dec := json.NewDecoder(bytes.NewReader(g))
			dec.UseNumber()
			var v any
			if dec.Decode(&v) != nil {
				return false
			}
			return reflect.DeepEqual(v, want)
		}
	case float64:
		g, ok := got.(float64)
		return ok && math.Float64bits(g) == math.Float64bits(w)
	case []byte:
		g, ok := got.([]byte)
		return ok && bytes.Equal(g, w)
	}
	return reflect.DeepEqual(got, want)
}

func everything(tb testing.TB, src schemas.Source) *schemas.Schema {
	tb.Helper()
	s, _, err := schemas.NewRegistry().Add("everything", src)
	if err != nil {
		tb.Fatal(err)
	}
	return s
}

// seeds are those of a random test: with -short, which is how the race detector
// runs it, a twentieth.
func seeds(n uint64) uint64 {
	if testing.Short() {
		return n / 20
	}
	return n
}

var jsonSeeds = []string{
	`{"id":"x"}`, `{}`, `[]`, ``, ` `, `null`, `1`, `"x"`, `[{"id":"x"},{"id":"y"}]`, `{"samples":[{"id":"x"}]}`, `{"samples":[{"id":"x"}],"a":1}`, `{"a":1,"samples":[{}]}`,
	`{"id":"x","f64":1.5,"f32":0.1,"i64":9007199254740993,"u64":18446744073709551615,"u8":250,"i16":-1000,"part":0.999}`,
	`{"id":"x","f64":1e400}`, `{"id":"x","f32":3.5e38}`, `{"id":"x","f64":-0.0}`, `{"id":"x","f64":123456789012345678901234567890e-10}`, `{"f64":4.9e-324,"id":""}`,
	`{"id":"x","i64":1e3,"u64":10.0}`, `{"id":"x","i64":1.5}`, `{"id":"x","i64":-9223372036854775808}`, `{"id":"x","i64":9223372036854775808}`, `{"id":"x","u8":251}`, `{"id":"x","u64":-1}`,
	`{"id":"x","i64":1000000000000000000000e-5}`, `{"id":"x","i64":0.000000000000000000000e9}`,
	`{"id":"a\u00e9\ud83d\ude00\n\"\\\/"}`, `{"id":"\ud83d"}`, `{"id":"\udc00x"}`, "{\"id\":\"\xff\"}", "{\"id\":\"a\x00\"}", "{\"i\xffd\":1}", `{"\u0069d":"x"}`, `{"id":"x","\u0069d":"y"}`,
	`{"id":"x","id":"y"}`, `{"id":"x","new":1,"new":2}`, `{"id":"x","any":{"a":1,"a":2}}`, `{"id":"x","engine":{"rpm":1,"rpm":2}}`,
	`{"id":"x","engine":{"rpm":1.5,"on":true,"more":{"a":[1]}},"z":null,"y":"\u0041"}`, `{"id":"x","engine":[]}`, `{"id":"x","engine":null}`,
	`{"id":"x","state":"on","flag":false,"maybe":null}`, `{"id":"x","state":"bad"}`, `{"id":"x","state":1}`, `{"id":"x","flag":"true"}`, `{"id":null}`, `{"id":1}`,
	`{"id":"x","list":[1,2,3],"names":["a","","b\tc"],"readings":{"a":1,"b":2.5}}`, `{"id":"x","list":[]}`, `{"id":"x","list":[1,null]}`, `{"id":"x","list":[1,"2"]}`, `{"id":"x","readings":{"a":1,"a":2}}`,
	`{"id":"x","free":{"a":{"b":[1,2]}},"any":[1,"x",null],"engines":[{"rpm":1},2]}`, `{"id":"x","free":[]}`, `{"id":"x","engines":{}}`,
	`{"id":"x","time":1700000000123,"at":"2023-11-14T22:13:20.123456789Z","at_s":1700000000,"at_us":1700000000000000.5}`,
	`{"id":"x","time":"2106-02-07T06:28:16+02:00"}`, `{"id":"x","time":"1970-01-01T00:00:00Z"}`, `{"id":"x","time":0}`, `{"id":"x","time":-0.001}`, `{"id":"x","time":null}`, `{"id":"x","time":true}`,
	`{"id":"x","time":"2023-02-29T00:00:00Z"}`, `{"id":"x","time":"yesterday"}`, `{"id":"x","at":1700000000}`, `{"id":"x","at_s":"1700000000"}`, `{"id":"x","at_s":99999999999}`, `{"id":"x","at_s":-2208988800}`, `{"id":"x","at_s":-2208988801}`,
	`{"id":"x","time":1700000000123.4567}`, `{"id":"x","time":17000000001234567890123e-10}`,
	strings.Repeat(`{"a":`, 63) + `1` + strings.Repeat(`}`, 63), strings.Repeat(`{"a":`, 65) + `1` + strings.Repeat(`}`, 65), strings.Repeat(`[`, 70) + strings.Repeat(`]`, 70),
	`[{"id":"x"},{"id":1},{"id":"z"}]`, `[{"id":"x"},1,{"id":"z"}]`, `[{"id":"x"},{"id":"y"]`, `[{"id":"x"}`, `[{"id":"x"},]`, `{"id":"x"} x`, `{"id":"x",}`, `{"id" "x"}`, `{"id":tru}`, `{"flag":tru}`, `{"id":01}`, `{"f64":01}`, `{"f64":.5}`, `{"f64":1.}`, `{"f64":-}`, `{"f64":1e}`,
	`{"f64":NaN}`, `[{"id":"x","f64":NaN},{"id":"y","f64":-Infinity},{"id":"z"}]`,
	`{"f64":"1.5","i32":"12","bestGear":"DRIVE","gear":7,"raw":"aGk","u64":"18446744073709551615"}`, `{"raw":"-_8"}`, `{"raw":"a"}`, `{"f64":"x"}`, `{"f64":"1 "}`, `{"i32":"\u0031"}`,
	`{"one":"a","third":1}`, `{"one":"a","third":null}`, `{"other":{"rpm":1,"x":2}}`, `{"best_gear":"PARK","bestGear":"PARK"}`,
	`{"took":"1.5s","wrapped":2,"stamp":"1700000000","stamps":["2020-01-01T00:00:00Z",0],"packed":["1",2]}`, `{"took":"-0.000000001s"}`, `{"took":"1"}`, `{"took":"s"}`, `{"took":"99999999999s"}`,
	`{"readings":{"a":1},"shifts":{"1":"DRIVE","-2":9},"by_name":{"x":{}},"engines":[{}],"free":{}}`, `{"shifts":{"x":1}}`, `{"shifts":{"1.5":1}}`, `{"stamp":-1}`, `{"stamp":"-1"}`,
	"\ufeff{}", "[\n {\"id\" : \"x\" , \"f64\" : 1 } ,\r\n\t{ \"id\":\"y\"}\n]\n",
}

// FuzzJSON holds the JSON decoder against an oracle on encoding/json.
func FuzzJSON(f *testing.F) {
	for _, seed := range jsonSeeds {
		f.Add([]byte(seed))
	}
	fromProto := everything(f, schemas.Source{Format: schemas.FormatProto, Text: everythingProto, Root: "Everything"})
	fromJSON := everything(f, schemas.Source{Format: schemas.FormatJSONSchema, Text: everythingJSON})
	f.Fuzz(func(t *testing.T, payload []byte) {
		checkJSON(t, fromProto, protoWants, payload, true)
		checkJSON(t, fromJSON, jsonWants, payload, false)
		schemas.PeekTime(payload)
	})
}
