package schemas

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/bufbuild/protocompile"
	"github.com/bufbuild/protocompile/reporter"
	"google.golang.org/protobuf/reflect/protoreflect"
)

// batchTag is the field that holds the samples of a batch where the source
// declares no batch message of its own.
const batchTag = 15

// compileProto reads a .proto file. The imports of protoc's own files
// (google/protobuf/*.proto) are there, nothing else is.
func compileProto(name string, src Source) (*node, error) {
	file, err := parseProto(name, src.Text)
	if err != nil {
		return nil, err
	}
	c := protoCompiler{name: name}
	message, batch, err := c.root(file, src.Root)
	if err != nil {
		return nil, err
	}
	root, err := c.message(message, nil)
	if err != nil {
		return nil, err
	}
	root.batch = batch
	return root, takeTime(name, root)
}

// parseProto compiles the text to descriptors.
func parseProto(name, text string) (protoreflect.FileDescriptor, error) {
	const file = "schema.proto"
	compiler := protocompile.Compiler{
		Resolver: protocompile.WithStandardImports(&protocompile.SourceResolver{
			Accessor: protocompile.SourceAccessorFromMap(map[string]string{file: text}),
		}),
		MaxParallelism: 1,
		SourceInfoMode: protocompile.SourceInfoStandard,
	}
	files, err := compiler.Compile(context.Background(), file)
	if err == nil {
		return files[0], nil
	}
	e := &InvalidError{Name: name, Detail: strings.TrimPrefix(err.Error(), file+":")}
	var at reporter.ErrorWithPos
	if errors.As(err, &at) {
		e.Line, e.Column, e.Detail = at.GetPosition().Line, at.GetPosition().Col, at.Unwrap().Error()
	}
	if strings.Contains(e.Detail, "could not resolve path") || strings.Contains(e.Detail, "not found") && strings.Contains(e.Detail, ".proto") {
		e.Detail += ": only google/protobuf/*.proto can be imported, put everything else into the one file"
	}
	return nil, e
}

type protoCompiler struct {
	name   string
	fields int
}

func (c *protoCompiler) refuse(d protoreflect.Descriptor, format string, args ...any) error {
	e := &InvalidError{Name: c.name, Detail: fmt.Sprintf("%s: ", d.FullName()) + fmt.Sprintf(format, args...)}
	if loc := d.ParentFile().SourceLocations().ByDescriptor(d); loc.Path != nil {
		e.Line, e.Column = loc.StartLine+1, loc.StartColumn+1
	}
	return e
}

// root finds the message that is a sample, and the tag under which a batch
// holds its samples (0: there is no batch form).
func (c *protoCompiler) root(file protoreflect.FileDescriptor, want string) (protoreflect.MessageDescriptor, int32, error) {
	var all, candidates []protoreflect.MessageDescriptor
	for i := range file.Messages().Len() {
		all = append(all, file.Messages().Get(i))
	}
	if len(all) == 0 {
		return nil, 0, &InvalidError{Name: c.name, Detail: "file declares no message"}
	}
	used := map[protoreflect.FullName]bool{}
	for _, m := range all {
		if !isBatch(m) {
			markUsed(m, used)
		}
	}
	var names []string
	for _, m := range all {
		if want == "" && !used[m.FullName()] && !isBatch(m) || want != "" && (string(m.Name()) == want || string(m.FullName()) == want) {
			candidates = append(candidates, m)
			names = append(names, string(m.Name()))
		}
	}
	var root protoreflect.MessageDescriptor
	switch {
	case len(candidates) == 1:
		root = candidates[0]
	case want != "":
		return nil, 0, &InvalidError{Name: c.name, Detail: fmt.Sprintf("root message %s is not in the file", want)}
	case len(candidates) == 0:
		root = all[0] // they use each other: the recursion will be reported
	default:
		return nil, 0, &InvalidError{Name: c.name, Detail: "several messages could be the sample, name one as root: " + strings.Join(names, ", ")}
	}

	for _, m := range all {
		if !isBatch(m) || m.Fields().Get(0).Message() != root {
			continue
		}
		f := m.Fields().Get(0)
		if root.Fields().ByNumber(f.Number()) != nil {
			return nil, 0, c.refuse(f, "tag %d is also a field of %s, so a batch could not be told from a sample", f.Number(), root.Name())
		}
		return root, int32(f.Number()), nil
	}
	if root.Fields().ByNumber(batchTag) != nil {
		return root, 0, nil
	}
	return root, batchTag, nil
}

