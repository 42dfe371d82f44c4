package columnar

import (
	"context"
	"fmt"
	"strings"

	"github.com/ClickHouse/clickhouse-go/v2"

	"github.com/tachograph/tachograph/schemas"
)

func (r resolution) table(s *schemas.Schema) string { return "_" + s.Name() + "_" + r.suffix }
func (r resolution) view(s *schemas.Schema) string  { return s.Name() + "_" + r.suffix }

// wideView has a row for each device and bucket, with columns for each signal.
func (r resolution) wideView(s *schemas.Schema) string { return r.view(s) + "_wide" }

// rolledUp tells whether a schema is a message type with numbers.
func rolledUp(s *schemas.Schema) bool {
	return s != nil && schemas.ValidName(s.Name()) == nil && len(numericSignals(s)) > 0
}

// A signal is a numeric column. Its roll-ups have a type that holds every value
// of every type it may be widened to, and sums of them: integers stay integers,
// beyond 2^53 too. bits is the 64-bit type of a single value.
type signal struct{ column, typ, bits string }

func numericSignals(s *schemas.Schema) (signals []signal) {
	for _, f := range s.Fields() {
		switch {
		case !f.Kind.Numeric() || f.List || f.Map:
		case f.Kind == schemas.Float32 || f.Kind == schemas.Float64:
			signals = append(signals, signal{f.Column, "Float64", "Float64"})
		case f.Kind == schemas.Uint64:
			signals = append(signals, signal{f.Column, "Int128", "UInt64"})
		default:
			signals = append(signals, signal{f.Column, "Int128", "Int64"})
		}
	}
	return signals
}

// A part is what a roll-up keeps of a signal: the column's prefix, its type and
// codec, and how samples make it. None of the prefixes begins another one.
type part struct{ prefix, typ, codec, make string }

// of fills in a signal.
func (x signal) of(format string) string {
	return strings.NewReplacer("{type}", x.typ, "{bits}", x.bits, "{column}", quote(x.column)).Replace(format)
}

var parts = []part{
	{"count_", "SimpleAggregateFunction(sum, UInt64)", "T64, ZSTD(1)", "count({column})"},
	{"min_", "SimpleAggregateFunction(min, Nullable({type}))", "ZSTD(1)", "min(toNullable(to{type}({column})))"},
	{"max_", "SimpleAggregateFunction(max, Nullable({type}))", "ZSTD(1)", "max(toNullable(to{type}({column})))"},
	{"sum_", "SimpleAggregateFunction(sum, {type})", "ZSTD(1)", "ifNull(sum(to{type}({column})), 0)"},
	// See place: as one number it is compared, and its state is stored, several times cheaper than argMax of two columns.
	{"last_", "SimpleAggregateFunction(max, UInt256)", "ZSTD(1)", "maxIf(bitOr(place, toUInt256(reinterpretAsUInt64(to{bits}(assumeNotNull({column}))))), isNotNull({column}))"},
}

// lastValue and lastTime take a max(last_...) apart.
func (x signal) lastValue(of string) string {
	return fmt.Sprintf("reinterpretAs%s(toUInt64(bitAnd(%s, toUInt256(18446744073709551615))))", x.bits, of)
}

func lastTime(of string) string {
	return fmt.Sprintf("fromUnixTimestamp64Micro(toInt64(bitShiftRight(%s, %d)) - %d, 'UTC')", of, placeShift, placeBias)
}

// What a bucket is, how far it is complete, and when its newest sample arrived.
var bucketColumns = []schemas.Column{
	{Name: "device", Type: "String", Codec: "ZSTD(1)"},
	{Name: "time", Type: "DateTime64(0, 'UTC')", Codec: "Delta(8), ZSTD(1)", Comment: "where the bucket begins, by the device's clock"},
	{Name: "_partition", Type: "UInt16", Codec: "ZSTD(1)", Comment: "of the log"},
	{Name: "_version", Type: "SimpleAggregateFunction(max, UInt64)", Codec: "Delta(8), ZSTD(1)", Comment: "position in the partition up to which it is complete"},
	{Name: "_received", Type: "SimpleAggregateFunction(max, DateTime('UTC'))", Codec: "Delta(4), ZSTD(1)", Comment: "arrival of its newest sample"},
}

const byBucket = "AggregatingMergeTree PARTITION BY toYYYYMM(_received) ORDER BY (device, time, _partition)"

