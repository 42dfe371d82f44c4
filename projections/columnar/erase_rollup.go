package columnar

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/ClickHouse/clickhouse-go/v2"

	"github.com/tachograph/tachograph/events"
	"github.com/tachograph/tachograph/schemas"
)

// rollUps makes the buckets anew that samples of the stretch are in, from the
// samples that stay. Where those have expired already, the bucket is what is left
// of them: it cannot be known what of it was whose.
func (e *Erasure) rollUps(ctx context.Context, conn clickhouse.Conn, db string, tables []string) error {
	for _, s := range e.Schemas {
		if !rolledUp(s) || !slices.Contains(tables, s.Name()) {
			continue
		}
		for _, r := range resolutions {
			for _, p := range e.Partitions {
				if err := e.rollUp(ctx, conn, db, s, r, p); err != nil {
					return fmt.Errorf("make roll-up %s anew: %w", r.view(s), err)
				}
			}
		}
	}
	return nil
}

func (e *Erasure) rollUp(ctx context.Context, conn clickhouse.Conn, db string, s *schemas.Schema, r resolution, partition uint16) error {
	var there uint64
	if err := conn.QueryRow(ctx, "SELECT count() FROM system.tables WHERE database = ? AND name = ?", db, r.table(s)).Scan(&there); err != nil || there == 0 {
		return err
	}
	buckets, err := e.touched(ctx, conn, db, s, r, partition)
	if err != nil {
		return err
	}
	if len(buckets) > 0 {
		e.Tell(fmt.Sprintf("making %d buckets of %s anew", len(buckets), r.view(s)))
	}
	rolled := events.Position{Partition: partition}
	row := conn.QueryRow(ctx, fmt.Sprintf("SELECT epoch, seq FROM %s.checkpoints WHERE partition = ? AND table = ? ORDER BY epoch DESC, seq DESC LIMIT 1", quote(db)), partition, rollUpName)
	if err := row.Scan(&rolled.Epoch, &rolled.Seq); err != nil && !errors.Is(err, sql.ErrNoRows) {
		return err
	}
	const together = 2000 // stretches of buckets in a statement
	for chunk := range slices.Chunk(stretches(buckets, int64(r.seconds)), together) {
		in := func(time string) string {
			var parts []string
			for _, c := range chunk {
				parts = append(parts, fmt.Sprintf("toUnixTimestamp64Second(%s) BETWEEN %d AND %d", time, c[0], c[1]))
			}
			return "(" + strings.Join(parts, " OR ") + ")"
		}
		if _, err := remove(ctx, conn, db, r.table(s), fmt.Sprintf("%s AND _partition = %d AND %s", e.ofDevice(), partition, in("time"))); err != nil {
			return err
		}
		names, values := rollUpColumns(s, partition, rolled)
		insert := fmt.Sprintf(`INSERT INTO %s.%s (%s) WITH toDateTime64(%s, 0, 'UTC') AS bucket, %s AS place SELECT %s FROM %s.%s
			WHERE %s AND _partition = %d AND (_epoch, _seq) <= (%d, %d) AND NOT %s AND %s GROUP BY device, bucket SETTINGS enable_extended_results_for_datetime_functions = 1`,
			quote(db), quote(r.table(s)), names, r.bucket, place, values, quote(db), quote(s.Name()),
			e.ofDevice(), partition, rolled.Epoch, rolled.Seq, e.covered(), in("bucket"))
		if err := conn.Exec(ctx, insert); err != nil {
			return err
		}
	}
	return nil
}

// touched returns where the buckets begin, in seconds, ascending: those of
// samples that go, and those that the roll-up has of samples that expired.
func (e *Erasure) touched(ctx context.Context, conn clickhouse.Conn, db string, s *schemas.Schema, r resolution, partition uint16) ([]int64, error) {
	within := func(column string) string {
		return strings.ReplaceAll(e.covered(), "received", column)
	}
	rows, err := conn.Query(ctx, fmt.Sprintf(`SELECT DISTINCT at FROM (
			SELECT toUnixTimestamp64Second(toDateTime64(%s, 0, 'UTC')) AS at FROM %s.%s WHERE %s AND _partition = %d AND %s
			UNION ALL SELECT toUnixTimestamp64Second(time) FROM %s.%s WHERE %s AND _partition = %d AND (%s OR %s))
		ORDER BY at SETTINGS enable_extended_results_for_datetime_functions = 1`,
		r.bucket, quote(db), quote(s.Name()), e.ofDevice(), partition, e.covered(),
		quote(db), quote(r.table(s)), e.ofDevice(), partition, within("toDateTime64(_received, 6, 'UTC')"), within("time")))
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	var buckets []int64
	for rows.Next() {
		var at int64
		if err := rows.Scan(&at); err != nil {
			return nil, err
		}
		buckets = append(buckets, at)
	}
	return buckets, rows.Err()
}

// stretches joins neighbours: first and last of each stretch without a gap.
func stretches(sorted []int64, step int64) (all [][2]int64) {
	for _, at := range sorted {
		if n := len(all); n > 0 && all[n-1][1]+step == at {
			all[n-1][1] = at
		} else {
			all = append(all, [2]int64{at, at})
		}
	}
	return all
}
