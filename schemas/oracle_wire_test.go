package schemas_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"reflect"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/apache/arrow/go/v15/arrow/memory"
	"github.com/bufbuild/protocompile"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/dynamicpb"

	"github.com/tachograph/tachograph/schemas"
)

func everythingDescriptor(tb testing.TB) protoreflect.MessageDescriptor {
	tb.Helper()
	compiler := protocompile.Compiler{Resolver: protocompile.WithStandardImports(&protocompile.SourceResolver{
		Accessor: protocompile.SourceAccessorFromMap(map[string]string{"x.proto": everythingProto}),
	})}
	files, err := compiler.Compile(context.Background(), "x.proto")
	if err != nil {
		tb.Fatal(err)
	}
	return files[0].Messages().ByName("Everything")
}

// hasBatchTag tells whether field 15 stands at the top of b, in however many bytes its tag is written.
func hasBatchTag(b []byte) bool {
	for len(b) > 0 {
		num, _, n := protowire.ConsumeField(b)
		if n < 0 {
			return false
		}
		if num == 15 {
			return true
		}
		b = b[n:]
	}
	return false
}

// notFinite tells whether the sample, or its whole message, was refused for NaN or an infinity.
func notFinite(bad schemas.BadSample, err error) bool {
	var decode *schemas.DecodeError
	return strings.Contains(bad.Reason, string(schemas.NotFinite)) || errors.As(err, &decode) && decode.Reason == schemas.NotFinite
}

// odd tells whether a message has what protobuf-go lets pass and this package
// refuses: a known tag with another wire type, fields that protobuf's own
// messages do not have, one of them in several pieces, keys that stand twice.
// stray tells whether there are unknown fields that must be kept.
func odd(m protoreflect.MessageDescriptor, b []byte) (is, stray bool) {
	wellKnown := m.ParentFile().Package() == "google.protobuf"
	pieces := map[protowire.Number]int{}
	keys := map[protowire.Number]map[string]bool{}
	for len(b) > 0 {
		num, typ, n := protowire.ConsumeTag(b)
		if n < 0 {
			return true, false
		}
		v := protowire.ConsumeFieldValue(num, typ, b[n:])
		if v < 0 {
			return true, false
		}
		value := b[n : n+v]
		b = b[n+v:]
		f := m.Fields().ByNumber(num)
		if f == nil {
			if wellKnown || m.IsMapEntry() {
				return true, false
			}
			stray = true
			continue
		}
		want := wireTypeOfField(f)
		if typ != want && !(f.IsList() && typ == protowire.BytesType && want != protowire.BytesType) {
			return true, false
		}
		if f.Message() == nil || typ != protowire.BytesType {
			continue
		}
		inner, _ := protowire.ConsumeBytes(value)
		pieces[num]++
		if !f.IsList() && !f.IsMap() && pieces[num] > 1 && f.Message().ParentFile().Package() == "google.protobuf" {
			return true, false // "several pieces": only Struct is refused, the others are left alone here
		}
		isOdd, innerStray := odd(f.Message(), inner)
		if isOdd {
			return true, false
		}
		stray = stray || innerStray
		if f.IsMap() {
			entry := dynamicpb.NewMessage(f.Message())
			if proto.Unmarshal(inner, entry) != nil {
				return true, false
			}
			if keys[num] == nil {
				keys[num] = map[string]bool{}
			}
			k := fmt.Sprint(entry.Get(f.Message().Fields().ByNumber(1)).Interface())
			if keys[num][k] {
				return true, false
			}
			keys[num][k] = true
		}
	}
	return false, stray
}

func wireTypeOfField(f protoreflect.FieldDescriptor) protowire.Type {
	switch f.Kind() {
	case protoreflect.Fixed32Kind, protoreflect.Sfixed32Kind, protoreflect.FloatKind:
		return protowire.Fixed32Type
	case protoreflect.Fixed64Kind, protoreflect.Sfixed64Kind, protoreflect.DoubleKind:
		return protowire.Fixed64Type
	case protoreflect.StringKind, protoreflect.BytesKind, protoreflect.MessageKind:
		return protowire.BytesType
	}
	return protowire.VarintType
}

