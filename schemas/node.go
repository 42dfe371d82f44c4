package schemas

import (
	"fmt"
	"math"
	"slices"
	"strings"
)

// A node is one field of a source: an object with children that is flattened
// away, or a leaf that fills a column. Both compilers make trees of it, the
// compatibility check compares them, the decoders are built from them.
type node struct {
	name      string   // as the source has it
	alias     []string // further names in JSON: lowerCamel, names of earlier versions
	column    string   // name of the column, given by an earlier version; else from the names
	tag       int32
	kind      Kind // Invalid for an object
	list      bool
	isMap     bool
	nullable  bool
	required  bool
	retired   bool
	renamed   string // JSON Schema: the name in an earlier version
	sampled   bool   // the sample's own time: fills the column time
	canBeNull bool   // JSON Schema: null is declared
	strings   bool   // JSON strings hold numbers too, as protojson writes them
	shape     byte   // JSON leaves: '{' or '[' where nothing else is taken
	children  []*node

	wire     wire
	widened  bool  // the fixed32 of an earlier float is still taken for this double
	key      *node // of a map
	inner    *node // of a wrapper message: its value
	text     *text // JSON leaves of a .proto: how to write their text
	oneof    string
	batch    int32      // root only: tag of the repeated samples; 0 if there is no such form
	reserved []tagRange // objects of a .proto: tags that are given up

	enum   *enumSet
	limits *limits

	timeUnit string // s, ms, us, ns, rfc3339 where declared
	scale    int64  // nanoseconds of a time unit
	number   Kind   // what protobuf carries for a declared time unit

	unit        string
	signal      string
	release     string // root only
	description string

	index int // of its column in the record; 0 is time
}

// A wire says how protobuf writes a value.
type wire uint8

const (
	wireVarint wire = iota
	wireZigzag
	wireFixed32
	wireFixed64
	wireBytes
	wireTimestamp // google.protobuf.Timestamp
	wireDuration  // google.protobuf.Duration
	wireWrapper   // google.protobuf.*Value of wrappers.proto
	wireMessage   // a message kept as JSON text, google.protobuf.Struct among them
)

// A tagRange holds the tags from first up to, not including, end.
type tagRange struct{ first, end int32 }

// gaveUp tells whether the message of n reserves a tag.
func (n *node) gaveUp(tag int32) bool {
	return slices.ContainsFunc(n.reserved, func(r tagRange) bool { return r.first <= tag && tag < r.end })
}

// An enumSet is what an enum field may hold.
type enumSet struct {
	byNumber map[int32]string  // .proto
	byName   map[string]string // what is stored: of several names of a number the first
	names    []string          // as declared
	open     bool              // numbers without a name are kept as their text (.proto)
}

// limits are the bounds that a JSON Schema sets on a number, both inclusive
// unless said otherwise.
type limits struct {
	min, max           float64
	minOpen, maxOpen   bool
	minGiven, maxGiven bool
}

func (l *limits) admits(v float64) bool {
	if l.minGiven && (v < l.min || l.minOpen && v == l.min) {
		return false
	}
	return !l.maxGiven || v < l.max || v == l.max && !l.maxOpen
}

// integerKind is the narrowest kind that holds all integers within l. Without a
// lower bound of zero or more it is signed; without an upper bound it has 64
// bits.
func (l *limits) integerKind() Kind {
	if l.minGiven && l.min >= 0 {
		for _, k := range []Kind{Uint8, Uint16, Uint32} {
			if l.maxGiven && l.max <= math.Pow(2, float64(k.bits()))-1 {
				return k
			}
		}
		return Uint64
	}
	for _, k := range []Kind{Int8, Int16, Int32} {
		half := math.Pow(2, float64(k.bits()-1))
		if l.minGiven && l.min >= -half && l.maxGiven && l.max <= half-1 {
			return k
		}
	}
	return Int64
}

// object tells whether n is flattened into the columns of its children.
func (n *node) object() bool { return n.kind == Invalid }

// child finds a child by a predicate, nil if there is none.
func (n *node) child(match func(*node) bool) *node {
	if i := slices.IndexFunc(n.children, match); i >= 0 {
		return n.children[i]
	}
	return nil
}

// flatten names the columns of all leaves, depth first, and numbers them.
func flatten(name string, root *node) ([]Field, error) {
	f := flattener{name: name, owner: map[string]string{}}
	if err := f.walk(root, nil, nil, false, 0); err != nil {
		return nil, err
	}
	if len(f.fields) == 0 && root.child(func(n *node) bool { return n.sampled }) == nil {
		return nil, &InvalidError{Name: name, Detail: "has no fields"}
	}
	return f.fields, nil
}

type flattener struct {
	name   string
	fields []Field
	owner  map[string]string // column -> path of its field
}

func (f *flattener) walk(parent *node, path []string, tags []int32, retired bool, depth int) error {
	if depth > MaxNesting {
		return &InvalidError{Name: f.name, Detail: fmt.Sprintf("%s is nested more than %d levels deep", strings.Join(path, "."), MaxNesting)}
	}
	for _, n := range parent.children {
		path := append(slices.Clone(path), n.name)
		tags := append(slices.Clone(tags), n.tag)
		if n.object() {
			if err := f.walk(n, path, tags, retired || n.retired, depth+1); err != nil {
				return err
			}
			continue
		}
		if n.sampled {
			continue // index 0
		}
		if n.column == "" {
			n.column = columnName(strings.Join(path, "_"))
		}
		if err := f.claim(n.column, strings.Join(path, ".")); err != nil {
			return err
		}
		f.fields = append(f.fields, n.field(path, tags, retired))
		n.index = len(f.fields)
	}
	return nil
}

// claim refuses a column that another field or the writer has.
func (f *flattener) claim(column, path string) error {
	refuse := func(format string, args ...any) error {
		return &InvalidError{Name: f.name, Detail: fmt.Sprintf("field %s: column ", path) + fmt.Sprintf(format, args...)}
	}
	switch owner, taken := f.owner[column]; {
	case taken:
		return refuse("%s is already that of field %s", column, owner)
	case reservedColumn(column):
		return refuse("%s is reserved", column)
	case column == TimeColumn:
		return refuse("time is the sample's own time and needs a time type at the root")
	case column[0] >= '0' && column[0] <= '9':
		return refuse("%s begins with a digit", column)
	case len(column) > maxNameBytes:
		return refuse("%s has %d bytes, at most %d are taken", column, len(column), maxNameBytes)
	case len(f.owner) >= MaxColumns:
		return refuse("%s is one too many, at most %d are taken", column, MaxColumns)
	}
	f.owner[column] = path
	return nil
}

func (n *node) field(path []string, tags []int32, retired bool) Field {
	f := Field{
		Column: n.column, Path: path,
		Kind: n.kind, List: n.list, Map: n.isMap,
		Nullable: n.nullable, Required: n.required, Retired: n.retired || retired,
		Unit: n.unit, TimeUnit: n.timeUnit, Signal: n.signal, Description: n.description,
		Tag: n.tag,
	}
	if n.tag != 0 {
		f.Tags = tags
	}
	if n.key != nil {
		f.KeyKind = n.key.kind
	}
	if n.enum != nil {
		f.Enum = n.enum.byNumber
	}
	return f
}
