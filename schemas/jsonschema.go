package schemas

import (
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"

	"github.com/santhosh-tekuri/jsonschema/v6"
)

// annotations are keywords that say nothing about which values are valid, and
// those that are dealt with elsewhere. additionalProperties: false is one of
// them: what a schema does not know is kept, never refused.
var annotations = []string{
	"$schema", "$id", "$anchor", "$comment", "$defs", "definitions", "title", "description", "examples", "example", "default",
	"deprecated", "readOnly", "writeOnly", "x-unit", "x-signal", "x-vss", "x-renamed-from", "x-time-unit", "type", "nullable",
}

// compileJSONSchema reads a JSON Schema document (any draft that its $schema
// names, 2020-12 if it names none).
func compileJSONSchema(name string, src Source) (*node, error) {
	document, err := parseDoc(src.Text)
	if err != nil {
		var invalid *InvalidError
		if errors.As(err, &invalid) {
			invalid.Name = name
		}
		return nil, err
	}
	if err := checkDocument(src.Text); err != nil {
		return nil, &InvalidError{Name: name, Detail: err.Error()}
	}
	c := jsonCompiler{name: name, document: document}
	root, err := c.node(document, nil, nil)
	if err != nil {
		return nil, err
	}
	if !root.object() {
		return nil, &InvalidError{Name: name, Detail: "is not an object with properties"}
	}
	root.release = document.text("x-vss")
	return root, takeTime(name, root)
}

// noLoader refuses every reference that leaves the document.
type noLoader struct{}

func (noLoader) Load(url string) (any, error) {
	return nil, fmt.Errorf("%s is outside the document, only #/... can be referred to", url)
}

// checkDocument validates the document against the meta-schema of its draft.
func checkDocument(text string) error {
	value, err := jsonschema.UnmarshalJSON(strings.NewReader(text))
	if err != nil {
		return err
	}
	compiler := jsonschema.NewCompiler()
	compiler.UseLoader(noLoader{})
	const url = "mem:///schema.json"
	if err := compiler.AddResource(url, value); err != nil {
		return err
	}
	if _, err := compiler.Compile(url); err != nil {
		return errors.New(strings.ReplaceAll(strings.ReplaceAll(err.Error(), "\n", " "), url, ""))
	}
	return nil
}

type jsonCompiler struct {
	name     string
	document *doc
	nodes    int
}

func (c *jsonCompiler) refuse(path []string, format string, args ...any) error {
	where := "document: "
	if len(path) > 0 {
		where = "field " + strings.Join(path, ".") + ": "
	}
	return &InvalidError{Name: c.name, Detail: where + fmt.Sprintf(format, args...)}
}

// node makes the node of a schema; refs are the references that led to it.
func (c *jsonCompiler) node(d *doc, path, refs []string) (*node, error) {
	if c.nodes++; c.nodes > 4*MaxColumns || len(path) > MaxNesting+1 {
		return nil, c.refuse(path, "is one field too many, at most %d columns and %d levels are taken", MaxColumns, MaxNesting)
	}
	if d.scalar == true || d.object && len(d.members) == 0 {
		return &node{kind: JSON, nullable: true}, nil
	}
	if !d.object {
		return nil, c.refuse(path, "admits no value")
	}
	if ref := d.text("$ref"); ref != "" {
		return c.reference(d, ref, path, refs)
	}
	d, null, err := c.orNull(d, path)
	if err != nil {
		return nil, err
	}
	if ref := d.text("$ref"); ref != "" {
		return c.reference(d, ref, path, refs)
	}
	types := d.strings("type")
	if i := slices.Index(types, "null"); i >= 0 {
		types, null = slices.Delete(slices.Clone(types), i, i+1), true
	}
	if len(types) > 1 {
		return nil, c.refuse(path, "type %s: a column has one type", strings.Join(types, ", "))
	}
	var n *node
	switch kind := c.typeOf(d, types); kind {
	case "object":
		n, err = c.object(d, path, refs)
	case "array":
		n, err = c.array(d, path, refs)
	case "string":
		n, err = c.text(d, path)
	case "integer", "number":
		n, err = c.number(d, kind, path)
	case "boolean":
		n, err = &node{kind: Bool}, c.only(d, path, "enum")
	case "":
		n, err = &node{kind: JSON}, c.only(d, path)
	default:
		err = c.refuse(path, "type %s has no column", kind)
	}
	if err != nil {
		return nil, err
	}
	n.nullable = !n.object() && !n.list && !n.isMap
	n.canBeNull = null
	n.description, n.unit, n.signal = d.text("description"), d.text("x-unit"), d.text("x-signal")
	if old := d.text("x-renamed-from"); old != "" {
		n.alias = []string{old}
		n.renamed = old
	}
	if unit := d.text("x-time-unit"); unit != "" {
		if err := n.setTimeUnit(unit); err != nil {
			return nil, c.refuse(path, "x-time-unit: %v", err)
		}
	}
	return n, nil
}

