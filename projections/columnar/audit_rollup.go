package columnar

import (
	"context"
	"fmt"
	"strings"

	"github.com/tachograph/tachograph/events"
	"github.com/tachograph/tachograph/schemas"
)

// rollUpRows is how many samples one comparison of roll-ups takes, about.
const rollUpRows = 1_000_000

// rollUpDevices is how many devices it takes at most.
const rollUpDevices = 2000

// rollUps computes the roll-ups anew from the samples and compares them. Buckets
// that were touched since it began are left out, as are those whose samples are
// not all there any more because their time to live has passed.
func (a *auditor) rollUps(ctx context.Context) error {
	var all []*schemas.Schema
	for _, s := range a.cfg.Catalog.Schemas().All() {
		if t := a.tables[s.Name()]; t != nil && rolledUp(s) {
			all = append(all, s)
		}
	}
	a.enter("rollups", uint64(len(all)))
	have, err := swappable(ctx, a.conn, a.cfg.Server.Name())
	if err != nil {
		return err
	}
	settled, err := a.settled(ctx)
	if err != nil {
		return err
	}
	for _, s := range all {
		a.phase.Table = s.Name()
		for _, r := range resolutions {
			if have[r.table(s)] == "" {
				if len(settled) > 0 {
					a.found(Difference{Kind: MissingTable, Table: r.table(s)})
				}
				continue
			}
			err := a.rollUpOf(ctx, s, r, settled)
			if damaged(err) {
				a.report.Unchecked = append(a.report.Unchecked, fmt.Sprintf("roll-up %s: %s", r.view(s), short(err)))
				err = nil
			}
			if err != nil {
				return err
			}
		}
		a.step(1)
	}
	return nil
}

// settled returns up to where the roll-ups are, by partition.
func (a *auditor) settled(ctx context.Context) (map[uint16]events.Position, error) {
	rows, err := a.ask(ctx, fmt.Sprintf("SELECT partition, max((epoch, seq)).1, max((epoch, seq)).2 FROM %s WHERE table = %s GROUP BY partition", a.table("checkpoints"), text(rollUpName)), nil)
	if err != nil {
		return nil, err
	}
	all := map[uint16]events.Position{}
	for _, row := range rows {
		var p events.Position
		if err := row.scan(&p.Partition, &p.Epoch, &p.Seq); err != nil {
			return nil, err
		}
		all[p.Partition] = p
	}
	return all, nil
}

// rollUpOf compares one roll-up, some devices of one partition at a time.
func (a *auditor) rollUpOf(ctx context.Context, s *schemas.Schema, r resolution, settled map[uint16]events.Position) error {
	t := a.tables[s.Name()]
	if len(t.broken) > 0 {
		a.report.Unchecked = append(a.report.Unchecked, fmt.Sprintf("roll-up %s: parts of its samples are broken", r.view(s)))
		return nil
	}
	devices, err := a.ask(ctx, fmt.Sprintf("SELECT device, sum(n) FROM (SELECT device, count() AS n FROM %s GROUP BY device UNION ALL SELECT device, toUInt64(0) FROM %s GROUP BY device) GROUP BY device ORDER BY device",
		a.table(t.name), a.table(r.table(s))), nil)
	if err != nil {
		return err
	}
	type some struct {
		names []string
		rows  uint64
	}
	layout := a.log.Layout()
	waiting := map[uint16]*some{}
	compare := func(partition uint16) error {
		devices := waiting[partition].names
		delete(waiting, partition)
		return a.rollUpWithin(ctx, s, r, settled[partition], "device IN ("+strings.Join(devices, ", ")+")")
	}
	for _, row := range devices {
		var device string
		var n uint64
		if err := row.scan(&device, &n); err != nil {
			return err
		}
		for _, stretch := range layout.Way(layout.PartitionOf(events.Slot(device))) { // a bucket is kept for each by itself
			p := stretch.Partition
			if settled[p].Seq == 0 {
				continue // no pass yet
			}
			if waiting[p] == nil {
				waiting[p] = &some{}
			}
			w := waiting[p]
			w.names, w.rows = append(w.names, text(device)), w.rows+n
			if w.rows >= rollUpRows || len(w.names) >= rollUpDevices {
				if err := compare(p); err != nil {
					return err
				}
			}
		}
	}
	for p := range waiting {
		if err := compare(p); err != nil {
			return err
		}
	}
	return nil
}

