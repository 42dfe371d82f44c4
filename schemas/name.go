package schemas

import (
	"fmt"
	"slices"
	"strings"
)

// reservedNames are tables, views and topics of ours.
var reservedNames = []string{
	"audit", "batch", "checkpoints", "command_steps", "commands", "coverage", "credentials", "dead_letter_outcomes", "dead_letter_states", "dead_letters", "default", "devices",
	"events", "gaps", "ingest", "ingest_delay", "jobs", "latest", "migrations", "presence", "presence_sessions", "registry", "samples",
	"schemas", "shadow", "shadow_changes", "shadows", "system", "tombstones", "trips", "verify",
}

// ValidName tells whether a message type may be called name: it becomes a
// table, a topic and a subject token. Roll-up tables end in _1m and _1h, so no
// message type may.
func ValidName(name string) error {
	if name == "" || len(name) > 63 {
		return fmt.Errorf("message name %.80q: has %d bytes, 1 to 63 are allowed", name, len(name))
	}
	for i := 0; i < len(name); i++ {
		c := name[i]
		letter := c >= 'a' && c <= 'z'
		if !letter && (i == 0 || c != '_' && (c < '0' || c > '9')) {
			return fmt.Errorf("message name %q: byte %d is %q, allowed is [a-z][a-z0-9_]*", name, i, c)
		}
	}
	if slices.Contains(reservedNames, name) || strings.HasSuffix(name, "_1m") || strings.HasSuffix(name, "_1h") {
		return fmt.Errorf("message name %q: reserved", name)
	}
	return nil
}

// reservedColumn tells whether a column of this name belongs to the writer.
// time is not among them: a field of that name is the sample's own time.
func reservedColumn(name string) bool {
	return name == "device" || name == "received" || strings.HasPrefix(name, "_")
}

// columnName makes a column name of a field name: bytes outside
// [A-Za-z0-9_] become _.
func columnName(field string) string {
	return strings.Map(func(r rune) rune {
		switch {
		case r >= 'a' && r <= 'z', r >= 'A' && r <= 'Z', r >= '0' && r <= '9', r == '_':
			return r
		}
		return '_'
	}, field)
}
