package schemas

import (
	"errors"
	"fmt"
	"strings"
)

// ErrBatchFull tells that a Batch holds as much as Arrow's 32-bit offsets can
// address safely: take its Record, then append again.
var ErrBatchFull = errors.New("batch is full")

// An InvalidError tells why a source is not a schema.
type InvalidError struct {
	Name         string
	Line, Column int // 1-based; 0 when not known
	Detail       string
}

func (e *InvalidError) Error() string {
	if e.Line == 0 {
		return fmt.Sprintf("schema %s: %s", e.Name, e.Detail)
	}
	return fmt.Sprintf("schema %s: %d:%d: %s", e.Name, e.Line, e.Column, e.Detail)
}

// An IncompatibleError names every reason why a source cannot follow the
// current version of a schema.
type IncompatibleError struct {
	Name    string
	Reasons []string
}

func (e *IncompatibleError) Error() string {
	return fmt.Sprintf("schema %s: incompatible change: %s", e.Name, strings.Join(e.Reasons, "; "))
}

// A Reason is a stable code for why a payload or a sample was refused. It is
// what dead letters and metrics carry.
type Reason string

// The reasons.
const (
	NotJSON      Reason = "not_json"      // neither JSON nor, for a .proto, protobuf
	NotProto     Reason = "not_protobuf"  // a tag, wire type or length that cannot be
	Truncated    Reason = "truncated"     // ends in the middle
	Empty        Reason = "empty"         // no bytes, or a batch without samples
	TooLarge     Reason = "too_large"     // more bytes than a Batch can address
	TooDeep      Reason = "too_deep"      // nested beyond the limit
	WrongType    Reason = "wrong_type"    // not the type that the schema says
	OutOfRange   Reason = "out_of_range"  // a number or enum value that does not fit
	NotFinite    Reason = "not_finite"    // NaN or an infinity
	BadTime      Reason = "bad_time"      // not a time, or outside 1900 to 2299
	InvalidUTF8  Reason = "invalid_utf8"  // in a string or a key
	DuplicateKey Reason = "duplicate_key" // an object names a key twice
	MissingField Reason = "missing_field" // a required field is not there
	Misplaced    Reason = "misplaced"     // samples and other fields side by side
)

// A DecodeError tells why a payload or a sample was refused.
type DecodeError struct {
	Reason Reason
	Path   string // of the field, dotted; empty when it is the whole
	Offset int    // in the payload
	Sample int    // index of the sample in its message
	Detail string
}

func (e *DecodeError) Error() string {
	var b strings.Builder
	fmt.Fprintf(&b, "decode sample %d at byte %d", e.Sample, e.Offset)
	if e.Path != "" {
		b.WriteString(": " + e.Path)
	}
	b.WriteString(": " + string(e.Reason))
	if e.Detail != "" {
		b.WriteString(": " + e.Detail)
	}
	return b.String()
}
