package schemas

import "strings"

// UnknownColumn holds, as JSON text, what a sample had and its schema has not.
const UnknownColumn = "_unknown"

// TimeColumn holds the sample's device time, or its arrival time if it had none.
const TimeColumn = "time"

// RowColumn, in Arrow records only, is the index of the sample in its message.
const RowColumn = "_row"

// A Column is one column of a ClickHouse table.
type Column struct {
	Name    string
	Type    string // as ClickHouse writes it: Nullable(Float64)
	Codec   string // what stands inside CODEC(...); empty for the table's own
	Comment string
}

var timeColumn = Column{
	Name: TimeColumn, Type: "DateTime64(6, 'UTC')", Codec: "Delta(8), ZSTD(1)",
	Comment: "device time; arrival time where the device sent none",
}

var unknownColumn = Column{
	Name: UnknownColumn, Type: "String", Codec: "ZSTD(3)",
	Comment: "JSON of the fields that the schema does not know; empty if none",
}

// column is the ClickHouse side of a field.
func (f *Field) column() Column {
	c := Column{Name: f.Column, Type: clickhouseType(f), Codec: codec(f)}
	var parts []string
	if f.Description != "" {
		parts = append(parts, f.Description)
	}
	if f.Unit != "" {
		parts = append(parts, "["+f.Unit+"]")
	}
	if f.Signal != "" {
		parts = append(parts, f.Signal)
	}
	c.Comment = strings.Join(parts, " ")
	return c
}

var scalarTypes = [...]string{
	Bool: "Bool", Int8: "Int8", Int16: "Int16", Int32: "Int32", Int64: "Int64",
	Uint8: "UInt8", Uint16: "UInt16", Uint32: "UInt32", Uint64: "UInt64",
	Float32: "Float32", Float64: "Float64", String: "String", Bytes: "String", JSON: "String",
	Enum: "LowCardinality(String)", Time: "DateTime64(6, 'UTC')",
}

func clickhouseType(f *Field) string {
	t := scalarTypes[f.Kind]
	switch {
	case f.Map:
		return "Map(" + scalarTypes[f.KeyKind] + ", " + t + ")"
	case f.List:
		return "Array(" + t + ")"
	case f.Nullable && f.Kind == Enum:
		return "LowCardinality(Nullable(String))"
	case f.Nullable:
		return "Nullable(" + t + ")"
	}
	return t
}

// codec picks by kind: signals of one device lie together and in time order, so
// neighbours differ little. Gorilla and Delta before a light ZSTD are what
// ClickHouse's own measurements favour for such columns.
func codec(f *Field) string {
	if f.List || f.Map {
		return "ZSTD(1)"
	}
	switch f.Kind {
	case Time:
		return "Delta(8), ZSTD(1)"
	case Float32, Float64:
		return "Gorilla, ZSTD(1)"
	case Int16, Int32, Int64, Uint16, Uint32, Uint64:
		return "T64, ZSTD(1)"
	case JSON:
		return "ZSTD(3)"
	}
	return "ZSTD(1)"
}
