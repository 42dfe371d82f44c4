package schemas

// A plan is what a decoder follows: the tree of the schema with a vector at
// every leaf. Each decoder has its own, because plans learn the order in which
// a fleet's firmware writes its keys.
type plan struct {
	steps    []*step
	first    *step            // JSON: what the last object began with
	names    map[string]*step // JSON: by name, aliases too
	tags     [128]*step       // protobuf: by the first byte of the key, where that is all of it
	far      map[uint64]*step // protobuf: by longer keys
	required []*step
	prefix   string // protobuf: tags above, for what is unknown
}

// A step is one field: how to read it and where it goes.
type step struct {
	key  string // JSON: the name as it is written, `"speed":`
	next *step  // JSON: what followed the last time

	op     op
	item   op    // of one value of a list or a map; else op
	usual  usual // protobuf: the short way to read it
	packed bool  // protobuf: the list comes in one piece
	id     int   // of the field, for seen
	vec    *vector
	node   *node
	plan   *plan // of an object
	path   string
	oneof  int // 1 + index among the oneofs; 0: none

	low, high uint64 // integers: the magnitudes that still fit, negative and positive
}

// An op is how a JSON value is read.
type op uint8

const (
	opFloat64 op = iota
	opFloat32
	opInt
	opString
	opBool
	opEnum
	opTime
	opDuration
	opBytes
	opJSON
	opObject
	opList
	opMap
)

// A usual is a value of protobuf with a path of its own.
type usual uint8

const (
	notUsual usual = iota
	usualDouble
	usualFloat
	usualVarint
	usualBool
	usualTimestamp
)

func usualOf(n *node) usual {
	switch {
	case n.list || n.isMap || n.oneof != "":
	case n.kind == Float64 && n.wire == wireFixed64:
		return usualDouble
	case n.kind == Float32 && n.wire == wireFixed32:
		return usualFloat
	case n.kind.integer() && n.wire == wireVarint:
		return usualVarint
	case n.kind == Bool && n.wire == wireVarint:
		return usualBool
	case n.kind == Time && n.wire == wireTimestamp:
		return usualTimestamp
	}
	return notUsual
}

// opOf is how one value of n is read, whether n is a list of them or not.
func opOf(n *node) op {
	switch {
	case n.object():
		return opObject
	case n.wire == wireDuration:
		return opDuration
	case n.kind == Float64:
		return opFloat64
	case n.kind == Float32:
		return opFloat32
	case n.kind == String:
		return opString
	case n.kind == Bool:
		return opBool
	case n.kind == Enum:
		return opEnum
	case n.kind == Time:
		return opTime
	case n.kind == Bytes:
		return opBytes
	case n.kind == JSON:
		return opJSON
	}
	return opInt
}

// A planner makes plans.
type planner struct {
	vecs   []*vector
	ids    int
	oneofs map[string]int
}

func (p *planner) plan(n *node, path, prefix string) *plan {
	pl := &plan{names: map[string]*step{}, far: map[uint64]*step{}, prefix: prefix}
	for _, child := range n.children {
		st := p.step(child, path, prefix)
		pl.steps = append(pl.steps, st)
		pl.name(st)
		if child.required {
			pl.required = append(pl.required, st)
		}
		if child.tag != 0 {
			pl.tag(st)
		}
	}
	return pl
}

func (p *planner) step(n *node, path, prefix string) *step {
	st := &step{key: quoteKey(n.name), op: opOf(n), id: p.ids, node: n, path: path + n.name}
	p.ids++
	if n.oneof != "" {
		if p.oneofs[n.oneof] == 0 {
			p.oneofs[n.oneof] = len(p.oneofs) + 1
		}
		st.oneof = p.oneofs[n.oneof]
	}
	if n.object() {
		st.plan = p.plan(n, st.path+".", prefix+tagText(n.tag)+".")
		return st
	}
	st.vec = p.vecs[n.index]
	st.item, st.usual = st.op, usualOf(n)
	st.low, st.high = integerRange(n.kind)
	switch {
	case n.list:
		st.op = opList
	case n.isMap:
		st.op = opMap
	}
	return st
}

// name enters a step under its name and its aliases.
func (pl *plan) name(st *step) {
	pl.names[st.node.name] = st
	for _, alias := range st.node.alias {
		if pl.names[alias] == nil {
			also := *st
			also.key = quoteKey(alias)
			pl.names[alias] = &also
		}
	}
}

// tag enters a step under its wire keys.
func (pl *plan) tag(st *step) {
	n := st.node
	pl.tagAs(st, wireTypeOf(n))
	if n.widened {
		narrow, was := *st, *n
		was.wire, narrow.node, narrow.usual = wireFixed32, &was, notUsual
		pl.tagAs(&narrow, fixed32Type)
	}
	if n.list && wireTypeOf(n) != bytesType {
		packed := *st
		packed.packed = true
		pl.tagAs(&packed, bytesType)
	}
}

func (pl *plan) tagAs(st *step, wireType uint64) {
	key := uint64(st.node.tag)<<3 | wireType
	if key < 128 {
		pl.tags[key] = st
	} else {
		pl.far[key] = st
	}
}

// byTag finds a step by the tag alone.
func (pl *plan) byTag(tag uint64) *step {
	for _, st := range pl.steps {
		if uint64(st.node.tag) == tag {
			return st
		}
	}
	return nil
}

// integerRange is how far below and above zero a kind reaches.
func integerRange(k Kind) (low, high uint64) {
	switch {
	case k.unsigned():
		return 0, 1<<k.bits() - 1
	case k.signed():
		return 1 << (k.bits() - 1), 1<<(k.bits()-1) - 1
	}
	return 0, 0
}
