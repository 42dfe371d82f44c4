package schemas

import "fmt"

// A Format says in which language a Source is written.
type Format string

// The formats of today.
const (
	FormatProto      Format = "proto"       // a .proto file; payloads are protobuf or JSON
	FormatJSONSchema Format = "json-schema" // a JSON Schema document; payloads are JSON
)

// A Source is the text that a user registered, kept as it was written.
type Source struct {
	Format Format `json:"format"`
	Text   string `json:"text"`

	// Root names the message of a .proto file that is a sample. It may be empty
	// when only one message can be meant: the one that no other message uses.
	Root string `json:"root,omitempty"`
}

// What a schema may be at most. The limits keep a table that ClickHouse can
// serve and a compiler that no upload can occupy.
const (
	MaxSourceBytes = 256 << 10
	MaxColumns     = 1000
	MaxNesting     = 16 // levels of messages or objects below the root
)

// maxNameBytes bounds names that a payload of a byte or two can put into a row:
// those of enum values, and of fields that are written as JSON text.
const maxNameBytes = 128

// compile reads a source on its own, without regard to earlier versions.
func compile(name string, src Source) (*node, error) {
	if len(src.Text) > MaxSourceBytes {
		return nil, &InvalidError{Name: name, Detail: fmt.Sprintf("source has %d bytes, at most %d are taken", len(src.Text), MaxSourceBytes)}
	}
	switch src.Format {
	case FormatProto:
		return compileProto(name, src)
	case FormatJSONSchema:
		return compileJSONSchema(name, src)
	default:
		return nil, &InvalidError{Name: name, Detail: fmt.Sprintf("format %q is not one of %q, %q", src.Format, FormatProto, FormatJSONSchema)}
	}
}
