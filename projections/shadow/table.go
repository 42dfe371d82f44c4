package shadow

import (
	"strconv"
	"strings"
)

// pointerEscape is RFC 6901, section 3.
var pointerEscape = strings.NewReplacer("~", "~0", "/", "~1")

// TableName is the ClickHouse table of changes, TableSchema its columns beside
// those that every table has (device, received, where the row comes from).
const (
	TableName   = "shadow_changes"
	TableSchema = `syntax = "proto3";
import "google/protobuf/timestamp.proto";

// One row for each leaf that an accepted update names, and one for a delete.
message ShadowChange {
  google.protobuf.Timestamp time = 1;   // of the decision
  string shadow = 2;                    // name; empty for the classic shadow
  uint64 version = 3;                   // of the document after the change
  string change = 4;                    // updated or deleted
  string by = 5;                        // device, or who asked
  optional string client_token = 6;
  string section = 7;                   // desired or reported
  string path = 8;                      // JSON Pointer (RFC 6901) of the leaf in its section
  optional string value = 9;            // as JSON; null: the leaf, and what was below it, is deleted
}
`
)

// TableRows renders a fact as a batch of samples of TableSchema, in JSON. A fact
// that names no leaf is one row without a section.
func TableRows(name, typ string, payload []byte) ([]byte, error) {
	f, err := ParseFact(typ, payload)
	if err != nil {
		return nil, err
	}
	head := append([]byte(`{"time":`), strconv.FormatInt(f.At, 10)...)
	head = append(head, `,"shadow":`...)
	head = appendString(head, name)
	head = append(head, `,"version":`...)
	head = strconv.AppendUint(head, f.Version, 10)
	head = append(head, `,"change":`...)
	head = appendString(head, f.Type)
	head = append(head, `,"by":`...)
	head = appendString(head, f.By)
	if f.ClientToken != "" {
		head = append(head, `,"client_token":`...)
		head = appendString(head, f.ClientToken)
	}
	b := []byte{'['}
	for _, s := range []member{{"desired", f.desired}, {"reported", f.reported}} {
		if s.node != nil {
			b = appendLeaves(b, head, s.name, "", s.node)
		}
	}
	if len(b) == 1 {
		b = append(append(append(b, head...), '}'), ',')
	}
	b[len(b)-1] = ']'
	return b, nil
}

// appendLeaves appends a row and a comma for each leaf below n.
func appendLeaves(b, head []byte, section, path string, n *node) []byte {
	if n.isObject() {
		for _, m := range n.members {
			b = appendLeaves(b, head, section, path+"/"+pointerEscape.Replace(m.name), m.node)
		}
		return b
	}
	b = append(b, head...)
	b = append(append(append(b, `,"section":"`...), section...), `","path":`...)
	b = appendString(b, path)
	if !n.isNull() {
		b = append(b, `,"value":`...)
		b = appendString(b, string(n.value))
	}
	return append(b, '}', ',')
}
