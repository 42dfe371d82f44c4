package columnar

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"github.com/tachograph/tachograph/schemas"
)

// compareRange holds a stretch of the log, as blocks, against the tables.
func (a *auditor) compareRange(ctx context.Context, s stretch, blocks []*block) error {
	byTable := map[string][]*block{}
	for _, blk := range blocks {
		if blk.record.NumRows() > 0 {
			byTable[blk.table] = append(byTable[blk.table], blk)
			a.tally(blk.table).Rows += uint64(blk.record.NumRows())
			if a.tables[blk.table] == nil {
				a.found(Difference{Kind: MissingTable, Table: blk.table, Epoch: s.epoch, Partition: s.partition, Seq: s.after + 1, Last: s.to, Count: uint64(blk.record.NumRows())})
			}
		}
	}
	var unknown []*auditedTable // which have no rows that should, and it is not known whether they have
	for _, t := range a.all() {
		have, known := a.inWindows(t, s)
		blocks := byTable[t.name]
		switch {
		case len(blocks) > 0 || known && have.Rows > 0:
			if err := a.compareTable(ctx, t, s, blocks); err != nil {
				return err
			}
		case !known:
			unknown = append(unknown, t)
		}
	}
	noisy, err := a.withRows(ctx, s, unknown)
	if err != nil {
		return err
	}
	for _, name := range noisy {
		if err := a.compareTable(ctx, a.tables[name], s, nil); err != nil {
			return err
		}
	}
	return nil
}

// withRows returns which of the tables that should have no rows in a stretch have some.
func (a *auditor) withRows(ctx context.Context, s stretch, tables []*auditedTable) (names []string, err error) {
	for chunk := range slices.Chunk(tables, tablesAtOnce) {
		var parts []string
		for _, t := range chunk {
			parts = append(parts, fmt.Sprintf("SELECT %s AS t, count() AS n FROM %s WHERE %s AND %s", text(t.name), a.table(t.name), s.where(), t.sound()))
		}
		rows, err := a.ask(ctx, "SELECT t FROM ("+strings.Join(parts, " UNION ALL ")+") WHERE n > 0", nil)
		if damaged(err) {
			for _, t := range chunk { // which one it is, compareTable finds out
				names = append(names, t.name)
			}
			continue
		}
		if err != nil {
			return nil, err
		}
		for _, row := range rows {
			var name string
			if err := row.scan(&name); err != nil {
				return nil, err
			}
			names = append(names, name)
		}
	}
	return names, nil
}

// compareTable compares checksums, and rows where those differ. A table that
// cannot be read there is looked at part by part, then once more without the
// parts that are broken.
func (a *auditor) compareTable(ctx context.Context, t *auditedTable, s stretch, blocks []*block) error {
	equal, err := a.sums(ctx, t, s, blocks)
	if err == nil && !equal {
		err = a.drill(ctx, t, s, blocks)
	}
	if !damaged(err) {
		return err
	}
	before := len(t.broken)
	if checked := a.checkTable(ctx, t); checked != nil {
		return checked
	}
	if len(t.broken) > before {
		if equal, err = a.sums(ctx, t, s, blocks); err == nil && !equal {
			err = a.drill(ctx, t, s, blocks)
		}
		if !damaged(err) {
			return err
		}
	}
	a.found(Difference{Kind: UnreadableTable, Table: t.name, Epoch: s.epoch, Partition: s.partition, Seq: s.after + 1, Last: s.to, Detail: short(err)})
	return nil
}

// expectation is a subquery of the rows that follow from the log, in the table's
// own types, and the blocks that have to be sent along.
func (a *auditor) expectation(t *auditedTable, blocks []*block, columns []string) (sql string, names []string) {
	var parts []string
	for i, blk := range blocks {
		names = append(names, fmt.Sprintf("expected%d", i))
		has := map[string]string{}
		for _, c := range blk.columns {
			has[c.Name] = c.Type
		}
		var list []string
		for _, c := range columns {
			q, typ := quote(c), t.columns[c]
			switch have := has[c]; {
			case have == "":
				list = append(list, fmt.Sprintf("defaultValueOfTypeName(%s) AS %s", text(typ), q))
			case have == typ:
				list = append(list, q)
			default:
				list = append(list, fmt.Sprintf("CAST(%s AS %s) AS %s", q, typ, q))
			}
		}
		parts = append(parts, "SELECT "+strings.Join(list, ", ")+" FROM "+names[i])
	}
	return strings.Join(parts, " UNION ALL "), names
}

// compared are a table's columns that are compared, in order.
func (t *auditedTable) compared() (columns, values []string) {
	for c := range t.columns {
		columns = append(columns, c)
	}
	slices.Sort(columns)
	for _, c := range columns {
		values = append(values, value(quote(c), t.columns[c]))
	}
	return columns, values
}

// sums tells whether a table has the same rows as the blocks, by number and the
// sum of a hash of each.
func (a *auditor) sums(ctx context.Context, t *auditedTable, s stretch, blocks []*block) (equal bool, err error) {
	a.lacksColumns(t, blocks)
	columns, _ := t.compared()
	want, have := sum{}, sum{}
	if len(blocks) > 0 {
		sql, _ := a.expectation(t, blocks, columns)
		if want, err = a.sum(ctx, t, "("+sql+")", blocks); err != nil {
			return false, err
		}
	}
	have, known := a.inWindows(t, s)
	if !known {
		if have, err = a.sum(ctx, t, fmt.Sprintf("%s WHERE %s AND %s", a.table(t.name), s.where(), t.sound()), nil); err != nil {
			return false, err
		}
	}
	return want == have, nil
}

