package peers

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"time"
)

// A Layout is what the table of raw events costs in one shape, medians.
type Layout struct {
	Name    string  `json:"layout"`
	Insert  float64 `json:"insert_us"` // CPU of ClickHouse a row, ready-made blocks of 100,000
	Lowest  float64 `json:"lowest_insert_us"`
	Highest float64 `json:"highest_insert_us"`
	OfOurs  float64 `json:"of_ours"`  // median of the rounds' ratios
	Merge   float64 `json:"merge_us"` // CPU of merging all parts into one
	Bytes   float64 `json:"bytes"`    // a row on disk, merged
}

// A shape of the table: how it differs from the one that a node has.
type layout struct {
	name    string
	engine  string // "" is that of the node's table
	changes []string
	without string // a column
}

const eventsByLog = " ENGINE = MergeTree PARTITION BY toYYYYMM(received) ORDER BY (_epoch, _partition, _seq)"

var layouts = []layout{
	{name: "as it is: by device and position, ZSTD(1)"},
	{name: "by position alone", engine: eventsByLog},
	{name: "payload LZ4", changes: []string{"MODIFY COLUMN payload String CODEC(LZ4)"}},
	{name: "payload ZSTD(3)", changes: []string{"MODIFY COLUMN payload String CODEC(ZSTD(3))"}},
	{name: "by position alone, payload ZSTD(3)", engine: eventsByLog, changes: []string{"MODIFY COLUMN payload String CODEC(ZSTD(3))"}},
	{name: "without id", changes: []string{"DROP COLUMN id"}, without: "id"},
	{name: "without subject", changes: []string{"DROP COLUMN subject"}, without: "subject"},
	{name: "payload alone, no other column but the position", changes: nil, without: "*"},
}

// Layouts inserts the same raw events into tables of several shapes, by turns.
func (w Ways) Layouts(ctx context.Context, form Form, args ...string) (_ []Layout, err error) {
	w.Telegraf = ""
	r, err := newRig(ctx, w, form, args...)
	if err != nil {
		return nil, fmt.Errorf("layouts: %w", err)
	}
	defer func() { err = errors.Join(err, r.stop(), r.close()) }()
	if _, err := r.runNode(ctx); err != nil {
		return nil, fmt.Errorf("layouts: %w", err)
	}
	rows := map[string]readyMade{}
	inserts, merges, bytes := make([][]float64, len(layouts)), make([][]float64, len(layouts)), make([]float64, len(layouts))
	for _, l := range layouts {
		if _, ok := rows[l.without]; ok {
			continue
		}
		if rows[l.without], err = r.takeRows(ctx, "events", l.columns()); err != nil {
			return nil, fmt.Errorf("layouts: %w", err)
		}
	}
	for round := range w.Count {
		for i := range layouts {
			at := (i + round) % len(layouts)
			insert, merge, size, err := r.layout(ctx, layouts[at], rows[layouts[at].without])
			if err != nil {
				return nil, fmt.Errorf("layouts: %s: %w", layouts[at].name, err)
			}
			inserts[at], merges[at], bytes[at] = append(inserts[at], insert), append(merges[at], merge), size
		}
		if w.Say != nil {
			w.Say(fmt.Sprintf("layouts, round %d of %d", round+1, w.Count))
		}
	}
	var all []Layout
	for i, l := range layouts {
		s := summary(inserts[i])
		all = append(all, Layout{Name: l.name, Insert: s.median, Lowest: s.lowest, Highest: s.highest, OfOurs: Median(ratios(inserts[i], inserts[0])),
			Merge: Median(merges[i]), Bytes: bytes[i]})
	}
	return all, nil
}

func (l layout) columns() string {
	switch l.without {
	case "":
		return "*"
	case "*":
		return "device, received, payload, _epoch, _partition, _seq"
	default:
		return "* EXCEPT (" + l.without + ")"
	}
}

const layoutTable = "_layout"

func (r *Rig) layout(ctx context.Context, l layout, rows readyMade) (insert, merge, bytes float64, err error) {
	as := "AS events" + l.engine
	if l.without == "*" {
		as = `(device String CODEC(ZSTD(1)), received DateTime64(6, 'UTC') CODEC(Delta(8), ZSTD(1)), payload String CODEC(ZSTD(1)),
			_epoch UInt32 CODEC(ZSTD(1)), _partition UInt16 CODEC(ZSTD(1)), _seq UInt64 CODEC(Delta(8), ZSTD(1))) ENGINE = MergeTree PARTITION BY toYYYYMM(received) ORDER BY (device, _epoch, _partition, _seq)`
	}
	if err := r.create(ctx, layoutTable, as); err != nil {
		return 0, 0, 0, err
	}
	for _, change := range l.changes {
		if _, err := r.engine.Exec(ctx, "ALTER TABLE "+layoutTable+" "+change, nil); err != nil {
			return 0, 0, 0, err
		}
	}
	inserting, err := r.insert(ctx, []readyMade{rows}, []string{layoutTable})
	if err != nil {
		return 0, 0, 0, err
	}
	merging, err := r.leg(func() error {
		for _, sql := range []string{"SYSTEM START MERGES " + layoutTable, "OPTIMIZE TABLE " + layoutTable + " FINAL"} {
			if _, err := r.engine.Exec(ctx, sql, nil); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return 0, 0, 0, err
	}
	size, err := r.engine.Rows(ctx, "SELECT sum(bytes_on_disk), sum(rows), count() FROM system.parts WHERE active AND database = 'tacho' AND table = '"+layoutTable+"'")
	if err != nil {
		return 0, 0, 0, err
	}
	if slices.Compare(size[0][1:], []string{strconv.Itoa(r.messages), "1"}) != 0 {
		return 0, 0, 0, fmt.Errorf("%v: want %d rows in one part", size[0], r.messages)
	}
	total, err := strconv.ParseFloat(size[0][0], 64)
	perRow := func(d time.Duration) float64 { return micros(d, r.messages) }
	return perRow(inserting.engine), perRow(merging.engine), total / float64(r.messages), err
}
