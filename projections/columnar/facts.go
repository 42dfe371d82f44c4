package columnar

import (
	"github.com/tachograph/tachograph/events"
	"github.com/tachograph/tachograph/schemas"
)

// A FactTable is a table whose rows are made of the control facts of one kind,
// exactly once as everything else: a shadow's changes, a command's steps. The
// same fact must always make the same rows.
type FactTable struct {
	Kind   events.Kind
	Schema *schemas.Schema                      // of the table; see schemas.Own
	Rows   func(e events.Event) ([]byte, error) // a batch of samples in JSON, at least one; an error parks the fact
}
