package schemas

// An Op is what ALTER TABLE has to do to a column.
type Op string

// The operations. Columns are never dropped.
const (
	AddColumn     Op = "add"     // ADD COLUMN
	ModifyColumn  Op = "modify"  // MODIFY COLUMN: another, wider type
	CommentColumn Op = "comment" // COMMENT COLUMN: the type is as it was
)

// A Change is one difference between the columns of two versions.
type Change struct {
	Op     Op
	Column Column
	After  string // AddColumn: the column it follows
}

// Diff lists what turns the columns of old into those of new, which must be a
// later version of the same schema.
func Diff(old, new *Schema) []Change {
	had := make(map[string]Column, len(old.columns))
	for _, c := range old.columns {
		had[c.Name] = c
	}
	var changes []Change
	after := ""
	for _, c := range new.columns {
		was, ok := had[c.Name]
		switch {
		case !ok:
			changes = append(changes, Change{Op: AddColumn, Column: c, After: after})
		case was.Type != c.Type || was.Codec != c.Codec:
			changes = append(changes, Change{Op: ModifyColumn, Column: c})
		case was.Comment != c.Comment:
			changes = append(changes, Change{Op: CommentColumn, Column: c})
		}
		after = c.Name
	}
	return changes
}
