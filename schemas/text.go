package schemas

import "google.golang.org/protobuf/reflect/protoreflect"

// A text says how to write a field of a .proto as JSON text, where no column
// can hold it: lists and maps of messages, google.protobuf.Struct.
type text struct {
	tag    int32
	name   string
	list   bool
	key    *node   // of a map
	scalar *node   // what one value is; nil if a message
	free   free    // one of google.protobuf's free-form messages
	fields []*text // of a message
}

// A free is a free-form message of struct.proto.
type free uint8

const (
	notFree free = iota
	freeStruct
	freeValue
	freeList
)

// shape is the JSON that stands for the field: '{', '[' or 0 for any.
func (t *text) shape() byte {
	switch {
	case t.list, t.free == freeList && t.key == nil:
		return '['
	case t.free == freeValue && t.key == nil:
		return 0
	}
	return '{'
}

// textOf makes the text of a field and of all below it.
func (c *protoCompiler) textOf(f protoreflect.FieldDescriptor, above []protoreflect.FullName) (*text, error) {
	t := &text{tag: int32(f.Number()), name: string(f.Name()), list: f.IsList()}
	if f.Kind() == protoreflect.GroupKind {
		return nil, c.refuse(f, "groups are not supported")
	}
	if len(f.Name()) > maxNameBytes {
		return nil, c.refuse(f, "name has %d bytes, at most %d are taken", len(f.Name()), maxNameBytes)
	}
	value := f
	if f.IsMap() {
		t.key, value = scalarNode(f.MapKey()), f.MapValue()
	}
	scalar, err := c.value(value)
	switch {
	case err != nil:
		return nil, err
	case scalar == nil:
		return t, c.textFields(t, value.Message(), above)
	case scalar.kind != JSON:
		t.scalar = scalar
		return t, nil
	}
	switch value.Message().Name() {
	case "Struct":
		t.free = freeStruct
	case "Value":
		t.free = freeValue
	case "ListValue":
		t.free = freeList
	}
	return t, nil
}

func (c *protoCompiler) textFields(t *text, m protoreflect.MessageDescriptor, above []protoreflect.FullName) error {
	above, err := c.enter(m, above)
	if err != nil {
		return err
	}
	for i := range m.Fields().Len() {
		sub, err := c.textOf(m.Fields().Get(i), above)
		if err != nil {
			return err
		}
		t.fields = append(t.fields, sub)
	}
	return nil
}