// typeOf is the type that a schema means, also where it does not say so.
func (c *jsonCompiler) typeOf(d *doc, types []string) string {
	switch {
	case len(types) == 1:
		return types[0]
	case d.get("properties") != nil || d.get("additionalProperties") != nil:
		return "object"
	case d.get("items") != nil:
		return "array"
	case d.get("enum") != nil || d.get("const") != nil || d.get("format") != nil:
		return "string"
	}
	return ""
}

// orNull undoes anyOf and oneOf where they only add null to one other schema.
func (c *jsonCompiler) orNull(d *doc, path []string) (*doc, bool, error) {
	for _, keyword := range []string{"anyOf", "oneOf"} {
		choice := d.get(keyword)
		if choice == nil {
			continue
		}
		var other *doc
		null := false
		for _, item := range choice.items {
			if item.text("type") == "null" {
				null = true
			} else if other == nil {
				other = item
			} else {
				return nil, false, c.refuse(path, "%s: a column has one type; only a type and null can be chosen from", keyword)
			}
		}
		if other == nil {
			return nil, false, c.refuse(path, "%s: admits null alone", keyword)
		}
		merged := &doc{object: true, members: slices.Clone(other.members)}
		for _, m := range d.members {
			if m.key != keyword && merged.get(m.key) == nil {
				merged.members = append(merged.members, m)
			}
		}
		return merged, null, nil
	}
	return d, slices.ContainsFunc(d.members, func(m member) bool { return m.key == "nullable" && m.value.scalar == true }), nil
}

// reference follows a $ref within the document. What stands beside it in d
// (description, unit) wins over what it refers to.
func (c *jsonCompiler) reference(d *doc, ref string, path, refs []string) (*node, error) {
	if slices.Contains(refs, ref) {
		return nil, c.refuse(path, "$ref %s is recursive, which no table can hold", ref)
	}
	rest, local := strings.CutPrefix(ref, "#")
	if !local {
		return nil, c.refuse(path, "$ref %s: only #/... can be referred to", ref)
	}
	target := c.document
	for _, token := range strings.Split(rest, "/")[1:] {
		token = strings.NewReplacer("~1", "/", "~0", "~").Replace(token)
		if target = target.get(token); target == nil {
			return nil, c.refuse(path, "$ref %s: %s is not there", ref, token)
		}
	}
	if rest == "" {
		return nil, c.refuse(path, "$ref %s is recursive, which no table can hold", ref)
	}
	merged := &doc{scalar: target.scalar, object: target.object}
	for _, m := range d.members {
		if m.key != "$ref" {
			if !slices.Contains(annotations, m.key) {
				return nil, c.refuse(path, "%s beside $ref is not supported", m.key)
			}
			merged.members = append(merged.members, m)
		}
	}
	for _, m := range target.members {
		if merged.get(m.key) == nil {
			merged.members = append(merged.members, m)
		}
	}
	return c.node(merged, path, append(refs[:len(refs):len(refs)], ref))
}

// only refuses keywords that would have to be enforced and are not.
func (c *jsonCompiler) only(d *doc, path []string, known ...string) error {
	for _, m := range d.members {
		if !slices.Contains(annotations, m.key) && !slices.Contains(known, m.key) && !strings.HasPrefix(m.key, "x-") {
			return c.refuse(path, "keyword %s is not supported here; remove it, it would not be enforced", m.key)
		}
	}
	return nil
}

