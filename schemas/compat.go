package schemas

import (
	"fmt"
	"slices"
	"strings"
)

// follow checks whether next can follow the current version, and hands down to
// it what the table already has: the names of columns, names that old firmware
// still uses, fields that were given up. It returns every reason why it cannot.
//
// A field of a .proto is the same if its tag is, whatever it is called now; a
// field of a JSON Schema is the same if its name is, or if x-renamed-from says so.
func follow(current *Schema, next *node, format Format) []string {
	c := comparison{proto: format == FormatProto}
	if format != current.source.Format {
		return []string{fmt.Sprintf("format was %s, is %s", current.source.Format, format)}
	}
	c.batches(current.root, next)
	c.object(current.root, next, "")
	return c.reasons
}

type comparison struct {
	proto   bool
	reasons []string
}

func (c *comparison) refuse(path, format string, args ...any) {
	reason := fmt.Sprintf(format, args...)
	if path != "" {
		reason = "field " + path + ": " + reason
	}
	c.reasons = append(c.reasons, reason)
}

// batches compares the tags under which a batch holds its samples.
func (c *comparison) batches(was, is *node) {
	taken := was.child(func(n *node) bool { return n.tag == is.batch }) != nil
	switch {
	case !c.proto || was.batch == is.batch && !taken:
	case was.batch == 0 && taken: // the field is retired, its tag stays its own
		is.batch = 0
	case was.batch != 0:
		c.refuse("", "samples of a batch had tag %d, have %s", was.batch, orNone(strings.Trim(tagText(is.batch), "0")))
	}
}

// object compares the members of an object. prefix is the path to them.
func (c *comparison) object(was, is *node, prefix string) {
	claimed := map[*node]bool{}
	for _, old := range was.children {
		successor := is.child(func(n *node) bool { return !claimed[n] && c.same(old, n) })
		if successor == nil {
			c.gone(old, is, prefix)
			continue
		}
		claimed[successor] = true
		c.pair(old, successor, prefix)
	}
	for _, n := range is.children {
		if !claimed[n] && !n.retired {
			c.added(n, prefix)
		}
	}
}

// same tells whether two nodes are one field.
func (c *comparison) same(old, n *node) bool {
	if c.proto {
		return old.tag == n.tag
	}
	return old.name == n.name || n.renamed == old.name || n.renamed != "" && n.renamed == old.renamed
}

// gone deals with a field that the new source does not have. In a .proto it may
// be retired by reserving its tag: its column stays, and what old firmware still
// sends goes there.
func (c *comparison) gone(old, is *node, prefix string) {
	path := prefix + old.name
	switch {
	case old.sampled && !c.proto:
		return // the built-in rule still reads it
	case !c.proto:
		c.refuse(path, "was removed: leave it in, marked deprecated")
		return
	case !old.retired && !is.gaveUp(old.tag):
		c.refuse(path, "was removed: leave it in, or reserve its tag %d", old.tag)
		return
	}
	kept := old.copy()
	kept.retired = true
	is.children = append(is.children, kept)
}

// copy copies a tree, so that a later version can change its own.
func (n *node) copy() *node {
	twin := *n
	twin.alias = slices.Clone(n.alias)
	twin.children = nil
	for _, child := range n.children {
		twin.children = append(twin.children, child.copy())
	}
	return &twin
}

// pair compares a field with its successor.
func (c *comparison) pair(old, is *node, prefix string) {
	path := prefix + is.name
	if is.name != old.name {
		is.alias = append(is.alias, old.name)
	}
	for _, alias := range old.alias {
		if alias != is.name && !slices.Contains(is.alias, alias) {
			is.alias = append(is.alias, alias)
		}
	}
	if old.retired && is.name != old.name {
		c.refuse(path, "tag %d was that of %s, which is retired: take another", is.tag, old.name)
		return
	}
	is.column = old.column
	switch {
	case old.object() && is.object():
		c.object(old, is, path+".")
		return
	case old.object() != is.object():
		c.refuse(path, "was %s, is %s", old.describe(), is.describe())
		return
	case old.sampled != is.sampled:
		c.refuse(path, "the sample's own time cannot become another field")
	}
	if why := changed(old, is); why != "" {
		c.refuse(path, "%s", why)
	}
	c.presence(old, is, path)
	if old.unit != is.unit && old.unit != "" {
		c.refuse(path, "unit was %s, is %s: stored rows would mean something else", old.unit, orNone(is.unit))
	}
	if old.oneof != is.oneof && (old.oneof == "" || is.oneof != "") {
		c.refuse(path, "was moved into a oneof")
	}
	if old.enum != nil && is.enum != nil {
		c.values(old.enum, is.enum, path)
	}
}

