package schemas

// A Field is one leaf of a schema and fills one column.
type Field struct {
	Column string   // name of the column
	Path   []string // names from the root as the source has them

	Kind     Kind
	List     bool // Array of Kind
	Map      bool // Map of KeyKind to Kind
	KeyKind  Kind
	Nullable bool // the column can be NULL
	Required bool // a sample without it is refused (JSON Schema)
	Retired  bool // no longer in the source; old devices may still send it

	Unit        string // as the source names it: "km/h"
	TimeUnit    string // s, ms, us, ns or rfc3339 where Kind is Time and the source says so
	Signal      string // VSS path, where the source names one
	Description string

	Tag  int32            // of the field itself in a .proto; 0 in a JSON Schema
	Tags []int32          // tags from the root: the field's identity in a .proto
	Enum map[int32]string // names by number in a .proto
}