func (c *jsonCompiler) object(d *doc, path, refs []string) (*node, error) {
	if err := c.only(d, path, "properties", "required", "additionalProperties"); err != nil {
		return nil, err
	}
	properties, additional := d.get("properties"), d.get("additionalProperties")
	if properties == nil || len(properties.members) == 0 {
		if additional != nil && additional.object && len(additional.members) > 0 {
			return c.mapping(additional, path, refs)
		}
		return &node{kind: JSON, shape: '{'}, nil
	}
	if additional != nil && additional.object && len(additional.members) > 0 {
		return nil, c.refuse(path, "additionalProperties beside properties: a field is either an object or a map; what is not declared is kept anyway")
	}
	n := &node{}
	required := d.strings("required")
	for _, m := range properties.members {
		sub := append(path[:len(path):len(path)], m.key)
		child, err := c.node(m.value, sub, refs)
		if err != nil {
			return nil, err
		}
		child.name = m.key
		if slices.Contains(required, m.key) {
			child.required = true
			child.nullable = child.nullable && (child.canBeNull || child.kind == JSON)
		}
		n.children = append(n.children, child)
	}
	for _, name := range required {
		if properties.get(name) == nil {
			return nil, c.refuse(path, "required field %s is not among the properties", name)
		}
	}
	return n, nil
}

func (c *jsonCompiler) mapping(value *doc, path, refs []string) (*node, error) {
	n, err := c.node(value, append(path[:len(path):len(path)], "*"), refs)
	if err != nil {
		return nil, err
	}
	if n.object() || n.list || n.isMap || n.kind == JSON || n.canBeNull {
		return &node{kind: JSON, shape: '{'}, nil
	}
	n.isMap, n.key = true, &node{kind: String}
	return n, nil
}

func (c *jsonCompiler) array(d *doc, path, refs []string) (*node, error) {
	if err := c.only(d, path, "items"); err != nil {
		return nil, err
	}
	items := d.get("items")
	if items == nil {
		return &node{kind: JSON, shape: '['}, nil
	}
	n, err := c.node(items, append(path[:len(path):len(path)], "*"), refs)
	if err != nil {
		return nil, err
	}
	if n.object() || n.list || n.isMap || n.kind == JSON || n.canBeNull {
		return &node{kind: JSON, shape: '['}, nil
	}
	n.list = true
	return n, nil
}

func (c *jsonCompiler) text(d *doc, path []string) (*node, error) {
	if err := c.only(d, path, "enum", "const", "format"); err != nil {
		return nil, err
	}
	values := d.get("enum")
	if one := d.get("const"); one != nil {
		values = &doc{items: []*doc{one}}
	}
	if values == nil {
		n := &node{kind: String}
		if d.text("format") == "date-time" {
			n.kind, n.timeUnit = Time, "rfc3339"
		}
		return n, nil
	}
	e := &enumSet{byName: map[string]string{}}
	for _, v := range values.items {
		s, ok := v.scalar.(string)
		if !ok {
			return nil, c.refuse(path, "enum: only strings are supported")
		}
		e.names = append(e.names, s)
		e.byName[s] = s
	}
	return &node{kind: Enum, enum: e}, nil
}

func (c *jsonCompiler) number(d *doc, kind string, path []string) (*node, error) {
	if err := c.only(d, path, "minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "format"); err != nil {
		return nil, err
	}
	var l limits
	if v, ok := d.number("minimum"); ok {
		l.min, l.minGiven = v, true
	}
	if v, ok := d.number("maximum"); ok {
		l.max, l.maxGiven = v, true
	}
	if v, ok := d.number("exclusiveMinimum"); ok && (!l.minGiven || v >= l.min) {
		l.min, l.minGiven, l.minOpen = v, true, true
	}
	if v, ok := d.number("exclusiveMaximum"); ok && (!l.maxGiven || v <= l.max) {
		l.max, l.maxGiven, l.maxOpen = v, true, true
	}
	if l.minGiven && l.maxGiven && l.min > l.max {
		return nil, c.refuse(path, "no number is between %v and %v", l.min, l.max)
	}
	n := &node{kind: Float64}
	if l.minGiven || l.maxGiven {
		n.limits = &l
	}
	if kind == "number" {
		if d.text("format") == "float" {
			n.kind = Float32
		}
		return n, nil
	}
	if math.Abs(l.min) > 1<<53 || math.Abs(l.max) > 1<<53 {
		n.limits = nil // beyond what a float64 holds exactly; the column's own range counts
	}
	n.kind = l.integerKind()
	switch d.text("format") {
	case "int32":
		n.kind = Int32
	case "int64":
		n.kind = Int64
	case "uint32":
		n.kind = Uint32
	case "uint64":
		n.kind = Uint64
	}
	return n, nil
}
