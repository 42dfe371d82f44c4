package columnar

import (
	"cmp"
	"context"
	"fmt"
	"net/url"
	"slices"
	"strings"

	"github.com/ClickHouse/clickhouse-go/v2"

	"github.com/tachograph/tachograph/events"
	"github.com/tachograph/tachograph/schemas"
)

// absentTable says which positions have no row in events, and shall have none:
// the log had no event there when it was read, or it had to be forgotten. What
// is neither here nor in events is missing.
const absentTable = "_absent"

var absentColumns = []schemas.Column{
	{Name: "epoch", Type: "UInt32"},
	{Name: "partition", Type: "UInt16"},
	{Name: "first", Type: "UInt64", Comment: "sequence"},
	{Name: "last", Type: "UInt64", Comment: "sequence, inclusive"},
}

const byStretch = "ReplacingMergeTree ORDER BY (partition, epoch, first, last)"

var absentDefinition = table{absentTable, "positions without an event", byStretch, absentColumns, ""}

// A span is a run of positions, both ends inclusive.
type span struct{ first, last uint64 }

// noteAbsent records what the log does not have in front of, and between, the
// events of a batch, before the checkpoint says that they are dealt with. Saying
// it twice does no harm.
func (w *Writer) noteAbsent(ctx context.Context, b *batch) error {
	if len(b.absent) == 0 {
		return nil
	}
	var values []string
	for _, s := range b.absent {
		values = append(values, fmt.Sprintf("(%d,%d,%d,%d)", b.last.Position.Epoch, w.cfg.Partition, s.first, s.last))
	}
	sql := fmt.Sprintf("INSERT INTO %s (epoch, partition, first, last) VALUES %s", w.table(absentTable), strings.Join(values, ","))
	return w.persist(ctx, "absent", func() error {
		return w.post(ctx, url.Values{"async_insert": {"0"}, "wait_end_of_query": {"1"}}, strings.NewReader(sql))
	})
}

// noteRemoved records the positions of events whose rows are about to be removed.
func noteRemoved(ctx context.Context, conn clickhouse.Conn, db, where string) error {
	if err := absentDefinition.ensure(ctx, conn, db, nil); err != nil {
		return err
	}
	err := conn.Exec(ctx, fmt.Sprintf("INSERT INTO %s.%s (epoch, partition, first, last) SELECT DISTINCT _epoch, _partition, _seq, _seq FROM %s.events WHERE %s",
		quote(db), quote(absentTable), quote(db), where))
	if err != nil {
		return fmt.Errorf("note which events are removed: %w", err)
	}
	return nil
}

// absentIn returns what is known to be empty within a stretch, joined and in order.
func absentIn(ctx context.Context, conn clickhouse.Conn, dbs []string, after events.Position, upTo uint64) (spans []span, err error) {
	for _, db := range dbs {
		some, err := absentOf(ctx, conn, db, after, upTo)
		if err != nil {
			return nil, fmt.Errorf("read which positions are empty: %w", err)
		}
		spans = append(spans, some...)
	}
	return joined(spans), nil
}

func absentOf(ctx context.Context, conn clickhouse.Conn, db string, after events.Position, upTo uint64) (spans []span, err error) {
	rows, err := conn.Query(ctx, fmt.Sprintf("SELECT DISTINCT first, last FROM %s.%s WHERE epoch = ? AND partition = ? AND last > ? AND first <= ?",
		quote(db), quote(absentTable)), after.Epoch, after.Partition, after.Seq, upTo)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	for rows.Next() {
		var s span
		if err := rows.Scan(&s.first, &s.last); err != nil {
			return nil, err
		}
		spans = append(spans, s)
	}
	return spans, rows.Err()
}

// joined sorts spans and makes one of those that touch.
func joined(spans []span) (out []span) {
	slices.SortFunc(spans, func(a, b span) int { return cmp.Compare(a.first, b.first) })
	for _, s := range spans {
		if n := len(out); n > 0 && s.first <= out[n-1].last+1 {
			out[n-1].last = max(out[n-1].last, s.last)
			continue
		}
		out = append(out, s)
	}
	return out
}

// without returns the parts of a span that are in none of the others, which are
// joined.
func (s span) without(others []span) (left []span) {
	i, _ := slices.BinarySearchFunc(others, s.first, func(o span, at uint64) int {
		if o.last < at {
			return -1
		}
		return 1
	})
	for ; i < len(others) && others[i].first <= s.last && s.first <= s.last; i++ {
		if o := others[i]; o.first > s.first {
			left = append(left, span{s.first, o.first - 1})
		}
		if others[i].last >= s.last {
			return left
		}
		s.first = others[i].last + 1
	}
	if s.first <= s.last {
		left = append(left, s)
	}
	return left
}
