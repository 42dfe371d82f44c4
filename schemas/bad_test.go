package schemas_test

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/apache/arrow/go/v15/arrow/memory"

	"github.com/tachograph/tachograph/schemas"
)

// TestRefused pins the reason and the place of what is refused.
func TestRefused(t *testing.T) {
	fromProto := everything(t, schemas.Source{Format: schemas.FormatProto, Text: everythingProto, Root: "Everything"})
	fromJSON := everything(t, schemas.Source{Format: schemas.FormatJSONSchema, Text: everythingJSON})
	for _, c := range []struct {
		s       *schemas.Schema
		payload string
		reason  schemas.Reason
		path    string
	}{
		{fromJSON, ``, schemas.Empty, ""},
		{fromJSON, `[]`, schemas.Empty, ""},
		{fromJSON, `{"samples":[]}`, schemas.Empty, ""},
		{fromJSON, `hello`, schemas.NotJSON, ""},
		{fromJSON, "\x0a\x00", schemas.NotJSON, ""},
		{fromJSON, `{"id":"x"`, schemas.Truncated, ""},
		{fromJSON, `{"id":"x`, schemas.Truncated, "id"},
		{fromJSON, `{"id":"x"}}`, schemas.NotJSON, ""},
		{fromJSON, `{"id":"x","f64":"1"}`, schemas.WrongType, "f64"},
		{fromJSON, `{"id":"x","f64":NaN}`, schemas.NotFinite, "f64"},
		{fromJSON, `{"id":"x","f64":-Infinity}`, schemas.NotFinite, "f64"},
		{fromJSON, `{"id":"x","f64":nan}`, schemas.NotFinite, "f64"},
		{fromJSON, `{"id":"x","any":[NaN]}`, schemas.NotFinite, "any"},
		{fromJSON, `{"id":"x","f64":1e400}`, schemas.OutOfRange, "f64"},
		{fromJSON, `{"id":"x","f32":1e39}`, schemas.OutOfRange, "f32"},
		{fromJSON, `{"id":"x","u8":251}`, schemas.OutOfRange, "u8"},
		{fromJSON, `{"id":"x","i64":9223372036854775808}`, schemas.OutOfRange, "i64"},
		{fromJSON, `{"id":"x","i64":1.5}`, schemas.WrongType, "i64"},
		{fromJSON, `{"id":"x","state":"broken"}`, schemas.OutOfRange, "state"},
		{fromJSON, `{"id":"x","at":"today"}`, schemas.BadTime, "at"},
		{fromJSON, `{"id":"x","time":99999999999999}`, schemas.BadTime, "time"},
		{fromJSON, "{\"id\":\"\xc3\x28\"}", schemas.InvalidUTF8, "id"},
		{fromJSON, `{"id":"\ud800"}`, schemas.InvalidUTF8, "id"},
		{fromJSON, `{"id":"x","id":"x"}`, schemas.DuplicateKey, "id"},
		{fromJSON, `{"id":"x","a":1,"a":1}`, schemas.DuplicateKey, ""},
		{fromJSON, `{"f64":1}`, schemas.MissingField, "id"},
		{fromJSON, `{"id":"x","engine":{"rpm":[]}}`, schemas.WrongType, "engine.rpm"},
		{fromJSON, `{"id":"x","a":` + strings.Repeat("[", 64) + strings.Repeat("]", 64) + `}`, schemas.TooDeep, ""},
		{fromJSON, strings.Repeat("[", 1_000_000), schemas.TooDeep, ""},
		{fromJSON, `{"id":"x","samples":[{"id":"y"}]}`, schemas.Misplaced, ""},
		{fromJSON, `{"samples":[{"id":"y"}],"id":"x"}`, schemas.Misplaced, ""},
		{fromProto, "\x20", schemas.Truncated, "i32"},
		{fromProto, "\x20\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01", schemas.NotProto, "i32"},
		{fromProto, "\x52\x05ab", schemas.Truncated, "text"},
		{fromProto, "\x52\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01", schemas.Truncated, "text"},
		{fromProto, "\x52\x01\xff", schemas.InvalidUTF8, "text"},
		{fromProto, "\x11\x00\x00\x00\x00\x00\x00\xf8\x7f", schemas.NotFinite, "f64"},
		{fromProto, "\x0a\x0b\x08\xff\xff\xff\xff\xff\xff\xff\xff\x7f\x10", schemas.Truncated, "time"},
		{fromProto, "\x0a\x0a\x08\xff\xff\xff\xff\xff\xff\xff\xff\x7f", schemas.BadTime, "time"},
		{fromProto, "\x15\x00\x00\x00\x00", schemas.WrongType, "f64"},
		{fromProto, "\x23\x24", schemas.WrongType, "i32"},
		{fromProto, "\x04", schemas.NotProto, ""},
		{fromProto, strings.Repeat("\xa3\x06", 100), schemas.TooDeep, ""},
		{fromProto, "\x20\x01\x7a\x02\x20\x01", schemas.Misplaced, ""},
		{fromProto, "\x7a\x02\x20\x01\x20\x01", schemas.Misplaced, ""},
		{fromProto, "\x72\x05\x0d\x00\x00\x80\x7f", schemas.NotFinite, "engine.rpm"},
	} {
		_, err := c.s.NewChecker().Check([]byte(c.payload))
		var e *schemas.DecodeError
		if !errors.As(err, &e) {
			t.Errorf("%.60q: %v", c.payload, err)
			continue
		}
		if e.Reason != c.reason || e.Path != c.path {
			t.Errorf("%.60q: %s at %q, want %s at %q", c.payload, e.Reason, e.Path, c.reason, c.path)
		}
		if e.Offset < 0 || e.Offset > len(c.payload) {
			t.Errorf("%.60q: offset %d", c.payload, e.Offset)
		}
	}
}

