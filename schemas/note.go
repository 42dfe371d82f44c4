package schemas

import (
	"strings"

	"google.golang.org/protobuf/reflect/protoreflect"
)

// A note is what the comments at a declaration of a .proto file say. Words that
// begin with @ are marks, the rest is the description:
//
//	// Speed over ground. @unit km/h @signal Vehicle.Speed
//	optional float speed = 6;
//
// Comments need no import, so the same file goes through protoc for the
// device's firmware.
type note struct {
	text     string
	unit     string // @unit
	timeUnit string // @time-unit: s, ms, us, ns, rfc3339
	signal   string // @signal: path in the COVESA tree
	release  string // @vss: release of the COVESA tree, on the root message
}

// noteOf reads the comments before and behind a declaration.
func noteOf(d protoreflect.Descriptor) note {
	loc := d.ParentFile().SourceLocations().ByDescriptor(d)
	var n note
	var text []string
	marks := map[string]*string{"@unit": &n.unit, "@time-unit": &n.timeUnit, "@signal": &n.signal, "@vss": &n.release}
	words := strings.Fields(loc.LeadingComments + " " + loc.TrailingComments)
	for i := 0; i < len(words); i++ {
		if mark := marks[words[i]]; mark != nil && i+1 < len(words) {
			i++
			*mark = strings.TrimRight(words[i], ".,;")
			continue
		}
		text = append(text, words[i])
	}
	n.text = strings.Join(text, " ")
	return n
}
