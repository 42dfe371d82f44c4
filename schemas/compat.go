package schemas

// follow checks whether next can follow the current version, and hands down to
// it what it must keep. It returns every reason why it cannot.
func follow(current *Schema, next *node, format Format) []string { return nil }
