package events

import (
	"slices"
	"strconv"
)

// A Filter says which events of a partition are wanted. The zero Filter wants
// them all.
type Filter struct {
	Kinds []Kind // any of these; none is every kind
	ID    string // of the stream: a device, a schema's name; "" is any
	Type  string // "" is any
}

// Matches tells whether an event is wanted.
func (f Filter) Matches(e *Event) bool {
	return (len(f.Kinds) == 0 || slices.Contains(f.Kinds, e.Stream.Kind)) &&
		(f.ID == "" || e.Stream.ID == f.ID) &&
		(f.Type == "" || e.Type == f.Type)
}

// Partitions returns those of a log's partitions that may hold wanted events,
// ascending: the events of one device come in this order.
func (f Filter) Partitions(l Layout) []uint16 {
	return slices.DeleteFunc(l.Partitions(), func(p uint16) bool {
		kinds := f.of(p)
		if kinds != nil && len(kinds) == 0 {
			return true
		}
		return f.ID != "" && p < ControlPartition && !l.Passes(Slot(f.ID), p)
	})
}

// of returns those of the wanted kinds that a partition keeps; nil is every one.
func (f Filter) of(partition uint16) []Kind {
	if len(f.Kinds) == 0 {
		return nil
	}
	some := []Kind{}
	for _, k := range f.Kinds {
		home := Stream{Kind: k}.PartitionIn(1)
		if home == partition || home < ControlPartition && partition < ControlPartition {
			some = append(some, k)
		}
	}
	return some
}

// Subjects returns filters of subjects of a partition that no two of them
// share, and that all wanted events have; nil where every subject has to be
// read. What they let pass is still to be held against Matches: the type of a
// control fact is in no subject.
func (f Filter) Subjects(partition uint16) []string {
	token := func(s string) string {
		if s == "" {
			return "*"
		}
		return Escape(s)
	}
	kinds := f.of(partition)
	slices.Sort(kinds)
	kinds = slices.Compact(kinds)
	switch {
	case f.ID == "" && f.Type == "" && (kinds == nil || partition < ControlPartition || partition == DeadLetterPartition):
		return nil
	case partition < ControlPartition:
		return []string{rootTelemetry + "." + slotToken(f.ID) + "." + token(f.ID) + "." + token(f.Type) + ".*"}
	case partition == DeadLetterPartition:
		return []string{rootDead + "." + slotToken(f.ID) + "." + token(f.ID) + "." + token(f.Type) + ".*"}
	case kinds == nil && f.ID == "":
		return nil
	case kinds == nil:
		kinds = []Kind{"*"}
	}
	var all []string
	for _, k := range kinds {
		root := rootFact
		if k == Credential {
			root = rootSecret
		}
		if k == "*" {
			root = "*"
		}
		s := root + "." + slotToken(f.ID) + "." + string(k) + "." + token(f.ID)
		if all = append(all, s); k != Credential {
			all = append(all, s+".*") // with a name
		}
	}
	return all
}

// slotToken returns the slot's token in the subjects of an id.
func slotToken(id string) string {
	if id == "" {
		return "*"
	}
	return strconv.Itoa(int(Slot(id)))
}