// TestSiblings checks that one bad sample harms nobody.
func TestSiblings(t *testing.T) {
	s := vehicleSchema(t, "position")
	b := s.NewBatch(memory.DefaultAllocator)
	defer b.Release()
	payload := []byte(`[{"speed":1,"fix_type":"a","x":1},{"latitude":1,"longitude":2,"fix_type":"lost","x":2,"speed":"fast"},{"speed":3,"fix_type":"c"}]`)
	rows, bad, err := b.Append(payload, arrival)
	if rows != 2 || err != nil || len(bad) != 1 {
		t.Fatal(rows, bad, err)
	}
	if bad[0].Index != 1 || bad[0].Reason != "wrong_type" || !strings.Contains(bad[0].Detail, "speed") ||
		string(bad[0].Bytes) != `{"latitude":1,"longitude":2,"fix_type":"lost","x":2,"speed":"fast"}` {
		t.Errorf("bad is %+v", bad[0])
	}
	// A message that cannot be read takes its own rows back and nothing else.
	if rows, _, err := b.Append([]byte(`[{"fix_type":"gone"},{"speed":9},`), arrival); rows != 0 || err == nil {
		t.Error(rows, err)
	}
	if rows, _, err := b.Append([]byte(`{"speed":4}`), arrival); rows != 1 || err != nil {
		t.Error(rows, err)
	}
	rec := b.Record()
	defer rec.Release()
	got := fmt.Sprint(rowsOf(rec))
	want := fmt.Sprint([]map[string]any{
		{"time": "2026-07-01T12:00:00Z", "speed": float32(1), "fix_type": "a", "_unknown": []byte(`{"x":1}`)},
		{"time": "2026-07-01T12:00:00Z", "speed": float32(3), "fix_type": "c"},
		{"time": "2026-07-01T12:00:00Z", "speed": float32(4)},
	})
	if got != want {
		t.Errorf("rows are\n%s, want\n%s", got, want)
	}
	var index []any
	for r := range 3 {
		v, _ := schemas.Value(rec, int(rec.NumCols())-1, r)
		index = append(index, v)
	}
	if fmt.Sprint(index) != "[0 2 0]" {
		t.Errorf("_row is %v", index)
	}
	if b.Rows() != 0 {
		t.Error("rows are left after Record")
	}
}

