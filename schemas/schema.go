package schemas

import "github.com/apache/arrow/go/v15/arrow"

// A Schema is one version of what the payloads of a message type mean. It is
// immutable and safe for all goroutines.
type Schema struct {
	name    string
	version uint32
	source  Source
	root    *node
	fields  []Field
	columns []Column
	arrow   *arrow.Schema
}

// newSchema lays a compiled source out in columns.
func newSchema(name string, version uint32, src Source, root *node) (*Schema, error) {
	s := &Schema{name: name, version: version, source: src, root: root}
	fields, err := flatten(name, root)
	if err != nil {
		return nil, err
	}
	s.fields = fields
	s.columns = make([]Column, 0, len(fields)+2)
	s.columns = append(s.columns, timeColumn)
	for i := range fields {
		s.columns = append(s.columns, fields[i].column())
	}
	s.columns = append(s.columns, unknownColumn)
	s.arrow = arrowSchema(s)
	return s, nil
}

// Own compiles the schema of a table of ours, under a name that no message type
// may have. It has version 1 and is in no registry.
//
// Errors: *InvalidError.
func Own(name string, src Source) (*Schema, error) {
	root, err := compile(name, src)
	if err != nil {
		return nil, err
	}
	return newSchema(name, 1, src, root)
}

// Name is the message type.
func (s *Schema) Name() string { return s.name }

// Version counts from 1.
func (s *Schema) Version() uint32 { return s.version }

// Source is the text that was registered.
func (s *Schema) Source() Source { return s.source }

// Release is the VSS release that the source is written for, if it says so.
func (s *Schema) Release() string { return s.root.release }

// Description is the source's own text about the message.
func (s *Schema) Description() string { return s.root.description }

// Fields lists what fills the columns between time and _unknown, in order. The
// caller must not change it.
func (s *Schema) Fields() []Field { return s.fields }

// Columns lists the ClickHouse columns: time, the fields, _unknown. The caller
// must not change it.
func (s *Schema) Columns() []Column { return s.columns }

// Arrow is the schema of a Batch's records: Columns, in order and by name, and
// _row (uint32) at the end.
func (s *Schema) Arrow() *arrow.Schema { return s.arrow }