// rollUpTable is where a message type's roll-ups are.
func rollUpTable(s *schemas.Schema, r resolution) *table {
	columns := bucketColumns[:len(bucketColumns):len(bucketColumns)]
	for _, x := range numericSignals(s) {
		for _, p := range parts {
			columns = append(columns, schemas.Column{Name: p.prefix + x.column, Type: x.of(p.typ), Codec: p.codec})
		}
	}
	comment := fmt.Sprintf("%s by %d s of the device's time; read the views %s and %s", s.Name(), r.seconds, r.view(s), r.wideView(s))
	return &table{r.table(s), comment, byBucket, columns, "_version"}
}

// ensureRollUps makes a message type's roll-up tables, adds what they lack, and
// makes the views that analysts read.
func (w *Writer) ensureRollUps(ctx context.Context, s *schemas.Schema) error {
	of := []*schemas.Schema{s} // the views are the newest version's, also while older messages are read
	if newest, ok := w.cfg.Catalog.Schemas().Current(s.Name()); ok && newest.Version() > s.Version() && rolledUp(newest) {
		of = append(of, newest)
	}
	for _, r := range resolutions {
		for _, s := range of {
			if err := rollUpTable(s, r).ensure(ctx, w.conn, w.cfg.Server.Name(), w.tables.stock); err != nil {
				return err
			}
		}
		if err := ensureRollUpViews(ctx, w.conn, w.cfg.Server.Name(), of[len(of)-1], r, w.tables.stock); err != nil {
			return err
		}
	}
	return nil
}

func ensureRollUpViews(ctx context.Context, conn clickhouse.Conn, db string, s *schemas.Schema, r resolution, known *stock) error {
	for _, v := range []View{wideRollUp(s, r), longRollUp(s, r)} {
		if err := v.ensure(ctx, conn, db, []*table{rollUpTable(s, r)}, known); err != nil {
			return err
		}
	}
	return nil
}

// wideRollUp has the columns SIGNAL_count, _min, _max, _avg, _last, _last_time.
func wideRollUp(s *schemas.Schema, r resolution) View {
	var columns []string
	for _, x := range numericSignals(s) {
		of := func(prefix string) string { return quote(prefix + x.column) }
		count, newest := fmt.Sprintf("sum(%s)", of("count_")), fmt.Sprintf("max(%s)", of("last_"))
		for _, c := range []struct{ suffix, value string }{
			{"_count", count},
			{"_min", fmt.Sprintf("min(%s)", of("min_"))},
			{"_max", fmt.Sprintf("max(%s)", of("max_"))},
			{"_avg", fmt.Sprintf("if(%[1]s = 0, NULL, toFloat64(sum(%[2]s)) / %[1]s)", count, of("sum_"))},
			{"_last", fmt.Sprintf("if(%s = 0, NULL, %s)", count, x.lastValue(newest))},
			{"_last_time", fmt.Sprintf("if(%s = 0, NULL, %s)", count, lastTime(newest))},
		} {
			columns = append(columns, c.value+" AS "+quote(x.column+c.suffix))
		}
	}
	return View{
		Name:    r.wideView(s),
		Comment: fmt.Sprintf("of each signal of %s count, least, greatest, average and last, by %d s of the device's time", s.Name(), r.seconds),
		Query:   fmt.Sprintf("SELECT device, time, %s FROM {db}.%s GROUP BY device, time", strings.Join(columns, ", "), quote(r.table(s))),
	}
}

// longRollUp has a row for each signal, as Float64.
func longRollUp(s *schemas.Schema, r resolution) View {
	var rows []string
	for _, x := range numericSignals(s) {
		of := func(prefix string) string { return quote(prefix + x.column) }
		newest := fmt.Sprintf("max(%s)", of("last_"))
		rows = append(rows, fmt.Sprintf("(%s, sum(%s), toFloat64(ifNull(min(%s), 0)), toFloat64(ifNull(max(%s), 0)), toFloat64(sum(%s)), toFloat64(%s), %s)",
			text(x.column), of("count_"), of("min_"), of("max_"), of("sum_"), x.lastValue(newest), lastTime(newest)))
	}
	return View{
		Name:    r.view(s),
		Comment: fmt.Sprintf("count, least, greatest, average and last of each signal of %s, by %d s of the device's time", s.Name(), r.seconds),
		Query: fmt.Sprintf(`SELECT device, toLowCardinality(row.1) AS signal, time, row.2 AS count, row.3 AS min, row.4 AS max, row.5 / row.2 AS avg, row.6 AS last, row.7 AS last_time
			FROM (SELECT device, time, arrayJoin([%s]) AS row FROM {db}.%s GROUP BY device, time) WHERE row.2 > 0`, strings.Join(rows, ", "), quote(r.table(s))),
	}
}