// isBatch tells whether a message is a batch of another: its name ends in Batch
// and all it has is a list of it.
func isBatch(m protoreflect.MessageDescriptor) bool {
	if m.Fields().Len() != 1 || !strings.HasSuffix(string(m.Name()), "Batch") {
		return false
	}
	f := m.Fields().Get(0)
	return f.IsList() && f.Kind() == protoreflect.MessageKind && f.Message() != m
}

// markUsed notes the messages that m's fields hold, at any depth.
func markUsed(m protoreflect.MessageDescriptor, used map[protoreflect.FullName]bool) {
	for i := range m.Fields().Len() {
		if sub := m.Fields().Get(i).Message(); sub != nil && !used[sub.FullName()] {
			used[sub.FullName()] = true
			markUsed(sub, used)
		}
	}
}

// enter checks that a message may stand below those above it, and returns the
// path with it.
func (c *protoCompiler) enter(m protoreflect.MessageDescriptor, above []protoreflect.FullName) ([]protoreflect.FullName, error) {
	for _, a := range above {
		if a == m.FullName() {
			return nil, c.refuse(m, "is recursive, which no table can hold")
		}
	}
	switch {
	case len(above) > MaxNesting:
		return nil, c.refuse(m, "is nested more than %d levels deep", MaxNesting)
	case m.Fields().Len() == 0:
		return nil, c.refuse(m, "has no fields")
	}
	if c.fields += m.Fields().Len(); c.fields > 4*MaxColumns {
		return nil, c.refuse(m, "is one message too many, at most %d fields are taken", 4*MaxColumns)
	}
	return append(above[:len(above):len(above)], m.FullName()), nil
}

// message makes the node of a message; above are the messages around it.
func (c *protoCompiler) message(m protoreflect.MessageDescriptor, above []protoreflect.FullName) (*node, error) {
	above, err := c.enter(m, above)
	if err != nil {
		return nil, err
	}
	note := noteOf(m)
	n := &node{name: string(m.Name()), wire: wireBytes, description: note.text, release: note.release}
	for i := range m.Fields().Len() {
		child, err := c.field(m.Fields().Get(i), above)
		if err != nil {
			return nil, err
		}
		n.children = append(n.children, child)
	}
	for i := range m.ReservedRanges().Len() {
		r := m.ReservedRanges().Get(i)
		n.reserved = append(n.reserved, tagRange{int32(r[0]), int32(r[1])})
	}
	return n, nil
}

// field makes the node of a field.
func (c *protoCompiler) field(f protoreflect.FieldDescriptor, above []protoreflect.FullName) (*node, error) {
	n, err := c.typed(f, above)
	if err != nil {
		return nil, err
	}
	n.name, n.tag, n.alias = string(f.Name()), int32(f.Number()), nil
	if f.JSONName() != n.name {
		n.alias = []string{f.JSONName()}
	}
	if o := f.ContainingOneof(); o != nil && !o.IsSynthetic() {
		n.oneof = string(o.FullName())
	}
	note := noteOf(f)
	n.description, n.signal = note.text, note.signal
	if note.unit != "" {
		n.unit = note.unit
	}
	if note.timeUnit != "" {
		if err := n.setTimeUnit(note.timeUnit); err != nil {
			return nil, c.refuse(f, "%v", err)
		}
	}
	return n, nil
}

// typed makes a node of a field's type.
func (c *protoCompiler) typed(f protoreflect.FieldDescriptor, above []protoreflect.FullName) (*node, error) {
	switch {
	case f.Kind() == protoreflect.GroupKind:
		return nil, c.refuse(f, "groups are not supported")
	case f.Cardinality() == protoreflect.Required:
		return nil, c.refuse(f, "required is not supported, a sample without it could not be kept")
	case f.IsMap():
		value, err := c.value(f.MapValue())
		if err != nil {
			return nil, err
		}
		if value == nil || value.kind == JSON {
			return c.textNode(f, above)
		}
		key, err := c.value(f.MapKey())
		if err != nil {
			return nil, err
		}
		value.isMap, value.key = true, key
		return value, nil
	}
	n, err := c.value(f)
	switch {
	case err != nil:
		return nil, err
	case n == nil && !f.IsList():
		return c.message(f.Message(), above)
	case n == nil || n.kind == JSON:
		return c.textNode(f, above)
	}
	n.list = f.IsList()
	n.nullable = f.HasPresence()
	return n, nil
}