// messageRow is the row that a message should become, by reflection.
func messageRow(m protoreflect.Message, prefix string, row map[string]any) (err error) {
	fields := m.Descriptor().Fields()
	for i := range fields.Len() {
		f := fields.Get(i)
		column := prefix + string(f.Name())
		v := m.Get(f)
		switch {
		case f.IsMap() && f.MapValue().Message() == nil:
			out := map[string]any{}
			v.Map().Range(func(k protoreflect.MapKey, v protoreflect.Value) bool {
				x, bad := scalarOf(f.MapValue(), v)
				err = firstOf(err, bad)
				out[k.String()] = x
				return true
			})
			row[column] = out
		case f.IsMap() || f.IsList() && f.Message() != nil && f.Message().Name() != "Timestamp" || f.Message() != nil && f.Message().Name() == "Struct":
			if m.Has(f) {
				x, bad := textOf(f, v)
				err = firstOf(err, bad)
				row[column] = x
			}
		case f.IsList():
			list := []any{}
			for k := range v.List().Len() {
				x, bad := scalarOf(f, v.List().Get(k))
				err = firstOf(err, bad)
				list = append(list, x)
			}
			row[column] = list
		case f.Message() != nil && f.Message().Name() == "Engine":
			if m.Has(f) {
				err = firstOf(err, messageRow(v.Message(), column+"_", row))
			} else {
				row[column+"_codes"] = []any{}
			}
		case m.Has(f) || !f.HasPresence():
			x, bad := scalarOf(f, v)
			err = firstOf(err, bad)
			row[column] = x
		}
	}
	return err
}

func firstOf(a, b error) error {
	if a != nil {
		return a
	}
	return b
}

func scalarOf(f protoreflect.FieldDescriptor, v protoreflect.Value) (any, error) {
	switch f.Kind() {
	case protoreflect.EnumKind:
		if d := f.Enum().Values().ByNumber(v.Enum()); d != nil {
			return string(d.Name()), nil
		}
		return fmt.Sprint(v.Enum()), nil
	case protoreflect.FloatKind:
		x := float32(v.Float())
		return x, finite(float64(x))
	case protoreflect.DoubleKind:
		return v.Float(), finite(v.Float())
	case protoreflect.MessageKind:
		inner := v.Message()
		get := func(n protoreflect.FieldNumber) protoreflect.Value {
			return inner.Get(inner.Descriptor().Fields().ByNumber(n))
		}
		switch inner.Descriptor().Name() {
		case "DoubleValue":
			return get(1).Float(), finite(get(1).Float())
		case "Duration":
			s, n := get(1).Int(), get(2).Int()
			if n < -999999999 || n > 999999999 || s > 0 && n < 0 || s < 0 && n > 0 || s > 1<<62/1_000_000_000 || s < -(1<<62/1_000_000_000) {
				return nil, errBad
			}
			return s*1e9 + n, nil
		case "Timestamp":
			s, n := get(1).Int(), get(2).Int()
			if n < 0 || n > 999999999 || s < -2208988800 || s >= 10413792000 {
				return nil, errBad
			}
			return time.Unix(s, n/1000*1000).UTC().Format(time.RFC3339Nano), nil
		}
		return nil, errBad
	}
	if f.Name() == "stamp" {
		if s := v.Int(); s < -2208988800 || s >= 10413792000 {
			return nil, errBad
		} else {
			return time.Unix(s, 0).UTC().Format(time.RFC3339Nano), nil
		}
	}
	switch x := v.Interface().(type) {
	case int32:
		return int64(x), nil
	case uint32:
		return uint64(x), nil
	default:
		return x, nil
	}
}

func finite(f float64) error {
	if math.IsNaN(f) || math.IsInf(f, 0) {
		return errBad
	}
	return nil
}

// textOf is what the JSON text of a field should say, as encoding/json reads it.
func textOf(f protoreflect.FieldDescriptor, v protoreflect.Value) (x any, err error) {
	switch {
	case f.IsMap():
		out := map[string]any{}
		v.Map().Range(func(k protoreflect.MapKey, v protoreflect.Value) bool {
			x, bad := textMessageOf(v.Message())
			err = firstOf(err, bad)
			out[k.String()] = x
			return true
		})
		return out, err
	case f.IsList():
		out := []any{}
		for k := range v.List().Len() {
			x, bad := textMessageOf(v.List().Get(k).Message())
			err = firstOf(err, bad)
			out = append(out, x)
		}
		return out, err
	}
	return textMessageOf(v.Message())
}

