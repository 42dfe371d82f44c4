// Package vehicle holds the built-in messages of a car, with the names and
// units of the COVESA Vehicle Signal Specification.
package vehicle

import "github.com/tachograph/tachograph/schemas"

// A Named is a schema and the message type it is for.
type Named struct {
	Name   string
	Source schemas.Source
}

// Schemas returns the built-in schemas, sorted by name.
func Schemas() []Named { return nil }
