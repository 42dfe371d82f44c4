package shadow

import (
	"bytes"
	"sort"
	"strconv"

	"github.com/go-json-experiment/json/jsontext"
)

// A node is an object or a leaf of a shadow's tree. Nodes are never changed
// once built: merge shares what it does not touch, so that a document before
// and after an update can both be kept for the price of the update.
type node struct {
	members []member // an object's, sorted by name; nil for a leaf
	value   jsontext.Value
	at      int64 // leaf: epoch seconds of the update that set it
}

type member struct {
	name string
	node *node
}

var null = &node{value: jsontext.Value("null")}

func (n *node) isNull() bool   { return n.value != nil && n.value[0] == 'n' }
func (n *node) isObject() bool { return n.value == nil }

// find returns where name is, or where it belongs.
func (n *node) find(name string) (int, bool) {
	i := sort.Search(len(n.members), func(i int) bool { return n.members[i].name >= name })
	return i, i < len(n.members) && n.members[i].name == name
}

// merge returns old with patch laid over it: objects deep, everything else
// whole, null deletes. A nil result means that nothing is left. Leaves of the
// patch are stamped with at, also where their value stays the same.
func merge(old, patch *node, at int64) *node {
	if patch.isNull() {
		return nil
	}
	if !patch.isObject() {
		return &node{value: patch.value, at: at}
	}
	if old == nil || !old.isObject() {
		old = &node{}
	}
	out := make([]member, 0, len(old.members)+len(patch.members))
	i, j := 0, 0
	for i < len(old.members) || j < len(patch.members) {
		switch {
		case j == len(patch.members) || i < len(old.members) && old.members[i].name < patch.members[j].name:
			out = append(out, old.members[i])
			i++
			continue
		case i < len(old.members) && old.members[i].name == patch.members[j].name:
			if m := merge(old.members[i].node, patch.members[j].node, at); m != nil {
				out = append(out, member{old.members[i].name, m})
			}
			i++
		default:
			if m := merge(nil, patch.members[j].node, at); m != nil {
				out = append(out, member{patch.members[j].name, m})
			}
		}
		j++
	}
	if len(out) == 0 {
		return nil // an object that became empty disappears with its key
	}
	return &node{members: out}
}

// diff returns the part of desired that reported does not have, nil when there
// is none. Its leaves are desired's own, time stamps included.
func diff(desired, reported *node) *node {
	if desired == nil {
		return nil
	}
	if !desired.isObject() {
		if reported != nil && !reported.isObject() && equalValues(desired.value, reported.value) {
			return nil
		}
		return desired
	}
	if reported == nil || !reported.isObject() {
		return desired
	}
	var out []member
	for _, m := range desired.members {
		var other *node
		if i, ok := reported.find(m.name); ok {
			other = reported.members[i].node
		}
		if d := diff(m.node, other); d != nil {
			out = append(out, member{m.name, d})
		}
	}
	if len(out) == 0 {
		return nil
	}
	return &node{members: out}
}

// sameValues tells whether two trees hold the same values, whenever they were set.
func sameValues(a, b *node) bool {
	switch {
	case a == nil || b == nil:
		return a == b
	case a.isObject() != b.isObject():
		return false
	case !a.isObject():
		return equalValues(a.value, b.value)
	case len(a.members) != len(b.members):
		return false
	}
	for i := range a.members {
		if a.members[i].name != b.members[i].name || !sameValues(a.members[i].node, b.members[i].node) {
			return false
		}
	}
	return true
}

// appendJSON appends the tree's values, keys sorted, without white space.
func (n *node) appendJSON(b []byte) []byte {
	if !n.isObject() {
		return append(b, n.value...)
	}
	return n.appendObject(b, (*node).appendJSON)
}

// appendMetadata appends the tree with {"timestamp":seconds} for each leaf; an
// array has one for each of its elements, as they are all set at once.
func (n *node) appendMetadata(b []byte) []byte {
	if n.isObject() {
		return n.appendObject(b, (*node).appendMetadata)
	}
	return appendLeafMetadata(b, n.value, n.at)
}

func (n *node) appendObject(b []byte, appendNode func(*node, []byte) []byte) []byte {
	b = append(b, '{')
	for i, m := range n.members {
		if i > 0 {
			b = append(b, ',')
		}
		b = appendString(b, m.name)
		b = append(b, ':')
		b = appendNode(m.node, b)
	}
	return append(b, '}')
}

func appendLeafMetadata(b []byte, value jsontext.Value, at int64) []byte {
	if value[0] != '[' {
		return appendTimestamp(b, at)
	}
	return appendElementMetadata(b, jsontext.NewDecoder(bytes.NewReader(value)), at)
}

// appendElementMetadata mirrors the next value of dec. The values were checked
// when they came in, so reading them again cannot fail.
func appendElementMetadata(b []byte, dec *jsontext.Decoder, at int64) []byte {
	kind := dec.PeekKind()
	if kind != '[' && kind != '{' {
		_ = dec.SkipValue()
		return appendTimestamp(b, at)
	}
	_, _ = dec.ReadToken()
	b = append(b, byte(kind))
	for first := true; ; first = false {
		if next := dec.PeekKind(); next == ']' || next == '}' || next == 0 {
			_, _ = dec.ReadToken()
			return append(b, byte(kind)+2) // in ASCII the closing bracket stands two after the opening one
		}
		if !first {
			b = append(b, ',')
		}
		if kind == '{' {
			name, _ := dec.ReadToken()
			b = append(appendString(b, name.String()), ':')
		}
		b = appendElementMetadata(b, dec, at)
	}
}

func appendTimestamp(b []byte, at int64) []byte {
	b = append(b, `{"timestamp":`...)
	b = strconv.AppendInt(b, at, 10)
	return append(b, '}')
}

func appendString(b []byte, s string) []byte {
	b, _ = jsontext.AppendQuote(b, s) // fails on invalid UTF-8 only, which was refused on the way in
	return b
}