func (a *auditor) sum(ctx context.Context, t *auditedTable, from string, blocks []*block) (all sum, err error) {
	rows, err := a.ask(ctx, fmt.Sprintf("SELECT %s FROM %s", t.sums(), from), blocks)
	if err != nil {
		return all, err
	}
	if len(rows) != 1 {
		return all, fmt.Errorf("add up %s: %d answers", t.name, len(rows))
	}
	return all, rows[0].scan(&all.Rows, &all.Hash)
}

// lacksColumns tells, once, of columns that the log's rows have and the table has not.
func (a *auditor) lacksColumns(t *auditedTable, blocks []*block) {
	for _, blk := range blocks {
		for _, c := range blk.columns {
			if _, ok := t.columns[c.Name]; !ok && !slices.Contains(t.lacking, c.Name) {
				t.lacking = append(t.lacking, c.Name)
				a.found(Difference{Kind: MissingColumn, Table: t.name, Columns: []string{c.Name}})
			}
		}
	}
}

// drill names the rows of a stretch that differ.
func (a *auditor) drill(ctx context.Context, t *auditedTable, s stretch, blocks []*block) error {
	columns, values := t.compared()
	var hashes, names []string
	for i, c := range columns {
		hashes, names = append(hashes, "cityHash64("+values[i]+")"), append(names, text(c))
	}
	side := func(n int, from string) string {
		return fmt.Sprintf("SELECT _seq, %s AS r, device, %s AS gone, %d AS side, [%s] AS h FROM %s", t.row(), t.expired(), n, strings.Join(hashes, ", "), from)
	}
	sides := []string{side(1, fmt.Sprintf("%s WHERE %s AND %s", a.table(t.name), s.where(), t.sound()))}
	if len(blocks) > 0 {
		sql, _ := a.expectation(t, blocks, columns)
		sides = append(sides, side(0, "("+sql+")"))
	}
	if len(t.broken) > 0 {
		broken := fmt.Sprintf("SELECT _seq, %s AS r, '' AS device, 0 AS gone, 2 AS side, emptyArrayUInt64() AS h FROM %s WHERE %s AND %s",
			t.row(), a.table(t.name), s.where(), t.inBroken())
		if _, err := a.ask(ctx, "SELECT count() FROM ("+broken+") WHERE NOT ignore(_seq, r)", nil); err == nil {
			sides = append(sides, broken)
		}
	}
	// The arrays are as long as that of the names even where a side has no row.
	of := func(n int) string {
		return fmt.Sprintf("if(countIf(side = %[1]d) = 0, arrayResize([toUInt64(0)], %[2]d), anyIf(h, side = %[1]d))", n, len(columns))
	}
	sql := fmt.Sprintf(`SELECT _seq, r, any(device), countIf(side = 0) AS expected, countIf(side = 1) AS actual, countIf(side = 2) AS broken, max(gone),
		arrayFilter((name, e, a) -> e != a, [%s], %s, %s)
		FROM (%s) GROUP BY _seq, r HAVING expected != actual OR arraySort(groupArrayIf(cityHash64(h), side = 0)) != arraySort(groupArrayIf(cityHash64(h), side = 1))
		ORDER BY _seq, r`, strings.Join(names, ", "), of(0), of(1), strings.Join(sides, " UNION ALL "))
	rows, err := a.ask(ctx, sql, blocks)
	if err != nil {
		return err
	}
	for _, row := range rows {
		d := Difference{Table: t.name, Epoch: s.epoch, Partition: s.partition}
		var expected, actual, broken uint64
		var gone int
		if err := row.scan(&d.Seq, &d.Row, &d.Device, &expected, &actual, &broken, &gone, &d.Columns); err != nil {
			return err
		}
		switch {
		case expected > actual && actual == 0 && broken > 0: // told with its part
			continue
		case expected > actual && gone > 0:
			a.report.Expired += expected - actual
			continue
		case expected > actual:
			d.Kind, d.Count, d.Columns = MissingRow, expected-actual, nil
		case expected == 0 && d.Seq <= s.purged:
			continue
		case expected == 0:
			d.Kind, d.Count, d.Columns = ExtraRow, actual, nil
		case actual > expected:
			d.Kind, d.Count, d.Columns = DoubledRow, actual-expected, nil
		default:
			d.Kind = AlteredRow
		}
		a.found(d)
	}
	return nil
}

// An answerRow is a row of an answer in JSON.
type answerRow []json.RawMessage

func (r answerRow) scan(into ...any) error {
	if len(r) != len(into) {
		return fmt.Errorf("read an answer: %d columns, want %d", len(r), len(into))
	}
	for i := range r {
		if err := json.Unmarshal(r[i], into[i]); err != nil {
			return fmt.Errorf("read an answer: column %d: %w", i, err)
		}
	}
	return nil
}

// structure is a block's columns as ClickHouse shall read them.
func structure(columns []schemas.Column) string {
	var list []string
	for _, c := range columns {
		list = append(list, quote(c.Name)+" "+c.Type)
	}
	return strings.Join(list, ", ")
}