// presence compares whether a field may be missing.
func (c *comparison) presence(old, is *node, path string) {
	if is.required && !old.required {
		c.refuse(path, "was optional, is required")
	}
	if old.nullable && !is.nullable && !is.required && !is.list && !is.isMap {
		c.refuse(path, "was optional, is not: mark it optional")
	}
}

// values refuses changes of an enum that make stored names mean something else.
func (c *comparison) values(old, is *enumSet, path string) {
	for _, name := range old.names {
		if _, kept := is.byName[name]; !kept && !old.open {
			c.refuse(path, "value %q was removed", name)
		}
	}
	numbers := make([]int32, 0, len(old.byNumber))
	for number := range old.byNumber {
		numbers = append(numbers, number)
	}
	slices.Sort(numbers)
	for _, number := range numbers {
		switch now, kept := is.byNumber[number]; {
		case !kept:
			c.refuse(path, "value %s = %d was removed", old.byNumber[number], number)
		case now != old.byNumber[number]:
			c.refuse(path, "value %d was %s, is %s", number, old.byNumber[number], now)
		}
	}
}

// added deals with a field that the current version does not have.
func (c *comparison) added(n *node, prefix string) {
	path := prefix + n.name
	switch {
	case n.sampled:
	case n.object():
		if n.required {
			c.refuse(path, "a new field cannot be required")
		}
		for _, child := range n.children {
			c.added(child, path+".")
		}
	case n.required:
		c.refuse(path, "a new field cannot be required")
	case !n.nullable && !n.list && !n.isMap:
		c.refuse(path, "a new field must be optional: stored rows would show a %s that nobody sent", n.kind)
	}
}

// changed compares types. Allowed is what holds every stored value and still
// reads what old firmware sends.
func changed(old, is *node) string {
	refused := fmt.Sprintf("was %s, is %s", old.describe(), is.describe())
	switch {
	case old.list != is.list || old.isMap != is.isMap:
		return refused
	case old.isMap && old.key.kind != is.key.kind:
		return refused
	case old.kind == Time && is.kind == Time && (old.timeUnit != is.timeUnit || old.wire != is.wire):
		return fmt.Sprintf("time unit was %s, is %s", orNone(old.timeUnit), orNone(is.timeUnit))
	case old.kind == is.kind && sameWire(old, is):
		is.widened = is.widened || old.widened
		return ""
	case old.kind == Float32 && is.kind == Float64 && !old.list && !old.isMap:
		is.widened = old.wire == wireFixed32 && is.wire == wireFixed64
		if is.widened || old.wire == is.wire && old.wire != wireWrapper {
			return ""
		}
	case widens(old.kind, is.kind) && sameWire(old, is) && old.wire != wireFixed32 && old.wire != wireWrapper && (old.wire != wireZigzag || is.kind.signed()):
		return ""
	}
	return refused
}

func sameWire(old, is *node) bool {
	if old.wire != is.wire || (old.text == nil) != (is.text == nil) {
		return false
	}
	return old.shape == is.shape || is.shape == 0
}

// widens tells whether every integer of one kind is one of the other.
func widens(from, to Kind) bool {
	switch {
	case !from.integer() || !to.integer():
		return false
	case from.unsigned() && to.signed():
		return to.bits() > from.bits()
	}
	return from.signed() == to.signed() && to.bits() > from.bits()
}

// describe names the type of a node for people.
func (n *node) describe() string {
	var b strings.Builder
	switch {
	case n.object():
		return "object"
	case n.isMap:
		fmt.Fprintf(&b, "map of %s to ", n.key.kind)
	case n.list:
		b.WriteString("list of ")
	}
	b.WriteString(n.kind.String())
	if w := [...]string{wireZigzag: " (zigzag)", wireFixed32: " (32 bits)", wireFixed64: " (64 bits)", wireWrapper: " (wrapped)", wireMessage: ""}; int(n.wire) < len(w) && n.kind.integer() {
		b.WriteString(w[n.wire])
	}
	return b.String()
}

func orNone(s string) string {
	if s == "" {
		return "none"
	}
	return s
}
