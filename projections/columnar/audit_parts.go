package columnar

import (
	"context"
	"fmt"
	"slices"
	"strings"
)

// checkParts holds the files of every part against the checksums that ClickHouse
// wrote beside them, and lists the parts that it has put aside as broken.
func (a *auditor) checkParts(ctx context.Context) error {
	names, err := a.ask(ctx, "SELECT name FROM system.tables WHERE database = "+text(a.cfg.Server.Name())+" AND engine LIKE '%MergeTree' ORDER BY name", nil)
	if err != nil {
		return err
	}
	a.enter("parts", uint64(len(names)))
	for _, row := range names {
		var name string
		if err := row.scan(&name); err != nil {
			return err
		}
		a.phase.Table = name
		t := a.tables[name]
		if t == nil { // ours, and what has no positions
			columns, err := columnTypes(ctx, a.conn, a.cfg.Server.Name(), name)
			if err != nil {
				return err
			}
			t = &auditedTable{name: name, columns: columns}
		}
		if err := a.checkTable(ctx, t); err != nil {
			return err
		}
		a.step(1)
	}
	rows, err := a.conn.Query(ctx, "SELECT table, name, ifNull(reason, '') FROM system.detached_parts WHERE database = ? AND reason LIKE '%broken%' ORDER BY table, name", a.cfg.Server.Name())
	if err != nil {
		return fmt.Errorf("list detached parts: %w", err)
	}
	defer rows.Close()
	for rows.Next() {
		d := Difference{Kind: DetachedPart}
		if err := rows.Scan(&d.Table, &d.Part, &d.Detail); err != nil {
			return fmt.Errorf("list detached parts: %w", err)
		}
		a.found(d)
	}
	return rows.Err()
}

// checkTable finds the parts of a table that are broken and were not known to be.
func (a *auditor) checkTable(ctx context.Context, t *auditedTable) error {
	rows, err := a.conn.Query(ctx, "CHECK TABLE "+a.table(t.name)+" SETTINGS check_query_single_value_result = 0")
	if err != nil {
		if strings.Contains(err.Error(), "ACCESS_DENIED") {
			why := fmt.Sprintf("the checksums of parts: the user may not CHECK TABLE (remedy: GRANT CHECK ON %s.* TO %s)", quote(a.cfg.Server.Name()), quote(a.cfg.Server.User))
			if !slices.Contains(a.report.Unchecked, why) {
				a.report.Unchecked = append(a.report.Unchecked, why)
			}
			return nil
		}
		return fmt.Errorf("check table %s: %w", t.name, err)
	}
	defer rows.Close()
	var bad []Difference
	for rows.Next() {
		var part, message string
		var passed bool
		if err := rows.Scan(&part, &passed, &message); err != nil {
			return fmt.Errorf("check table %s: %w", t.name, err)
		}
		a.report.Parts++
		if !passed && !slices.Contains(t.broken, part) {
			bad = append(bad, Difference{Kind: BrokenPart, Table: t.name, Part: part, Detail: shortText(message)})
		}
	}
	if err := rows.Err(); err != nil {
		return fmt.Errorf("check table %s: %w", t.name, err)
	}
	for _, d := range bad {
		t.broken, t.windows = append(t.broken, d.Part), nil // whose sums have its rows
		for _, place := range a.places(ctx, t, d) {
			a.found(place)
		}
	}
	return nil
}

