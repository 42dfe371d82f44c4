package schemas

import "fmt"

// timeUnits are the units that a time can be declared in, as nanoseconds;
// rfc3339 is text.
var timeUnits = map[string]int64{"s": 1e9, "ms": 1e6, "us": 1e3, "ns": 1, "rfc3339": 0}

// setTimeUnit makes a time of a number or a string.
func (n *node) setTimeUnit(unit string) error {
	scale, known := timeUnits[unit]
	switch {
	case !known:
		return fmt.Errorf("time unit %q is not one of s, ms, us, ns, rfc3339", unit)
	case n.isMap || n.list:
		return fmt.Errorf("time unit on a list or a map is not supported")
	case n.wire == wireTimestamp || n.kind == Time && unit == "rfc3339":
		return nil // it is a time already
	case unit == "rfc3339" && n.kind != String, unit != "rfc3339" && n.kind != Int64 && n.kind != Uint64 && n.kind != Float64 && n.kind != Int32 && n.kind != Uint32:
		return fmt.Errorf("time unit %s does not go with %s", unit, n.kind)
	}
	n.number, n.kind, n.timeUnit, n.scale = n.kind, Time, unit, scale
	return nil
}

// takeTime finds the root's own field time: it becomes the column time. A root
// without one has the sender's time all the same in JSON, by the built-in rule:
// epoch milliseconds or RFC 3339.
func takeTime(name string, root *node) error {
	n := root.child(func(n *node) bool { return columnName(n.name) == TimeColumn })
	switch {
	case n == nil:
		return nil
	case n.object() || n.kind != Time || n.list || n.isMap:
		return &InvalidError{Name: name, Detail: "field time: is the sample's own time: make it a google.protobuf.Timestamp, or name its time unit (s, ms, us, ns, rfc3339)"}
	}
	n.sampled, n.nullable, n.required = true, true, false
	return nil
}