// value makes the node of one value of a field's type; nil if that is a message
// of the user's own.
func (c *protoCompiler) value(f protoreflect.FieldDescriptor) (*node, error) {
	if f.Message() == nil {
		n := scalarNode(f)
		if n.enum != nil {
			for _, name := range n.enum.names {
				if len(name) > maxNameBytes {
					return nil, c.refuse(f.Enum(), "value %.20s... has %d bytes, at most %d are taken", name, len(name), maxNameBytes)
				}
			}
		}
		return n, nil
	}
	if f.Message().ParentFile().Package() != "google.protobuf" {
		return nil, nil
	}
	n := wellKnown(f.Message())
	if n == nil {
		return nil, c.refuse(f, "%s is not supported", f.Message().FullName())
	}
	return n, nil
}

// textNode makes a leaf that keeps what the field has as JSON text.
func (c *protoCompiler) textNode(f protoreflect.FieldDescriptor, above []protoreflect.FullName) (*node, error) {
	t, err := c.textOf(f, above)
	if err != nil {
		return nil, err
	}
	return &node{kind: JSON, wire: wireMessage, nullable: true, text: t, shape: t.shape()}, nil
}

// scalarNode makes the node of a field that is no message.
func scalarNode(f protoreflect.FieldDescriptor) *node {
	n := &node{strings: true}
	switch f.Kind() {
	case protoreflect.BoolKind:
		n.kind, n.wire = Bool, wireVarint
	case protoreflect.Int32Kind:
		n.kind, n.wire = Int32, wireVarint
	case protoreflect.Sint32Kind:
		n.kind, n.wire = Int32, wireZigzag
	case protoreflect.Sfixed32Kind:
		n.kind, n.wire = Int32, wireFixed32
	case protoreflect.Uint32Kind:
		n.kind, n.wire = Uint32, wireVarint
	case protoreflect.Fixed32Kind:
		n.kind, n.wire = Uint32, wireFixed32
	case protoreflect.Int64Kind:
		n.kind, n.wire = Int64, wireVarint
	case protoreflect.Sint64Kind:
		n.kind, n.wire = Int64, wireZigzag
	case protoreflect.Sfixed64Kind:
		n.kind, n.wire = Int64, wireFixed64
	case protoreflect.Uint64Kind:
		n.kind, n.wire = Uint64, wireVarint
	case protoreflect.Fixed64Kind:
		n.kind, n.wire = Uint64, wireFixed64
	case protoreflect.FloatKind:
		n.kind, n.wire = Float32, wireFixed32
	case protoreflect.DoubleKind:
		n.kind, n.wire = Float64, wireFixed64
	case protoreflect.StringKind:
		n.kind, n.wire = String, wireBytes
	case protoreflect.BytesKind:
		n.kind, n.wire = Bytes, wireBytes
	case protoreflect.EnumKind:
		n.kind, n.wire, n.enum = Enum, wireVarint, enumOf(f.Enum())
	}
	return n
}

func enumOf(d protoreflect.EnumDescriptor) *enumSet {
	e := &enumSet{byNumber: map[int32]string{}, byName: map[string]string{}, open: true}
	for i := range d.Values().Len() {
		name, number := string(d.Values().Get(i).Name()), int32(d.Values().Get(i).Number())
		if _, taken := e.byNumber[number]; !taken {
			e.byNumber[number] = name
		}
		e.byName[name] = e.byNumber[number]
		e.names = append(e.names, name)
	}
	return e
}

// wellKnown makes the node of a message of google.protobuf; nil if there is no
// column for it.
func wellKnown(m protoreflect.MessageDescriptor) *node {
	switch m.Name() {
	case "Timestamp":
		return &node{kind: Time, wire: wireTimestamp, strings: true}
	case "Duration":
		return &node{kind: Int64, wire: wireDuration, unit: "ns", strings: true}
	case "Struct", "Value", "ListValue":
		return &node{kind: JSON, wire: wireMessage}
	case "DoubleValue", "FloatValue", "Int64Value", "UInt64Value", "Int32Value", "UInt32Value", "BoolValue", "StringValue", "BytesValue":
		inner := scalarNode(m.Fields().ByNumber(1))
		return &node{kind: inner.kind, wire: wireWrapper, inner: inner, strings: true}
	}
	return nil
}