// TestLarge decodes what is large but right, and checks that time grows with
// size alone where an attacker could choose the input.
func TestLarge(t *testing.T) {
	if testing.Short() {
		t.Skip("long, and one goroutine: make test runs this")
	}
	s := everything(t, schemas.Source{Format: schemas.FormatProto, Text: everythingProto, Root: "Everything"})
	long := strings.Repeat("ü", 512<<10)
	if rows := decode(t, s, `{"text":"`+long+`"}`); rows[0]["text"] != long {
		t.Error("1 MiB of text is not what it was")
	}
	many := `[` + strings.Repeat(`{"f64":1},`, 99_999) + `{"f64":2}]`
	if rows := decode(t, s, many); len(rows) != 100_000 || rows[99_999]["f64"] != 2.0 {
		t.Errorf("%d rows", len(rows))
	}
	wire := bytes.Repeat([]byte("\x7a\x02\x20\x05"), 100_000)
	if rows := decode(t, s, string(wire)); len(rows) != 100_000 || rows[99_999]["i32"] != int64(5) {
		t.Errorf("%d rows", len(rows))
	}
	for name, payload := range map[string]string{
		"unknown keys":   `{` + strings.Join(numbered(`"k%d":1`, 100_000), ",") + `}`,
		"map keys":       `{"readings":{` + strings.Join(numbered(`"k%d":1`, 100_000), ",") + `}}`,
		"nested keys":    `{"free":{` + strings.Join(numbered(`"k%d":1`, 100_000), ",") + `}}`,
		"wire map":       strings.Join(numbered("\x9a\x01\x12\x0a\x07k%06d\x11\x00\x00\x00\x00\x00\x00\x00\x00", 100_000)[100_000-90_000:], ""),
		"wire unknown":   strings.Repeat("\xf8\x07\x01", 300_000),
		"wire in text":   "\xaa\x01\xe0\xa7\x12" + strings.Repeat("\xf8\x07\x01", 100_000),
		"bad siblings":   `[` + strings.Repeat(`{"f64":true},`, 50_000) + `{}]`,
		"digits":         `{"f64":` + strings.Repeat("1", 1_000_000) + `}`,
		"zeros":          `{"i64":` + "1" + strings.Repeat("0", 1_000_000) + "e-1000000" + `}`,
		"open brackets":  strings.Repeat(`[{"a":`, 300_000),
		"escapes":        `{"text":"` + strings.Repeat(`\u00e9`, 200_000) + `"}`,
		"alternating":    strings.Repeat("\xd2\x01\x01a\xe0\x01\x05", 100_000),
		"split messages": strings.Repeat("\x72\x00", 500_000),
	} {
		b := s.NewBatch(memory.DefaultAllocator)
		start := time.Now()
		b.Append([]byte(payload), arrival)
		if took := time.Since(start); took > 3*time.Second {
			t.Errorf("%s: %d bytes took %v", name, len(payload), took)
		}
		b.Release()
	}
}

func numbered(format string, n int) []string {
	all := make([]string, n)
	for i := range all {
		all[i] = fmt.Sprintf(format, i)
	}
	return all
}

// TestFull checks that a batch says when it is full, and that it goes on after.
func TestFull(t *testing.T) {
	if testing.Short() {
		t.Skip("long, and one goroutine: make test runs this")
	}
	s := everything(t, schemas.Source{Format: schemas.FormatProto, Text: everythingProto, Root: "Everything"})
	b := s.NewBatch(memory.DefaultAllocator)
	defer b.Release()
	payload := []byte(`{"text":"` + strings.Repeat("x", 7<<20) + `"}`)
	n := 0
	var err error
	for ; n < 100 && err == nil; n++ {
		_, _, err = b.Append(payload, arrival)
	}
	if !errors.Is(err, schemas.ErrBatchFull) || b.Rows() != n-1 {
		t.Fatalf("after %d messages: %v, %d rows", n, err, b.Rows())
	}
	b.Record().Release()
	if rows, _, err := b.Append(payload, arrival); rows != 1 || err != nil {
		t.Error(rows, err)
	}
	var e *schemas.DecodeError
	if _, _, err := b.Append(make([]byte, 8<<20+1), arrival); !errors.As(err, &e) || e.Reason != schemas.TooLarge {
		t.Error(err)
	}
	if _, _, err := b.Append([]byte("["+strings.Repeat("{},", 1<<17)+"{}]"), arrival); !errors.As(err, &e) || e.Reason != schemas.TooLarge {
		t.Error(err)
	}
	if b.Rows() != 1 {
		t.Errorf("%d rows", b.Rows())
	}
}

