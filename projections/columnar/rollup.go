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
				if err := w.addToRollUp(ctx, s, r, to, w.touched == nil); err != nil {
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

func (w *Writer) addToRollUp(ctx context.Context, s *schemas.Schema, r resolution, to events.Position, again bool) error {
	attempt := 0
	return w.persist(ctx, "roll up "+r.view(s), func() error {
		if attempt++; attempt > 1 {
			if err := w.doubt(ctx); err != nil {
				return err
			}
			again = true
		}
		q := url.Values{
			"query": {w.rollUpSQL(s, r, to, again)}, "query_id": {w.queryID(fmt.Sprintf("%s-%d-%d", r.view(s), to.Seq, w.nextAttempt()))},
			"async_insert": {"0"}, "wait_end_of_query": {"1"},
		}
		if err := w.post(ctx, q, strings.NewReader("")); err != nil {
			return err
		}
		return w.cfg.Fault("rolled up " + r.view(s))
	})
}

// rollUpSQL adds the samples up to a position to their buckets. A first pass over
// them takes all; one that may have been made before (again) leaves out what a
// bucket has, sample by sample, which costs several times as much.
func (w *Writer) rollUpSQL(s *schemas.Schema, r resolution, to events.Position, again bool) string {
	const place = "bitOr(bitShiftLeft(toUInt64(_epoch), 48), _seq)"
	table, target := w.table(s.Name()), w.table(r.table(s))
	bucket := fmt.Sprintf("fromUnixTimestamp64Second(toInt64(floor(toUnixTimestamp64Micro(time) / %[1]d000000)) * %[1]d, 'UTC')", r.seconds)
	within := fmt.Sprintf("_partition = %d AND (_epoch, _seq) > (%d, %d) AND (_epoch, _seq) <= (%d, %d)", w.cfg.Partition, w.rolled.Epoch, w.rolled.Seq, to.Epoch, to.Seq)
	var signals []string
	for _, name := range numericFields(s) {
		x := fmt.Sprintf("toNullable(toFloat64(%s))", quote(name))
		if again {
			signals = append(signals, fmt.Sprintf("(%s, %s)", text(name), x))
			continue
		}
		signals = append(signals, fmt.Sprintf("(%[1]s, count(%[2]s), ifNull(min(%[2]s), 0), ifNull(max(%[2]s), 0), ifNull(sum(%[2]s), 0), argMaxIf(assumeNotNull(%[2]s), (time, %[3]s, _row), isNotNull(%[2]s)), maxIf(time, isNotNull(%[2]s)))",
			text(name), x, place))
	}
	list := strings.Join(signals, ", ")
	fresh := fmt.Sprintf(`SELECT device, bucket, pair.1 AS signal, pair.2 AS n, pair.3 AS low, pair.4 AS high, pair.5 AS total, pair.6 AS newest, pair.7 AS at
	FROM (SELECT device, %s AS bucket, arrayJoin([%s]) AS pair FROM %s WHERE %s GROUP BY device, bucket) WHERE pair.2 > 0`, bucket, list, table, within)
	if again {
		fresh = fmt.Sprintf(`SELECT s.device AS device, s.bucket AS bucket, s.signal AS signal, count() AS n, min(s.value) AS low, max(s.value) AS high, sum(s.value) AS total,
		argMax(s.value, (s.time, s.position, s.sample)) AS newest, max(s.time) AS at
	FROM (SELECT device, %s AS bucket, pair.1 AS signal, assumeNotNull(pair.2) AS value, time, %s AS position, _row AS sample
		FROM %s ARRAY JOIN [%s] AS pair WHERE %s AND isNotNull(pair.2)) AS s
	LEFT JOIN (SELECT device, signal, time AS bucket, max(version) AS known FROM %s WHERE version > %d GROUP BY device, signal, bucket) AS v
	ON s.device = v.device AND s.signal = v.signal AND s.bucket = v.bucket
	WHERE s.position > v.known GROUP BY device, bucket, signal`, bucket, place, table, list, within, target, uint64(w.rolled.Epoch)<<48|w.rolled.Seq)
	}
	return fmt.Sprintf(`INSERT INTO %[1]s (device, signal, time, count, min, max, sum, last, last_time, version)
WITH fresh AS (%[2]s),
old AS (SELECT device, signal, time AS bucket, count, min, max, sum, last, last_time FROM %[1]s FINAL WHERE (device, signal, time) IN (SELECT device, signal, bucket FROM fresh))
SELECT f.device, f.signal, f.bucket, o.count + f.n, if(o.count = 0, f.low, least(o.min, f.low)), if(o.count = 0, f.high, greatest(o.max, f.high)), o.sum + f.total,
	if(o.count = 0 OR f.at >= o.last_time, f.newest, o.last), if(o.count = 0, f.at, greatest(o.last_time, f.at)), toUInt64(%[3]d)
FROM fresh AS f LEFT JOIN old AS o ON f.device = o.device AND f.signal = o.signal AND f.bucket = o.bucket WHERE %[4]s`,
		target, fresh, uint64(to.Epoch)<<48|to.Seq, w.fence())
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
