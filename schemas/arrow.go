package schemas

import "github.com/apache/arrow/go/v15/arrow"

// kindKey is the metadata key under which an Arrow field names its Kind, where
// the Arrow type does not say it (JSON text, enum names).
const kindKey = "tachograph.kind"

var utc = &arrow.TimestampType{Unit: arrow.Microsecond, TimeZone: "UTC"}

var arrowScalars = [...]arrow.DataType{
	Bool: arrow.FixedWidthTypes.Boolean,
	Int8: arrow.PrimitiveTypes.Int8, Int16: arrow.PrimitiveTypes.Int16, Int32: arrow.PrimitiveTypes.Int32, Int64: arrow.PrimitiveTypes.Int64,
	Uint8: arrow.PrimitiveTypes.Uint8, Uint16: arrow.PrimitiveTypes.Uint16, Uint32: arrow.PrimitiveTypes.Uint32, Uint64: arrow.PrimitiveTypes.Uint64,
	Float32: arrow.PrimitiveTypes.Float32, Float64: arrow.PrimitiveTypes.Float64,
	String: arrow.BinaryTypes.String, Enum: arrow.BinaryTypes.String, JSON: arrow.BinaryTypes.String, Bytes: arrow.BinaryTypes.Binary,
	Time: utc,
}

func arrowType(f *Field) arrow.DataType {
	t := arrowScalars[f.Kind]
	switch {
	case f.Map:
		m := arrow.MapOf(arrowScalars[f.KeyKind], t)
		m.SetItemNullable(false)
		return m
	case f.List:
		return arrow.ListOfNonNullable(t)
	}
	return t
}

func arrowSchema(s *Schema) *arrow.Schema {
	fields := make([]arrow.Field, 0, len(s.columns)+1)
	fields = append(fields, arrow.Field{Name: TimeColumn, Type: utc})
	for i := range s.fields {
		f := &s.fields[i]
		fields = append(fields, arrow.Field{Name: f.Column, Type: arrowType(f), Nullable: f.Nullable, Metadata: kindMetadata(f.Kind)})
	}
	fields = append(fields,
		arrow.Field{Name: UnknownColumn, Type: arrow.BinaryTypes.String, Metadata: kindMetadata(JSON)},
		arrow.Field{Name: RowColumn, Type: arrow.PrimitiveTypes.Uint32})
	return arrow.NewSchema(fields, nil)
}

func kindMetadata(k Kind) arrow.Metadata {
	if k == JSON || k == Enum {
		return arrow.NewMetadata([]string{kindKey}, []string{k.String()})
	}
	return arrow.Metadata{}
}
