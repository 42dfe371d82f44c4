package columnar

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"net/url"
	"strings"
	"time"

	"github.com/tachograph/tachograph/events"
	"github.com/tachograph/tachograph/schemas"
)

// Roll-ups hold, for each device, numeric signal and stretch of the device's
// time, how many samples there were, their least, greatest, sum and last. They
// outlive the samples.
//
// A bucket is a row of a ReplacingMergeTree whose version is the log position up
// to which samples are in it. A pass takes the samples between that version and
// the writer's checkpoint from the message table and adds them to the bucket:
// said twice, after a crash or an answer that was lost, it finds nothing more to
// add. A sample that comes late for a bucket whose samples have expired is added
// to what the bucket holds, which recomputing it from the samples would lose.
type resolution struct {
	suffix  string
	seconds int
}

var resolutions = []resolution{{"1m", 60}, {"1h", 3600}}

// rollUpName is the checkpoint of all roll-ups of a partition.
const rollUpName = "_rollups"

// rollUpChunk is how many positions one pass takes at most.
const rollUpChunk = 500_000

func (r resolution) table(s *schemas.Schema) string { return "_" + s.Name() + "_" + r.suffix }
func (r resolution) view(s *schemas.Schema) string  { return s.Name() + "_" + r.suffix }

// rolledUp tells whether a schema is a message type with numbers.
func rolledUp(s *schemas.Schema) bool {
	return s != nil && schemas.ValidName(s.Name()) == nil && len(numericFields(s)) > 0
}

func numericFields(s *schemas.Schema) (names []string) {
	for _, f := range s.Fields() {
		if f.Kind.Numeric() && !f.List && !f.Map {
			names = append(names, f.Column)
		}
	}
	return names
}

// ensureRollUps makes a message type's roll-up tables and the views that
// analysts read.
func (w *Writer) ensureRollUps(ctx context.Context, s *schemas.Schema) error {
	for _, r := range resolutions {
		table := fmt.Sprintf(`CREATE TABLE IF NOT EXISTS %s (device String CODEC(ZSTD(1)), signal LowCardinality(String), time DateTime64(0, 'UTC') CODEC(Delta(8), ZSTD(1)),
			count UInt64 CODEC(T64, ZSTD(1)), min Float64 CODEC(ZSTD(1)), max Float64 CODEC(ZSTD(1)), sum Float64 CODEC(ZSTD(1)), last Float64 CODEC(ZSTD(1)),
			last_time DateTime64(6, 'UTC') CODEC(Delta(8), ZSTD(1)), version UInt64 CODEC(Delta(8), ZSTD(1)))
			ENGINE = ReplacingMergeTree(version) ORDER BY (device, signal, time) COMMENT %s`,
			w.table(r.table(s)), text(fmt.Sprintf("%s by %d s of the device's time; read the view %s", s.Name(), r.seconds, r.view(s))))
		view := fmt.Sprintf(`CREATE OR REPLACE VIEW %s AS SELECT device, signal, time, count, min, max, sum / count AS avg, last, last_time FROM %s FINAL COMMENT %s`,
			w.table(r.view(s)), w.table(r.table(s)), text(fmt.Sprintf("count, least, greatest, average and last of each signal of %s, by %d s of the device's time", s.Name(), r.seconds)))
		for _, statement := range []string{table, view} {
			if err := w.conn.Exec(ctx, statement); err != nil {
				return fmt.Errorf("create roll-up %s: %w", r.view(s), err)
			}
		}
	}
	return nil
}

// rollUpDue tells whether there is something to roll up, and how long until it
// shall be done.
func (w *Writer) rollUpDue() (pending bool, in time.Duration) {
	if w.cfg.Partition >= events.ControlPartition || w.rolled == w.checkpoint.Position {
		return false, 0
	}
	return true, max(0, w.cfg.RollUpEvery-time.Since(w.rolledAt))
}

// rollUp brings the roll-ups up to the checkpoint.
func (w *Writer) rollUp(ctx context.Context) error {
	ctx, cancel := graceful(ctx, stopPatience)
	defer cancel()
	for w.rolled != w.checkpoint.Position {
		to := w.checkpoint.Position
		if to.Epoch == w.rolled.Epoch && to.Seq-w.rolled.Seq > rollUpChunk {
			to.Seq = w.rolled.Seq + rollUpChunk
		}
		for _, s := range w.cfg.Catalog.Schemas().All() {
			if !rolledUp(s) || w.untouched(s) {
				continue
			}
			if err := w.ensure(ctx, s); err != nil {
				return err
			}
			for _, r := range resolutions {
				if err := w.addToRollUp(ctx, s, r, to); err != nil {
					return err
				}
			}
		}
		if err := w.saveRolled(ctx, to); err != nil {
			return err
		}
		w.rolled = to
	}
	w.touched, w.rolledAt = map[string]bool{}, time.Now()
	return nil
}

