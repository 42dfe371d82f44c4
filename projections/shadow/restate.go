package shadow

import (
	"fmt"
	"strconv"
)

// TypeRestated is of a fact that no log has: what a shadow's facts up to one came
// to. It stands in the place of them all in the base of a log that was compacted
// (see events.Base), where nobody but a fold meets it.
const TypeRestated = "restated"

// A Track is the fold of a shadow's facts with what hangs on their order. The zero
// value is a shadow that never was.
type Track struct {
	Document Document
	Pending  int64 // since when the device is not as desired, epoch milliseconds; 0: it is
}

// Evolve folds one fact.
func (t Track) Evolve(f Fact) Track {
	t.Document = t.Document.Evolve(f)
	switch {
	case t.Document.Converged():
		t.Pending = 0
	case f.Type == TypeRestated:
		t.Pending = f.Pending
	case t.Pending == 0:
		t.Pending = f.At
	}
	return t
}

// Restate renders the fact that alone gives the same:
//
//	{"version":7,"at":1700000000123,"pending":1700000000123,"desired":{"o":{"speed":{"v":80,"t":1700000000}}}}
//
// where an object has its members in o, and any other value stands in v and was set
// at t, epoch seconds. The shadow must exist.
func (t Track) Restate() ([]byte, error) {
	d := t.Document
	b := append([]byte(`{"version":`), strconv.FormatUint(d.Version, 10)...)
	b = append(b, `,"at":`...)
	b = strconv.AppendInt(b, d.At, 10)
	b = append(b, `,"pending":`...)
	b = strconv.AppendInt(b, t.Pending, 10)
	for _, s := range []member{{"desired", d.desired}, {"reported", d.reported}} {
		if s.node != nil {
			b = append(b, `,"`+s.name+`":`...)
			b = s.node.appendStamped(b)
		}
	}
	b = append(b, '}')
	f, err := ParseFact(TypeRestated, b)
	if err != nil {
		return nil, fmt.Errorf("restate shadow: %w", err)
	}
	again := Track{Document: Document{Name: d.Name}}.Evolve(f)
	if !d.Exists || again.Pending != t.Pending || !again.Document.same(d) {
		return nil, fmt.Errorf("restate shadow: version %d would not be the same afterwards", d.Version)
	}
	return b, nil
}

// same tells whether two documents are the same in everything that can be asked of them.
func (d Document) same(o Document) bool {
	return d.Name == o.Name && d.Version == o.Version && d.Exists == o.Exists && d.At == o.At && d.desired.same(o.desired) && d.reported.same(o.reported)
}

func (n *node) same(o *node) bool {
	if n == nil || o == nil {
		return n == o
	}
	if n.isObject() != o.isObject() || string(n.value) != string(o.value) || n.at != o.at || len(n.members) != len(o.members) {
		return false
	}
	for i, m := range n.members {
		if m.name != o.members[i].name || !m.node.same(o.members[i].node) {
			return false
		}
	}
	return true
}

func (n *node) appendStamped(b []byte) []byte {
	if n.isObject() {
		b = append(b, `{"o":`...)
		return append(n.appendObject(b, (*node).appendStamped), '}')
	}
	b = append(append(b, `{"v":`...), n.value...)
	b = append(b, `,"t":`...)
	return append(strconv.AppendInt(b, n.at, 10), '}')
}

// stampedOf is the inverse of appendStamped.
func stampedOf(n *node) (*node, error) {
	members, value := n.get("o"), n.get("v")
	switch {
	case members != nil && members.isObject():
		out := &node{members: make([]member, len(members.members))}
		for i, m := range members.members {
			child, err := stampedOf(m.node)
			if err != nil {
				return nil, err
			}
			out.members[i] = member{m.name, child}
		}
		return out, nil
	case value != nil && !value.isObject() && n.get("t") != nil:
		at, err := strconv.ParseInt(string(n.get("t").value), 10, 64)
		if err != nil {
			return nil, fmt.Errorf("time of a value: %w", err)
		}
		return &node{value: value.value, at: at}, nil
	}
	return nil, fmt.Errorf("neither an object nor a value")
}