// places says as closely as the part still lets itself be read which positions a
// broken part has damaged: by the columns that cannot be read and, in those, the
// rows between the first and the last that cannot.
func (a *auditor) places(ctx context.Context, t *auditedTable, d Difference) []Difference {
	in := "_part = " + text(d.Part)
	var rows uint64
	if err := a.conn.QueryRow(ctx, "SELECT rows FROM system.parts WHERE database = ? AND table = ? AND name = ? AND active", a.cfg.Server.Name(), t.name, d.Part).Scan(&rows); err != nil || rows == 0 {
		d.Detail += "; how many rows it has is not known"
		return []Difference{d}
	}
	columns, _ := t.compared()
	from, to := rows, uint64(0)
	for _, c := range columns {
		fails := func(from, to uint64) bool {
			_, err := a.ask(ctx, fmt.Sprintf("SELECT count() FROM %s WHERE %s AND _part_offset >= %d AND _part_offset < %d AND NOT ignore(%s)", a.table(t.name), in, from, to, quote(c)), nil)
			return err != nil
		}
		if !fails(0, rows) {
			continue
		}
		d.Columns = append(d.Columns, c)
		first, last := bounds(rows, fails)
		from, to = min(from, first), max(to, last)
	}
	if len(d.Columns) == 0 { // an index or a mark that these queries do not need, or a column that is not compared
		from, to = 0, rows
	}
	d.Count = to - from
	var places []Difference
	devices := "min(device), max(device)"
	if slices.Contains(d.Columns, "device") {
		devices = "'', ''"
	}
	answer, err := a.ask(ctx, fmt.Sprintf("SELECT _epoch, _partition, min(_seq), max(_seq), count(), %s FROM %s WHERE %s AND _part_offset >= %d AND _part_offset < %d GROUP BY 1, 2 ORDER BY 1, 2",
		devices, a.table(t.name), in, from, to), nil)
	for _, row := range answer {
		place, last := d, ""
		if err = row.scan(&place.Epoch, &place.Partition, &place.Seq, &place.Last, &place.Count, &place.Device, &last); err != nil {
			break
		}
		if last != place.Device { // by whom a part is sorted
			place.Detail = fmt.Sprintf("devices up to %s; %s", last, place.Detail)
		}
		places = append(places, place)
	}
	if err != nil || len(places) == 0 {
		d.Detail += fmt.Sprintf("; the positions of its rows %d to %d cannot be read", from, to)
		return []Difference{d}
	}
	return places
}

// bounds returns the rows, from and to, outside which nothing fails.
func bounds(rows uint64, fails func(from, to uint64) bool) (from, to uint64) {
	const grain = 1024           // ClickHouse reads granules of up to 8,192 rows
	low, high := uint64(0), rows // what lies before low is good, what lies before high fails
	for high-low > grain {
		if middle := low + (high-low)/2; fails(0, middle) {
			high = middle
		} else {
			low = middle
		}
	}
	from = low
	low, high = from, rows // what lies from high on is good
	for high-low > grain {
		if middle := low + (high-low)/2; fails(middle, rows) {
			low = middle
		} else {
			high = middle
		}
	}
	return from, high
}

// foreign finds rows of epochs and partitions that the log does not have, and
// rows behind its end.
func (a *auditor) foreign(ctx context.Context) error {
	for _, t := range a.all() {
		rows, err := a.ask(ctx, fmt.Sprintf("SELECT _epoch, _partition, count(), min(_seq), max(_seq) FROM %s WHERE %s GROUP BY 1, 2 ORDER BY 1, 2", a.table(t.name), t.sound()), nil)
		if damaged(err) {
			continue // the comparison of its stretches tells where
		}
		if err != nil {
			return err
		}
		for _, row := range rows {
			d := Difference{Kind: ForeignRow, Table: t.name}
			if err := row.scan(&d.Epoch, &d.Partition, &d.Count, &d.Seq, &d.Last); err != nil {
				return err
			}
			if d.Last == d.Seq {
				d.Last = 0
			}
			if err := a.ofTheLog(ctx, d); err != nil {
				return err
			}
		}
	}
	return nil
}

// ofTheLog notes the rows of an epoch and partition that the log cannot have.
func (a *auditor) ofTheLog(ctx context.Context, d Difference) error {
	if !a.expects(d.Partition) {
		d.Detail = "the log has no such partition, or another shard has it"
		a.found(d)
		return nil
	}
	_, last, err := a.log.Extent(ctx, d.Partition)
	switch {
	case err != nil:
		return err
	case last.Epoch != d.Epoch:
		d.Detail = fmt.Sprintf("the log is of epoch %d", last.Epoch)
		a.found(d)
	case max(d.Seq, d.Last) > last.Seq:
		a.behind[d.Partition] = max(a.behind[d.Partition], d.Seq, d.Last)
	}
	return nil
}
