package shadow

import "strconv"

// A Document is one shadow at one version. The zero value is a shadow that
// never existed. Documents are values: Evolve returns a new one, and both may
// be kept.
type Document struct {
	Name    string // empty for the classic shadow
	Version uint64 // counts accepted updates; survives a delete
	Exists  bool
	At      int64 // epoch milliseconds of the newest fact

	desired, reported *node
}

// Converged tells whether the device has reported all that is desired.
func (d Document) Converged() bool { return diff(d.desired, d.reported) == nil }

// size is what the limit on bytes counts.
func (d Document) size() int {
	n := 0
	if d.desired != nil {
		n += len(d.desired.appendJSON(nil))
	}
	if d.reported != nil {
		n += len(d.reported.appendJSON(nil))
	}
	return n
}

// Get renders the answer to a get: everything, with the delta when there is one.
func (d Document) Get(at int64, clientToken string) []byte {
	b := []byte(`{"state":`)
	b = d.appendSections(b, (*node).appendJSON, true)
	b = append(b, `,"metadata":`...)
	b = d.appendSections(b, (*node).appendMetadata, false)
	b = appendVersion(b, d.Version)
	return appendTail(b, at, clientToken)
}

// Delta renders the difference, nil when there is none. AWS sends it after
// every update that leaves one; all differing fields are in it, not only those
// of the update.
func (d Document) Delta(at int64, clientToken string) []byte {
	delta := diff(d.desired, d.reported)
	if delta == nil {
		return nil
	}
	b := append([]byte(`{"version":`), strconv.FormatUint(d.Version, 10)...)
	b = append(b, `,"state":`...)
	b = delta.appendJSON(b)
	b = append(b, `,"metadata":`...)
	b = delta.appendMetadata(b)
	return appendTail(b, at, clientToken)
}

// Documents renders what is published after every accepted update: the
// document before it and after it.
func Documents(previous, current Document, clientToken string) []byte {
	b := []byte(`{"previous":`)
	b = previous.appendWhole(b)
	b = append(b, `,"current":`...)
	b = current.appendWhole(b)
	return appendTail(b, current.At/1000, clientToken)
}

func (d Document) appendWhole(b []byte) []byte {
	b = append(b, `{"state":`...)
	b = d.appendSections(b, (*node).appendJSON, false)
	b = append(b, `,"metadata":`...)
	b = d.appendSections(b, (*node).appendMetadata, false)
	b = appendVersion(b, d.Version)
	return append(b, '}')
}

// appendSections appends the sections that are not empty, as AWS does.
func (d Document) appendSections(b []byte, appendNode func(*node, []byte) []byte, delta bool) []byte {
	sections := []member{{"desired", d.desired}, {"reported", d.reported}}
	if delta {
		sections = append(sections, member{"delta", diff(d.desired, d.reported)})
	}
	return appendPresent(b, sections, appendNode)
}

func appendPresent(b []byte, sections []member, appendNode func(*node, []byte) []byte) []byte {
	present := sections[:0:0]
	for _, s := range sections {
		if s.node != nil {
			present = append(present, s)
		}
	}
	return (&node{members: present}).appendObject(b, appendNode)
}

func appendVersion(b []byte, version uint64) []byte {
	b = append(b, `,"version":`...)
	return strconv.AppendUint(b, version, 10)
}