func textMessageOf(m protoreflect.Message) (any, error) {
	fields := m.Descriptor().Fields()
	switch m.Descriptor().Name() {
	case "Struct":
		return textOf(fields.ByNumber(1), m.Get(fields.ByNumber(1)))
	case "ListValue":
		return textOf(fields.ByNumber(1), m.Get(fields.ByNumber(1)))
	case "Value":
		f := m.WhichOneof(m.Descriptor().Oneofs().Get(0))
		switch {
		case f == nil || f.Number() == 1:
			return nil, nil
		case f.Message() != nil:
			return textMessageOf(m.Get(f).Message())
		}
		x, err := scalarOf(f, m.Get(f))
		return x, err
	}
	out := map[string]any{}
	var err error
	for i := range fields.Len() {
		f := fields.Get(i)
		if !m.Has(f) {
			continue
		}
		if !f.IsList() {
			x, bad := scalarOf(f, m.Get(f))
			err = firstOf(err, bad)
			out[string(f.Name())] = x
			continue
		}
		list := []any{}
		for k := range m.Get(f).List().Len() {
			x, bad := scalarOf(f, m.Get(f).List().Get(k))
			err = firstOf(err, bad)
			list = append(list, x)
		}
		out[string(f.Name())] = list
	}
	return out, err
}

// plain reads JSON text back and drops what reflection cannot see: unknown tags
// and empty lists.
func plain(x any, engine bool) any {
	switch x := x.(type) {
	case json.RawMessage:
		var v any
		if json.Unmarshal(x, &v) != nil {
			return "not JSON: " + string(x)
		}
		return plain(v, engine)
	case map[string]any:
		out := map[string]any{}
		for k, v := range x {
			list, isList := v.([]any)
			if engine && (regexp.MustCompile(`^\d+$`).MatchString(k) && len(x) > 0 && k != "" || isList && len(list) == 0) {
				continue
			}
			out[k] = plain(v, engine)
		}
		return out
	case []any:
		out := []any{}
		for _, v := range x {
			out = append(out, plain(v, engine))
		}
		return out
	case int64:
		return float64(x)
	case uint64:
		return float64(x)
	case float32:
		var f float64
		json.Unmarshal([]byte(fmt.Sprint(x)), &f)
		return f
	}
	return x
}

// checkWire holds the decoder against protobuf-go for one payload.
func checkWire(t *testing.T, s *schemas.Schema, m protoreflect.MessageDescriptor, payload []byte) {
	if len(payload) == 0 || payload[0] == '{' || payload[0] == '[' {
		return
	}
	b := s.NewBatch(memory.DefaultAllocator)
	defer b.Release()
	b.Append([]byte("\x12\x08before!!"), arrival)
	if len(payload)%2 == 1 {
		b.Record().Release() // into used memory
	}
	before := b.Rows()
	rows, bad, err := b.Append(payload, arrival)
	info, checkErr := s.NewChecker().Check(payload)
	if err == nil && (info.Samples != rows+len(bad) || info.Bad != len(bad)) || (checkErr != nil) != (err != nil || len(bad) > 0) {
		t.Fatalf("checker says %+v, %v; batch says %d, %d bad, %v", info, checkErr, rows, len(bad), err)
	}
	if b.Rows() != before+rows {
		t.Fatalf("%d rows reported, %d there", rows, b.Rows()-before)
	}
	samples := [][]byte{payload}
	if key, n := protowire.ConsumeVarint(payload); n > 0 && key == 15<<3|2 {
		samples = nil
		for rest := payload; len(rest) > 0; {
			num, typ, n := protowire.ConsumeTag(rest)
			var sample []byte
			k := -1
			if n > 0 && num == 15 && typ == protowire.BytesType {
				sample, k = protowire.ConsumeBytes(rest[n:])
			}
			if k < 0 {
				if err == nil {
					t.Fatalf("took a broken batch: %x", payload)
				}
				return
			}
			samples = append(samples, sample)
			rest = rest[n+k:]
		}
		if err != nil {
			t.Fatalf("refused a batch: %v", err)
		}
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
		_, isBad := badAt[i]
		isBad = isBad || err != nil
		if strings.Contains(badAt[i].Reason, "too_deep") || err != nil && strings.Contains(err.Error(), "too_deep") {
			return
		}
		msg := dynamicpb.NewMessage(m)
		isOdd, stray := odd(m, sample)
		var wantErr error
		if !isOdd { // dynamicpb panics on some of what is odd
			wantErr = proto.Unmarshal(sample, msg)
		}
		want := map[string]any{}
		if wantErr == nil {
			wantErr = messageRow(msg, "", want)
		}
		if isOdd || stray && hasBatchTag(sample) { // the batch tag among others is refused
			if !isBad {
				next++
			}
			continue
		}
		if isBad && wantErr == nil && notFinite(badAt[i], err) {
			continue // not finite, and overwritten later in the message: protobuf-go forgets it
		}
		if isBad != (wantErr != nil) {
			t.Fatalf("sample %d %x: bad is %v (%v %v), protobuf-go says %v", i, sample, isBad, err, badAt[i].Detail, wantErr)
		}
		if isBad {
			continue
		}
		row := got[next]
		next++
		if _, kept := row["_unknown"]; stray && !kept && len(msg.GetUnknown()) > 0 {
			t.Fatalf("sample %d %x: unknown fields are gone", i, sample)
		}
		delete(row, "_unknown")
		if want["time"] == nil {
			want["time"] = arrival.Format(time.RFC3339Nano)
		}
		for column, w := range want {
			if g, isText := row[column].(json.RawMessage); isText {
				if x, y := plain(g, column != "free"), plain(w, column != "free"); !reflect.DeepEqual(x, y) {
					t.Fatalf("%s is %#v, want %#v", column, x, y)
				}
				delete(row, column)
				delete(want, column)
			}
		}
		for column := range row { // columns of a oneof's message that is not chosen
			if _, there := want[column]; !there && column == "other_codes" {
				delete(row, column)
			}
		}
		compareRows(t, row, want)
	}
}

