package shadow

import (
	"fmt"
	"strconv"
	"time"
)

// The types of a shadow's events.
const (
	TypeUpdated = "updated"
	TypeDeleted = "deleted"
)

// A Fact is what happened to a shadow. Its JSON is the event's payload:
//
//	{"version":7,"at":1700000000123,"by":"device","clientToken":"…","desired":{…},"reported":null}
//
// desired and reported are the sections as they were asked for: a null deletes
// what it names.
type Fact struct {
	Type        string
	Version     uint64 // of the document after it
	At          int64  // epoch milliseconds, by the clock of who decided
	By          string // "device", or who asked
	ClientToken string
	Pending     int64 // of TypeRestated, see Track

	desired, reported *node
}

// Payload renders the fact as an event's payload.
func (f Fact) Payload() []byte {
	b := append([]byte(`{"version":`), strconv.FormatUint(f.Version, 10)...)
	b = append(b, `,"at":`...)
	b = strconv.AppendInt(b, f.At, 10)
	b = append(b, `,"by":`...)
	b = appendString(b, f.By)
	if f.ClientToken != "" {
		b = append(b, `,"clientToken":`...)
		b = appendString(b, f.ClientToken)
	}
	for _, s := range []member{{"desired", f.desired}, {"reported", f.reported}} {
		if s.node != nil {
			b = append(b, `,"`+s.name+`":`...)
			b = s.node.appendJSON(b)
		}
	}
	return append(b, '}')
}

// ParseFact reads an event's payload.
func ParseFact(typ string, payload []byte) (Fact, error) {
	f := Fact{Type: typ}
	if typ != TypeUpdated && typ != TypeDeleted && typ != TypeRestated {
		return f, fmt.Errorf("parse shadow fact: unknown type %q", typ)
	}
	root, err := parse(payload, maxNesting) // the limits of the time were kept by who decided
	if err != nil {
		return f, fmt.Errorf("parse shadow fact: %w", err)
	}
	if !root.isObject() {
		return f, fmt.Errorf("parse shadow fact: not an object")
	}
	for _, m := range root.members {
		switch m.name {
		case "version":
			f.Version, err = strconv.ParseUint(string(m.node.value), 10, 64)
		case "at":
			f.At, err = strconv.ParseInt(string(m.node.value), 10, 64)
		case "by":
			f.By, _ = stringOf(m.node)
		case "clientToken":
			f.ClientToken, _ = stringOf(m.node)
		case "pending":
			f.Pending, err = strconv.ParseInt(string(m.node.value), 10, 64)
		case "desired":
			f.desired, err = section(typ, m.node)
		case "reported":
			f.reported, err = section(typ, m.node)
		}
		if err != nil {
			return f, fmt.Errorf("parse shadow fact: %s: %w", m.name, err)
		}
	}
	if f.Version == 0 {
		return f, fmt.Errorf("parse shadow fact: no version")
	}
	return f, nil
}

// maxNesting is how deep a fact may be nested; a restated one is twice as deep as its
// document.
const maxNesting = 2000

func section(typ string, n *node) (*node, error) {
	if typ == TypeRestated {
		return stampedOf(n)
	}
	return n, nil
}

// Accepted renders the answer to the update that became this fact: what was in
// the request and nothing else.
func (f Fact) Accepted() []byte {
	stamp := func(n *node, b []byte) []byte { return n.stamped(f.At / 1000).appendMetadata(b) }
	sections := []member{{"desired", f.desired}, {"reported", f.reported}}
	b := []byte(`{"state":`)
	b = appendPresent(b, sections, (*node).appendJSON)
	b = append(b, `,"metadata":`...)
	for i, s := range sections {
		if s.node != nil && s.node.isNull() {
			sections[i].node = nil
		}
	}
	b = appendPresent(b, sections, stamp)
	b = appendVersion(b, f.Version)
	return appendTail(b, f.At/1000, f.ClientToken)
}

// stamped returns the tree without its nulls, every leaf stamped with at.
func (n *node) stamped(at int64) *node {
	if s := merge(nil, n, at); s != nil {
		return s
	}
	return &node{}
}

// Deleted renders the answer to a delete.
func (f Fact) Deleted() []byte {
	b := append([]byte(`{"version":`), strconv.FormatUint(f.Version, 10)...)
	return appendTail(b, f.At/1000, f.ClientToken)
}

// versionSurvives is for how long a deleted shadow's version is remembered
// (AWS: re-created within 48 hours it goes on, later it starts again).
const versionSurvives = 48 * time.Hour