// rollUpWithin adds up the samples of some devices as a pass does, and compares
// each bucket, signal by signal.
func (a *auditor) rollUpWithin(ctx context.Context, s *schemas.Schema, r resolution, settled events.Position, devices string) error {
	has, err := columnTypes(ctx, a.conn, a.cfg.Server.Name(), r.table(s))
	if err != nil {
		return err
	}
	var made, kept, differs, names []string
	for _, x := range numericSignals(s) {
		if has["count_"+x.column] == "" || a.tables[s.Name()].columns[x.column] == "" {
			continue // registered just now
		}
		e, k := map[string]string{}, map[string]string{}
		for i, p := range parts {
			merge := []string{"sum", "min", "max", "sum", "max"}[i]
			e[p.prefix], k[p.prefix] = quote("made_"+p.prefix+x.column), quote("kept_"+p.prefix+x.column)
			made = append(made, x.of(p.make)+" AS "+e[p.prefix])
			kept = append(kept, fmt.Sprintf("%s(%s) AS %s", merge, quote(p.prefix+x.column), k[p.prefix]))
		}
		differ := func(prefix string) string { return fmt.Sprintf("ifNull(%s != %s, 0)", e[prefix], k[prefix]) }
		values := differ("min_") + " OR " + differ("max_") + " OR " + differ("last_")
		if x.typ == "Float64" { // whose sum depends on the order, and whose least and greatest do where one is not a number
			values = fmt.Sprintf("isNaN(%[1]s) != isNaN(%[2]s) OR isFinite(%[1]s) AND (%[3]s OR abs(%[1]s - %[2]s) > 1e-9 * %[4]s * ifNull(greatest(abs(%[5]s), abs(%[6]s)), 0))",
				e["sum_"], k["sum_"], values, e["count_"], e["min_"], e["max_"])
		} else {
			values += " OR " + differ("sum_")
		}
		count := e["count_"] + " != " + k["count_"]
		if a.cfg.Keep.Samples > 0 { // that samples are fewer shows nothing then
			count = e["count_"] + " > " + k["count_"]
		}
		differs = append(differs, fmt.Sprintf("%s OR %s = %s AND %s > 0 AND (%s)", count, e["count_"], k["count_"], e["count_"], values))
		names = append(names, text(x.column))
	}
	if len(names) == 0 {
		return nil
	}
	keep := a.cfg.Keep.Minutes
	if r.suffix == resolutions[1].suffix {
		keep = a.cfg.Keep.Hours
	}
	gone := "0"
	if keep > 0 { // what a bucket got goes by itself
		gone = fmt.Sprintf("samples > 0 AND oldest + toIntervalSecond(%d) <= now() + 1", int64(keep.Seconds()))
	}
	expected := fmt.Sprintf(`WITH %s AS place SELECT device, toDateTime64(%s, 0, 'UTC') AS bucket, count() AS samples, toDateTime(min(received)) AS oldest, max(_epoch) AS epoch, min(_seq) AS first, max(_seq) AS last, %s
		FROM %s WHERE %s AND %s GROUP BY device, bucket`, place, r.bucket, strings.Join(made, ", "), a.table(s.Name()), within([]events.Position{settled}), devices)
	actual := fmt.Sprintf("SELECT device, time AS bucket, max(_version) AS version, %s FROM %s WHERE _partition = %d AND %s GROUP BY device, bucket",
		strings.Join(kept, ", "), a.table(r.table(s)), settled.Partition, devices)
	sql := fmt.Sprintf(`SELECT device, bucket, samples, epoch, first, last, arrayFilter((name, differs) -> differs, [%s], [%s]) AS signals
		FROM (%s) AS e FULL OUTER JOIN (%s) AS k USING (device, bucket) WHERE version <= %d AND NOT (%s)`,
		strings.Join(names, ", "), strings.Join(differs, ", "), expected, actual, asNumber(settled), gone)
	const settings = " SETTINGS enable_extended_results_for_datetime_functions = 1"
	sums, err := a.ask(ctx, fmt.Sprintf("SELECT count(), countIf(notEmpty(signals)) FROM (%s)", sql)+settings, nil)
	if err != nil {
		return err
	}
	var n, differ uint64
	if err := sums[0].scan(&n, &differ); err != nil {
		return err
	}
	a.report.Buckets += n
	if differ == 0 {
		return nil
	}
	rows, err := a.ask(ctx, fmt.Sprintf("SELECT device, toString(bucket), samples, epoch, first, last, signals FROM (%s) WHERE notEmpty(signals) ORDER BY device, bucket LIMIT %d", sql, a.most)+settings, nil)
	if err != nil {
		return err
	}
	for _, row := range rows {
		d := Difference{Kind: RollUp, Table: r.view(s), Partition: settled.Partition}
		var bucket string
		var samples uint64
		if err := row.scan(&d.Device, &bucket, &samples, &d.Epoch, &d.Seq, &d.Last, &d.Columns); err != nil {
			return err
		}
		d.Detail = fmt.Sprintf("bucket %s, which has %d samples", bucket, samples)
		a.found(d)
	}
	if rest := differ - min(differ, uint64(len(rows))); rest > 0 {
		a.found(Difference{Kind: RollUp, Table: r.view(s), Partition: settled.Partition, Count: rest, Detail: "more buckets"})
	}
	return nil
}