// untouched tells of a table that certainly has no new samples. After a start
// nothing is certain.
func (w *Writer) untouched(s *schemas.Schema) bool { return w.touched != nil && !w.touched[s.Name()] }

func (w *Writer) addToRollUp(ctx context.Context, s *schemas.Schema, r resolution, to events.Position) error {
	attempt := 0
	return w.persist(ctx, "roll up "+r.view(s), func() error {
		if attempt++; attempt > 1 {
			if err := w.doubt(ctx); err != nil {
				return err
			}
		}
		q := url.Values{
			"query": {w.rollUpSQL(s, r, to)}, "query_id": {w.queryID(fmt.Sprintf("%s-%d-%d", r.view(s), to.Seq, w.nextAttempt()))},
			"async_insert": {"0"}, "wait_end_of_query": {"1"},
		}
		if err := w.post(ctx, q, strings.NewReader("")); err != nil {
			return err
		}
		return w.cfg.Fault("rolled up " + r.view(s))
	})
}

func (w *Writer) rollUpSQL(s *schemas.Schema, r resolution, to events.Position) string {
	var signals []string
	for _, name := range numericFields(s) {
		signals = append(signals, fmt.Sprintf("(%s, toNullable(toFloat64(%s)))", text(name), quote(name)))
	}
	table, target := w.table(s.Name()), w.table(r.table(s))
	return fmt.Sprintf(`INSERT INTO %[1]s (device, signal, time, count, min, max, sum, last, last_time, version)
WITH fresh AS (
	SELECT device, pair.1 AS signal, fromUnixTimestamp64Second(toInt64(floor(toUnixTimestamp64Micro(time) / %[3]d000000)) * %[3]d, 'UTC') AS bucket,
		assumeNotNull(pair.2) AS value, time AS at, bitOr(bitShiftLeft(toUInt64(_epoch), 48), _seq) AS position, _row AS sample
	FROM %[2]s ARRAY JOIN [%[4]s] AS pair
	WHERE _partition = %[5]d AND (_epoch, _seq) > (%[6]d, %[7]d) AND (_epoch, _seq) <= (%[8]d, %[9]d) AND isNotNull(pair.2)),
old AS (SELECT device, signal, time AS bucket, count, min, max, sum, last, last_time, version FROM %[1]s FINAL WHERE (device, signal, time) IN (SELECT device, signal, bucket FROM fresh))
SELECT f.device, f.signal, f.bucket, any(o.count) + count(),
	if(any(o.count) = 0, min(f.value), least(any(o.min), min(f.value))), if(any(o.count) = 0, max(f.value), greatest(any(o.max), max(f.value))),
	any(o.sum) + sum(f.value),
	if(any(o.count) = 0 OR max(f.at) >= any(o.last_time), argMax(f.value, (f.at, f.position, f.sample)), any(o.last)),
	if(any(o.count) = 0, max(f.at), greatest(any(o.last_time), max(f.at))),
	bitOr(bitShiftLeft(toUInt64(%[8]d), 48), toUInt64(%[9]d))
FROM fresh AS f LEFT JOIN old AS o ON f.device = o.device AND f.signal = o.signal AND f.bucket = o.bucket
WHERE f.position > o.version AND %[10]s
GROUP BY f.device, f.signal, f.bucket`,
		target, table, r.seconds, strings.Join(signals, ", "), w.cfg.Partition, w.rolled.Epoch, w.rolled.Seq, to.Epoch, to.Seq, w.fence())
}

// saveRolled notes how far the roll-ups are; older than the truth at worst.
func (w *Writer) saveRolled(ctx context.Context, to events.Position) error {
	sql := fmt.Sprintf("INSERT INTO %s (partition, table, epoch, seq, id, first) VALUES (%d, %s, %d, %d, '', 0)",
		w.table("checkpoints"), w.cfg.Partition, text(rollUpName), to.Epoch, to.Seq)
	return w.persist(ctx, "checkpoint of roll-ups", func() error {
		return w.post(ctx, url.Values{"async_insert": {"0"}, "wait_end_of_query": {"1"}}, strings.NewReader(sql))
	})
}

// resumeRollUps finds out how far the roll-ups are.
func (w *Writer) resumeRollUps(ctx context.Context) error {
	p := events.Position{Partition: w.cfg.Partition}
	row := w.conn.QueryRow(ctx, fmt.Sprintf("SELECT epoch, seq FROM %s WHERE partition = ? AND table = ? ORDER BY epoch DESC, seq DESC LIMIT 1", w.table("checkpoints")), w.cfg.Partition, rollUpName)
	if err := row.Scan(&p.Epoch, &p.Seq); err != nil && !errors.Is(err, sql.ErrNoRows) {
		return fmt.Errorf("read checkpoint of roll-ups: %w", err)
	}
	w.rolled, w.touched = p, nil
	return nil
}