// FuzzProtobuf holds the wire reader against protobuf-go.
func FuzzProtobuf(f *testing.F) {
	m := everythingDescriptor(f)
	s := everything(f, schemas.Source{Format: schemas.FormatProto, Text: everythingProto, Root: "Everything"})
	for _, seed := range wireSeeds(m) {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, payload []byte) { checkWire(t, s, m, payload) })
}

// wireSeeds are broken messages by hand and whole ones by chance.
func wireSeeds(m protoreflect.MessageDescriptor) [][]byte {
	seeds := [][]byte{
		positionProto,
		[]byte("\xa0\x80\x00\x3f\xfa\x00\x00"), // tags in more bytes than they need, the second one the batch tag
		[]byte("\x08\x01"),                     // time as a varint
		[]byte("\x11\x00\x00"),
		[]byte("\x11\x00\x00\x00\x00\x00\x00\xf8\x7f"), // NaN
		[]byte("\x1d\x00\x00\x80\x7f"),                 // infinity
		[]byte("\x20\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01"),
		[]byte("\x20\xff\xff\xff\xff\xff\xff\xff\xff\xff\x02"),
		[]byte("\x20\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01"),
		[]byte("\x20\x80"),
		[]byte("\xa0\x80\x00\x01"),         // a key longer than need be
		[]byte("\x52\x02\xff\xfe"),         // invalid UTF-8
		[]byte("\x52\x05ab"),               // too short
		[]byte("\xa3\x06\x08\x01\xa4\x06"), // an unknown group
		[]byte("\xa3\x06\x08\x01\xac\x06"), // closed by another
		[]byte("\x23\x24"),                 // a known tag as a group
		[]byte("\x60\x11\x68\x63"),         // enum numbers without a name
		[]byte("\x82\x01\x09\x00"),         // packed doubles cut off
		[]byte("\x7a\x02\x20\x01\x7a\x00"), // a batch
		[]byte("\x7a\x02\x20\x01\x20\x01"), // a batch and more
		[]byte("\x20\x01\x7a\x02\x20\x01"), // more and a batch
		[]byte("\x7a\x02\x20\x80\x7a\x02\x20\x05"),
		[]byte("\xf8\x07\x96\x01\xf5\x07\x00\x00\x80\x3f\xf2\x07\x03abc\xf8\x07\x01"), // unknown fields
		[]byte("\x72\x04\xf8\x07\x01\x08"), []byte("\x72\x03\xf8\x07\x01"),
		[]byte("\xd2\x01\x01a\xda\x01\x02\x10\x01\xe0\x01\x05"), // oneof: the last one counts
		[]byte("\x00"), []byte("\x07"), []byte("\x0c"),
	}
	rng := rand.New(rand.NewPCG(1, 2))
	for range 40 {
		msg := dynamicpb.NewMessage(m)
		randomMessage(rng, msg, 0)
		b, _ := proto.Marshal(msg)
		seeds = append(seeds, b)
		if len(b) < 100 {
			seeds = append(seeds, protowire.AppendBytes(protowire.AppendTag(nil, 15, protowire.BytesType), b))
		}
	}
	return seeds
}

