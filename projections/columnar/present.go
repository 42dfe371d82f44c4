package columnar

import (
	"context"
	"fmt"

	"github.com/ClickHouse/clickhouse-go/v2"

	"github.com/apache/arrow/go/v15/arrow"

	"github.com/tachograph/tachograph/events"
)

// present is which rows of a table are known to be there beyond a checkpoint:
// by sequence, the samples of each event.
type present map[uint64]map[uint32]struct{}

// readPresent asks a table which rows it has of the log after a position. At
// most one batch can be there beyond a checkpoint, so the answer fits in memory.
func readPresent(ctx context.Context, conn clickhouse.Conn, db, table string, after events.Position, hasRow bool) (present, error) {
	row := "toUInt32(0)"
	if hasRow {
		row = "_row"
	}
	rows, err := conn.Query(ctx, fmt.Sprintf(
		"SELECT _seq, %s FROM %s.%s WHERE _epoch = ? AND _partition = ? AND _seq > ?", row, quote(db), quote(table)),
		after.Epoch, after.Partition, after.Seq)
	if err != nil {
		return nil, fmt.Errorf("read back %s: %w", table, err)
	}
	defer rows.Close()
	p := present{}
	for rows.Next() {
		var seq uint64
		var row uint32
		if err := rows.Scan(&seq, &row); err != nil {
			return nil, fmt.Errorf("read back %s: %w", table, err)
		}
		if p[seq] == nil {
			p[seq] = map[uint32]struct{}{}
		}
		p[seq][row] = struct{}{}
	}
	if err := rows.Err(); err != nil {
		return nil, fmt.Errorf("read back %s: %w", table, err)
	}
	return p, nil
}

// missing returns the block's rows that are not present, as slices of its
// record in their order. The caller releases them.
func (b *block) missing(p present) []arrow.Record {
	if len(p) == 0 {
		b.record.Retain()
		return []arrow.Record{b.record}
	}
	var out []arrow.Record
	start := -1
	n := int(b.record.NumRows())
	for i := 0; i <= n; i++ {
		there := i == n
		if !there {
			row := uint32(0)
			if b.rows != nil {
				row = b.rows.Value(i)
			}
			_, there = p[b.seqs.Value(i)][row]
		}
		switch {
		case !there && start < 0:
			start = i
		case there && start >= 0:
			out = append(out, b.record.NewSlice(int64(start), int64(i)))
			start = -1
		}
	}
	return out
}