// TestTimes pins units and limits.
func TestTimes(t *testing.T) {
	s := everything(t, schemas.Source{Format: schemas.FormatJSONSchema, Text: `{"type":"object","properties":{
		"s":{"type":"number","x-time-unit":"s"},"ms":{"type":"integer","x-time-unit":"ms"},"us":{"type":"integer","x-time-unit":"us"},"ns":{"type":"integer","x-time-unit":"ns"},
		"text":{"type":"string","x-time-unit":"rfc3339"}}}`})
	for field, cases := range map[string][][2]string{
		"s":    {{"0", "1970-01-01T00:00:00Z"}, {"4294967296", "2106-02-07T06:28:16Z"}, {"1.5", "1970-01-01T00:00:01.5Z"}, {"-0.0000001", "1969-12-31T23:59:59.999999Z"}, {"10413791999", "2299-12-31T23:59:59Z"}},
		"ms":   {{"4294967296000", "2106-02-07T06:28:16Z"}, {"-1", "1969-12-31T23:59:59.999Z"}},
		"us":   {{"4294967296000001", "2106-02-07T06:28:16.000001Z"}},
		"ns":   {{"4294967296000001999", "2106-02-07T06:28:16.000001Z"}, {"-1", "1969-12-31T23:59:59.999999Z"}},
		"text": {{`"2106-02-07T06:28:16Z"`, "2106-02-07T06:28:16Z"}, {`"2106-02-07T08:28:16.1234569+02:00"`, "2106-02-07T06:28:16.123456Z"}},
		"time": {{"4294967296000", "2106-02-07T06:28:16Z"}, {`"1970-01-01T00:00:00Z"`, "1970-01-01T00:00:00Z"}},
	} {
		for _, c := range cases {
			if rows := decode(t, s, `{"`+field+`":`+c[0]+`}`); rows[0][field] != c[1] {
				t.Errorf("%s %s is %v, want %s", field, c[0], rows[0][field], c[1])
			}
		}
	}
	info, err := s.NewChecker().Check([]byte(`[{"time":1700000000123},{"time":1}]`))
	if want := time.UnixMilli(1700000000123).UTC(); err != nil || !info.Time.Equal(want) || info.Samples != 2 {
		t.Errorf("info is %+v, %v", info, err)
	}
	if info, _ := s.NewChecker().Check([]byte(`{}`)); !info.Time.IsZero() {
		t.Errorf("a sample without a time has %v", info.Time)
	}
	for payload, want := range map[string]int64{
		`{"a":{"time":1},"time":1700000000123}`: 1700000000123, `[{"time":"2023-11-14T22:13:20.123Z"}]`: 1700000000123, ` {"samples":[{"x":"y","time":1700000000123}]}`: 1700000000123,
	} {
		if at, ok := schemas.PeekTime([]byte(payload)); !ok || at.UnixMilli() != want {
			t.Errorf("peek %s is %v %v", payload, at, ok)
		}
	}
	for _, payload := range []string{"", "[]", "{}", `{"time":null}`, `{"time":[`, `"time"`, `{"time"`, `{"a":}`, "\x0a\x00", `{"time":1e99}`} {
		if at, ok := schemas.PeekTime([]byte(payload)); ok {
			t.Errorf("peek %q is %v", payload, at)
		}
	}
}
