package columnar

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/tachograph/tachograph/schemas"
)

// An auditedTable is a table that holds rows of the log.
type auditedTable struct {
	name    string
	columns map[string]string // types by name, without _stored
	sampled bool              // has _row
	keep    time.Duration     // since received; 0 is for ever
	broken  []string          // parts that no query may touch
	lacking []string          // columns that were told to be missing
	windows map[uint64]sum    // of the partition that is compared; nil: they could not be read
}

// findTables reads which tables there are.
func (a *auditor) findTables(ctx context.Context) error {
	names, err := a.messageTables(ctx)
	if err != nil {
		return err
	}
	for _, name := range names {
		columns, err := columnTypes(ctx, a.conn, a.cfg.Server.Name(), name)
		if err != nil {
			return err
		}
		delete(columns, storedColumn.Name)
		t := &auditedTable{name: name, columns: columns}
		_, t.sampled = columns[schemas.RowColumn]
		switch {
		case name == "events" || name == "dead_letters":
			t.keep = a.cfg.Keep.Events
		case schemas.ValidName(name) == nil: // facts are kept
			t.keep = a.cfg.Keep.Samples
		}
		a.tables[name] = t
		a.tally(name)
	}
	return nil
}

// all are the tables in the order of their names.
func (a *auditor) all() []*auditedTable {
	return slices.SortedFunc(maps.Values(a.tables), func(t, u *auditedTable) int { return strings.Compare(t.name, u.name) })
}

// sound is the condition of rows in parts that can be read.
func (t *auditedTable) sound() string {
	if len(t.broken) == 0 {
		return "1"
	}
	return "NOT " + t.inBroken()
}

func (t *auditedTable) inBroken() string {
	var names []string
	for _, part := range t.broken {
		names = append(names, text(part))
	}
	return "(_part IN (" + strings.Join(names, ", ") + "))"
}

// expired is the condition of rows that may be gone.
func (t *auditedTable) expired() string {
	if t.keep == 0 {
		return "0"
	}
	return fmt.Sprintf("toDateTime(received) + toIntervalSecond(%d) <= now() + 1", int64(t.keep.Seconds()))
}

// row is the expression of a sample's index.
func (t *auditedTable) row() string {
	if t.sampled {
		return schemas.RowColumn
	}
	return "toUInt32(0)"
}

// value is what is hashed of a column: a NULL has no hash of its own.
func value(name, typ string) string {
	if inner, ok := strings.CutPrefix(typ, "LowCardinality("); ok {
		typ = strings.TrimSuffix(inner, ")")
	}
	inner, nullable := strings.CutPrefix(typ, "Nullable(")
	switch {
	case nullable:
		return fmt.Sprintf("isNull(%[1]s), ifNull(%[1]s, defaultValueOfTypeName(%[2]s))", name, text(strings.TrimSuffix(inner, ")")))
	case strings.Contains(typ, "(") && !strings.HasPrefix(typ, "DateTime"): // arrays, maps and what they hold
		return "formatRowNoNewline('TSV', " + name + ")"
	}
	return name
}

// A stretch is a run of positions: after (exclusive) one sequence, up to another.
type stretch struct {
	epoch     uint32
	partition uint16
	after, to uint64
	end       uint64 // of all that is compared of the partition
	purged    uint64 // up to here a row that follows from nothing shows nothing: the log is not there
}

func (s stretch) where() string {
	return fmt.Sprintf("_epoch = %d AND _partition = %d AND _seq > %d AND _seq <= %d", s.epoch, s.partition, s.after, s.to)
}

var codeOf = regexp.MustCompile(`(?i)code: (\d+)`)

// damageCodes are the answers of ClickHouse that come from bytes which are not
// what was written.
var damageCodes = []string{
	"6", "9", "27", "32", "33", "40", "79", "107", "117", "228", "246", "271", "272", "432", "1001", // parsing, short reads, checksums, corrupt data, decompression, files gone, codecs, the library's own
	"72", "131", "173", "128", "190", "226", "233", "432", "441", "722", // sizes that no memory or type has
}

// damaged tells whether an error comes from damaged data, and which.
func damaged(err error) bool {
	if err == nil || errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return false
	}
	var s *serverError
	if errors.As(err, &s) && slices.Contains(damageCodes, s.code) {
		return true
	}
	m := codeOf.FindStringSubmatch(err.Error())
	return m != nil && slices.Contains(damageCodes, m[1])
}

// unlessDamaged passes an error on, but for one of a damaged table, which is told
// by the comparison of the same stretch.
func (a *auditor) unlessDamaged(table string, err error) error {
	if err == nil || damaged(err) {
		return nil
	}
	return fmt.Errorf("read table %s: %w", table, err)
}

// short is an error's text as it fits a line.
func short(err error) string { return shortText(err.Error()) }

func shortText(s string) string {
	s, _, _ = strings.Cut(s, "\n")
	s, _, _ = strings.Cut(s, " (version ")
	s, _, _ = strings.Cut(s, " This is most likely due to") // ClickHouse lists what hardware may fail
	const most = 300
	if len(s) > most {
		s = strings.ToValidUTF8(s[:most], "") + "..."
	}
	return strings.TrimSpace(s)
}
