package schemas

// A Kind is what one value of a field is, apart from being a list, a map or
// nullable.
type Kind uint8

// The kinds. Bytes and JSON are both String columns in ClickHouse.
const (
	Invalid Kind = iota
	Bool
	Int8
	Int16
	Int32
	Int64
	Uint8
	Uint16
	Uint32
	Uint64
	Float32
	Float64
	String
	Bytes
	Enum // the value's name; the number's text when it has none
	Time // microseconds since 1970, UTC
	JSON // JSON text: repeated messages, free-form objects
)

var kindNames = [...]string{
	"invalid", "bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64",
	"float32", "float64", "string", "bytes", "enum", "time", "json",
}

func (k Kind) String() string {
	if int(k) < len(kindNames) {
		return kindNames[k]
	}
	return "invalid"
}

// Numeric tells whether averages make sense.
func (k Kind) Numeric() bool { return k >= Int8 && k <= Float64 }

func (k Kind) signed() bool   { return k >= Int8 && k <= Int64 }
func (k Kind) unsigned() bool { return k >= Uint8 && k <= Uint64 }
func (k Kind) integer() bool  { return k >= Int8 && k <= Uint64 }

// bits is the width of a number.
func (k Kind) bits() int {
	switch k {
	case Int8, Uint8:
		return 8
	case Int16, Uint16:
		return 16
	case Int32, Uint32, Float32:
		return 32
	case Int64, Uint64, Float64, Time:
		return 64
	}
	return 0
}

// varLen tells whether values have a length of their own.
func (k Kind) varLen() bool {
	switch k {
	case String, Bytes, Enum, JSON:
		return true
	}
	return false
}
