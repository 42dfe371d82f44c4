package columnar

import (
	"cmp"
	"fmt"
	"slices"

	"github.com/tachograph/tachograph/events"
)

// A DifferenceKind says what is wrong at a place.
type DifferenceKind string

// The kinds of differences.
const (
	MissingRow      DifferenceKind = "missing_row"       // the log has the event, the table not its row
	ExtraRow        DifferenceKind = "extra_row"         // the table has a row that follows from nothing in the log
	DoubledRow      DifferenceKind = "doubled_row"       // more than once
	AlteredRow      DifferenceKind = "altered_row"       // its values are not those that follow from the log
	ForeignRow      DifferenceKind = "foreign_row"       // of an epoch or a partition that the log does not have
	MissingInLog    DifferenceKind = "missing_in_log"    // events has the event, the log not any more
	UnreadableInLog DifferenceKind = "unreadable_in_log" // the log has it in a damaged block
	LogShorter      DifferenceKind = "log_shorter"       // the log ends before what is in the tables
	OtherEpoch      DifferenceKind = "other_epoch"       // the tables were written from another epoch of the log
	BrokenPart      DifferenceKind = "broken_part"       // a part of a table does not match its checksums
	DetachedPart    DifferenceKind = "detached_part"     // ClickHouse has put a broken part aside
	UnreadableTable DifferenceKind = "unreadable_table"  // a stretch of a table that no query can read
	MissingTable    DifferenceKind = "missing_table"
	MissingColumn   DifferenceKind = "missing_column"
	RollUp          DifferenceKind = "rollup" // a bucket is not what its samples make
)

// A Difference is one place where the log and the tables, or a table and its own
// checksums, do not agree. What does not apply is empty.
type Difference struct {
	Kind      DifferenceKind `json:"kind"`
	Server    string         `json:"server,omitempty"` // of several shards
	Table     string         `json:"table,omitempty"`
	Device    string         `json:"device,omitempty"`
	Epoch     uint32         `json:"epoch,omitempty"`
	Partition uint16         `json:"partition"`
	Seq       uint64         `json:"seq,omitempty"`     // the position; the first one of several
	Last      uint64         `json:"last,omitempty"`    // the last one of several
	Row       uint32         `json:"row,omitempty"`     // the sample in its message
	Count     uint64         `json:"count"`             // rows or positions
	Columns   []string       `json:"columns,omitempty"` // that differ or cannot be read
	Part      string         `json:"part,omitempty"`
	Detail    string         `json:"detail,omitempty"` // for people
}

// Place is where it is, as epoch.partition.sequence.
func (d *Difference) Place() string {
	at := events.Position{Epoch: d.Epoch, Partition: d.Partition, Seq: d.Seq}
	switch {
	case d.Seq == 0:
		return ""
	case d.Last > d.Seq:
		return fmt.Sprintf("%s-%d", at, d.Last)
	case d.Row > 0:
		return fmt.Sprintf("%s sample %d", at, d.Row)
	}
	return at.String()
}

// An AuditReport is what an audit has found.
type AuditReport struct {
	UpTo        []events.Position         `json:"up_to"`               // of each partition: what every table had when the audit began
	Events      uint64                    `json:"events"`              // of the log that were compared
	Tables      []AuditedTable            `json:"tables"`              // by name
	Parts       uint64                    `json:"parts"`               // of ClickHouse whose checksums were held against their files
	Buckets     uint64                    `json:"buckets"`             // of roll-ups that were computed anew
	Expired     uint64                    `json:"expired"`             // rows that are gone as their time to live has passed
	Purged      uint64                    `json:"purged"`              // positions that were purged; events stands for them as far as it has them
	Absent      uint64                    `json:"absent"`              // positions that neither the log nor events has: removed, or expired
	Total       uint64                    `json:"total"`               // differences, in rows or positions
	Counts      map[DifferenceKind]uint64 `json:"counts,omitempty"`    // the same by kind
	Differences []Difference              `json:"differences"`         // the first of them
	Unchecked   []string                  `json:"unchecked,omitempty"` // what could not be looked at, and why
}

// An AuditedTable is how much of a table was compared.
type AuditedTable struct {
	Table       string `json:"table"`
	Rows        uint64 `json:"rows"` // expected by the log
	Differences uint64 `json:"differences"`
}

// Equal tells that nothing differs.
func (r *AuditReport) Equal() bool { return r.Total == 0 }

// found notes a difference: all are counted, the first of each kind kept, so that
// many of one kind do not hide another.
func (a *auditor) found(d Difference) {
	d.Count = max(d.Count, 1)
	if a.cfg.Server.Shard.several() {
		d.Server = a.cfg.Server.URL
	}
	r := a.report
	r.Total += d.Count
	r.Counts[d.Kind] += d.Count
	if d.Table != "" {
		a.tally(d.Table).Differences += d.Count
	}
	if n := len(r.Differences); n > 0 && r.Differences[n-1].goesOn(&d) {
		last := &r.Differences[n-1]
		last.Last, last.Count = max(d.Seq, d.Last), last.Count+d.Count
		return
	}
	if len(r.Differences) < a.most {
		r.Differences = append(r.Differences, d)
		return
	}
	kept := map[DifferenceKind]int{}
	for i := range r.Differences {
		kept[r.Differences[i].Kind]++
	}
	if kept[d.Kind] > 0 {
		return
	}
	for i := len(r.Differences) - 1; i >= 0; i-- {
		if kept[r.Differences[i].Kind] > 1 {
			r.Differences[i] = d
			return
		}
	}
}

// goesOn tells whether next is the same of the positions right behind.
func (d *Difference) goesOn(next *Difference) bool {
	return d.Table == "" && next.Table == "" && d.Kind == next.Kind && d.Detail == next.Detail &&
		d.Epoch == next.Epoch && d.Partition == next.Partition && max(d.Seq, d.Last)+1 == next.Seq
}

// tally finds a table's line in the report.
func (a *auditor) tally(table string) *AuditedTable {
	i, ok := slices.BinarySearchFunc(a.report.Tables, table, func(t AuditedTable, name string) int { return cmp.Compare(t.Table, name) })
	if !ok {
		a.report.Tables = slices.Insert(a.report.Tables, i, AuditedTable{Table: table})
	}
	return &a.report.Tables[i]
}
