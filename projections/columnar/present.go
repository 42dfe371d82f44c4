package columnar

import (
	"context"
	"fmt"

	"github.com/apache/arrow/go/v15/arrow"

	"github.com/tachograph/tachograph/events"
)

// A rowKey tells the rows of one epoch and partition apart.
type rowKey struct {
	seq uint64
	row uint32 // the sample in its message; 0 where an event is one row
}

// readPresent asks a table which rows of a batch it has. What it answers is
// bounded by the batch, however old the checkpoint is.
func (w *Writer) readPresent(ctx context.Context, blk *block, first, last events.Position) (map[rowKey]struct{}, error) {
	row := "toUInt32(0)"
	if blk.rows != nil {
		row = "_row"
	}
	rows, err := w.conn.Query(ctx, fmt.Sprintf(
		"SELECT _seq, %s FROM %s WHERE _epoch = ? AND _partition = ? AND _seq >= ? AND _seq <= ?", row, w.table(blk.table)),
		first.Epoch, first.Partition, first.Seq, last.Seq)
	if err != nil {
		return nil, fmt.Errorf("read back %s: %w", blk.table, err)
	}
	defer rows.Close()
	present := map[rowKey]struct{}{}
	for rows.Next() {
		var k rowKey
		if err := rows.Scan(&k.seq, &k.row); err != nil {
			return nil, fmt.Errorf("read back %s: %w", blk.table, err)
		}
		present[k] = struct{}{}
	}
	if err := rows.Err(); err != nil {
		return nil, fmt.Errorf("read back %s: %w", blk.table, err)
	}
	return present, nil
}

// missing returns the block's rows that are not present, as slices of its
// record in their order. The caller releases them.
func (b *block) missing(present map[rowKey]struct{}) []arrow.Record {
	if len(present) == 0 {
		b.record.Retain()
		return []arrow.Record{b.record}
	}
	var out []arrow.Record
	start := -1
	n := int(b.record.NumRows())
	for i := 0; i <= n; i++ {
		there := i == n
		if !there {
			k := rowKey{seq: b.seqs.Value(i)}
			if b.rows != nil {
				k.row = b.rows.Value(i)
			}
			_, there = present[k]
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