// randomMessage fills some fields.
func randomMessage(rng *rand.Rand, m protoreflect.Message, depth int) {
	fields := m.Descriptor().Fields()
	for i := range fields.Len() {
		f := fields.Get(i)
		if rng.IntN(3) != 0 || depth > 4 {
			continue
		}
		switch {
		case f.IsMap():
			for range rng.IntN(4) {
				k := randomScalar(rng, f.MapKey()).MapKey()
				if f.MapValue().Message() != nil {
					v := m.Mutable(f).Map().NewValue()
					randomMessage(rng, v.Message(), depth+1)
					m.Mutable(f).Map().Set(k, v)
				} else {
					m.Mutable(f).Map().Set(k, randomScalar(rng, f.MapValue()))
				}
			}
		case f.IsList():
			for range rng.IntN(5) {
				if f.Message() != nil {
					randomMessage(rng, m.Mutable(f).List().AppendMutable().Message(), depth+1)
				} else {
					m.Mutable(f).List().Append(randomScalar(rng, f))
				}
			}
		case f.Message() != nil:
			randomMessage(rng, m.Mutable(f).Message(), depth+1)
		default:
			m.Set(f, randomScalar(rng, f))
		}
	}
}

func randomScalar(rng *rand.Rand, f protoreflect.FieldDescriptor) protoreflect.Value {
	n := rng.Uint64() >> rng.IntN(64)
	switch f.Kind() {
	case protoreflect.BoolKind:
		return protoreflect.ValueOfBool(n&1 == 0)
	case protoreflect.EnumKind:
		return protoreflect.ValueOfEnum(protoreflect.EnumNumber(rng.IntN(5) - 1))
	case protoreflect.Int32Kind, protoreflect.Sint32Kind, protoreflect.Sfixed32Kind:
		if f.Name() == "nanos" {
			return protoreflect.ValueOfInt32(int32(rng.IntN(1e9)))
		}
		return protoreflect.ValueOfInt32(int32(n))
	case protoreflect.Uint32Kind, protoreflect.Fixed32Kind:
		return protoreflect.ValueOfUint32(uint32(n))
	case protoreflect.Int64Kind, protoreflect.Sint64Kind, protoreflect.Sfixed64Kind:
		if f.Name() == "seconds" || f.Name() == "stamp" {
			return protoreflect.ValueOfInt64(rng.Int64N(2e9))
		}
		return protoreflect.ValueOfInt64(int64(n))
	case protoreflect.Uint64Kind, protoreflect.Fixed64Kind:
		return protoreflect.ValueOfUint64(n)
	case protoreflect.FloatKind:
		return protoreflect.ValueOfFloat32(float32(rng.NormFloat64()))
	case protoreflect.DoubleKind:
		return protoreflect.ValueOfFloat64(rng.NormFloat64())
	case protoreflect.BytesKind:
		return protoreflect.ValueOfBytes([]byte{byte(n), 0xff})
	}
	return protoreflect.ValueOfString([]string{"", "a", "ünïcödé", "quo\"te\\\n\x01"}[rng.IntN(4)])
}

// TestRandomProtobuf is what fuzzing does with whole messages, in short.
func TestRandomProtobuf(t *testing.T) {
	m := everythingDescriptor(t)
	s := everything(t, schemas.Source{Format: schemas.FormatProto, Text: everythingProto, Root: "Everything"})
	for seed := range seeds(3000) {
		rng := rand.New(rand.NewPCG(seed, 0))
		msg := dynamicpb.NewMessage(m)
		randomMessage(rng, msg, 0)
		b, err := proto.MarshalOptions{Deterministic: true}.Marshal(msg)
		if err != nil {
			t.Fatal(err)
		}
		if seed%3 == 0 && len(b) > 0 { // break it
			b[rng.IntN(len(b))] ^= 1 << rng.IntN(8)
		}
		t.Run(fmt.Sprint("seed=", seed), func(t *testing.T) { checkWire(t, s, m, b) })
		if t.Failed() {
			return
		}
	}
}
