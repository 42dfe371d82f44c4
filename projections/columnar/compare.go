package columnar

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/ClickHouse/clickhouse-go/v2"

	"github.com/tachograph/tachograph/events"
	"github.com/tachograph/tachograph/projections"
)

// compare holds a table of one database against the same one of another, up to a
// position in each partition. Equal tables cost a checksum each; only those that
// differ are compared row by row.
func compare(ctx context.Context, conn clickhouse.Conn, oldDB, newDB, table string, upTo []events.Position) (projections.TableReport, error) {
	report := projections.TableReport{Table: table}
	fail := func(err error) (projections.TableReport, error) {
		return report, fmt.Errorf("compare table %s: %w", table, err)
	}
	have, err := columnTypes(ctx, conn, oldDB, table)
	if err != nil {
		return fail(err)
	}
	also, err := columnTypes(ctx, conn, newDB, table)
	if err != nil {
		return fail(err)
	}
	var columns []string
	for name := range have {
		if _, both := also[name]; both && name != storedColumn.Name {
			columns = append(columns, quote(name))
		}
	}
	slices.Sort(columns)
	key := "_epoch, _partition, _seq, toUInt32(0)"
	if _, sampled := have["_row"]; sampled {
		key = "_epoch, _partition, _seq, _row"
	}
	// Of the row as text: the hash of a NULL would be NULL.
	hash, where := "cityHash64(formatRowNoNewline('TSV', "+strings.Join(columns, ", ")+"))", within(upTo)
	var sums [2]uint64
	for i, db := range []string{oldDB, newDB} {
		count := &report.Old
		if i == 1 {
			count = &report.New
		}
		sql := fmt.Sprintf("SELECT count(), sum(%s) FROM %s.%s WHERE %s", hash, quote(db), quote(table), where)
		if err := conn.QueryRow(ctx, sql).Scan(count, &sums[i]); err != nil {
			return fail(err)
		}
	}
	if report.Old == report.New && sums[0] == sums[1] {
		return report, nil
	}
	side := func(db string, n int) string {
		return fmt.Sprintf("SELECT tuple(%s) AS k, %d AS side, %s AS h FROM %s.%s WHERE %s", key, n, hash, quote(db), quote(table), where)
	}
	sql := fmt.Sprintf(`SELECT countIf(o > n), countIf(n > o), countIf(o = n AND ho != hn), groupArrayIf(10)(concat(toString(k.1), '.', toString(k.2), '.', toString(k.3), ' ', toString(k.4)), o != n OR ho != hn)
		FROM (SELECT k, countIf(side = 0) AS o, countIf(side = 1) AS n, sumIf(h, side = 0) AS ho, sumIf(h, side = 1) AS hn FROM (%s UNION ALL %s) GROUP BY k)`,
		side(oldDB, 0), side(newDB, 1))
	if err := conn.QueryRow(ctx, sql).Scan(&report.OnlyOld, &report.OnlyNew, &report.Changed, &report.Examples); err != nil {
		return fail(err)
	}
	return report, nil
}

// within is the condition of rows up to a position in each partition.
func within(upTo []events.Position) string {
	var parts []string
	for _, p := range upTo {
		parts = append(parts, fmt.Sprintf("(_partition = %d AND (_epoch, _seq) <= (%d, %d))", p.Partition, p.Epoch, p.Seq))
	}
	if len(parts) == 0 {
		return "0"
	}
	return "(" + strings.Join(parts, " OR ") + ")"
}
