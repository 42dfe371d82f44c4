package ledger

import "fmt"

// A Verdict compares acknowledged messages with copies of them elsewhere. A
// device may send a message again when it did not hear the acknowledgement;
// the log keeps both, so only the telemetry table is held to "once".
type Verdict struct {
	Acknowledged int // different messages
	Log          int // of them in the log, byte for byte
	Events       int // of them in tacho.events, byte for byte
	Table        int // of them in their type's table, once

	Lost    []Entry // acknowledged, and missing somewhere
	Doubled []Entry // in the type's table more than once
	Altered int     // in the log or in tacho.events with other bytes than its id says
	Repeats int     // sent again by their device, so in the log more than once
}

// Counts is how often each message was found.
type Counts map[Entry]int

// Judge compares. altered is how many copies had other bytes than their id says.
func Judge(acknowledged []Entry, log, events, table Counts, altered int) Verdict {
	v := Verdict{Altered: altered}
	seen := map[Entry]bool{}
	for _, e := range acknowledged {
		if seen[e] {
			continue
		}
		seen[e] = true
		v.Acknowledged++
		inLog, inEvents, inTable := log[e], events[e], table[e]
		if inLog > 0 {
			v.Log++
		}
		if inLog > 1 {
			v.Repeats++
		}
		if inEvents > 0 {
			v.Events++
		}
		if inTable > 0 {
			v.Table++
		}
		if inLog == 0 || inEvents == 0 || inTable == 0 {
			v.Lost = append(v.Lost, e)
		}
		if inEvents > inLog && inLog > 0 {
			v.Doubled = append(v.Doubled, e)
		}
	}
	for e, n := range table {
		if n > 1 {
			v.Doubled = append(v.Doubled, e)
		}
	}
	return v
}

// Good tells whether everything is as promised.
func (v Verdict) Good() bool {
	return len(v.Lost) == 0 && len(v.Doubled) == 0 && v.Altered == 0 &&
		v.Log == v.Acknowledged && v.Events == v.Acknowledged && v.Table == v.Acknowledged
}

func (v Verdict) String() string {
	return fmt.Sprintf("%d acknowledged, %d in the log byte for byte, %d in tacho.events byte for byte, %d in their table; %d lost, %d doubled, %d altered (%d were sent again by their device)",
		v.Acknowledged, v.Log, v.Events, v.Table, len(v.Lost), len(v.Doubled), v.Altered, v.Repeats)
}
