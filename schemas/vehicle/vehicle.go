// Package vehicle holds the built-in messages of a vehicle. Their names and
// units are those of the COVESA Vehicle Signal Specification, release 6.0: a
// field is the signal's path in snake case below the branch that the message is
// about, and its comment names the path and the unit.
//
// All fields are optional, so that a unit sends what changed. What a vehicle
// sends beyond them is kept in the column _unknown.
package vehicle

import (
	"embed"

	"github.com/tachograph/tachograph/schemas"
)

//go:embed *.proto
var files embed.FS

// A Named is a schema and the message type that it is for.
type Named struct {
	Name   string
	Source schemas.Source
}

// names are the message types; each has a file of that name.
var names = [...]string{"body", "cabin", "chassis", "connectivity", "diagnostics", "position", "powertrain"}

// Schemas returns the built-in schemas, sorted by name.
func Schemas() []Named {
	all := make([]Named, 0, len(names))
	for _, name := range names {
		text, err := files.ReadFile(name + ".proto")
		if err != nil {
			continue // the files are part of the program; a test compares them with names
		}
		all = append(all, Named{name, schemas.Source{Format: schemas.FormatProto, Text: string(text)}})
	}
	return all
}
