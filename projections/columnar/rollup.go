package columnar

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/tachograph/tachograph/events"
	"github.com/tachograph/tachograph/projections"
	"github.com/tachograph/tachograph/schemas"
)

// Roll-ups hold, for each device and stretch of the device's time, of each
// numeric signal how many samples there were, their least, greatest, sum and
// last. They outlive the samples.
//
// A pass takes the samples of a stretch of the log from the message table, adds
// them up and inserts what each bucket gets, with the position up to which the
// bucket is complete now (_version). ClickHouse merges such rows as it merges
// parts, so a sample that comes late for a bucket whose samples have expired is
// added to what is left of them. After a doubt (a crash, an answer that was
// lost) a pass leaves out, sample by sample, what its bucket has already.
type resolution struct {
	suffix  string
	seconds int
	bucket  string // where the bucket of a sample begins
}

var resolutions = []resolution{{"1m", 60, "toStartOfMinute(time)"}, {"1h", 3600, "toStartOfHour(time)"}}

// rollUpName is the checkpoint of all roll-ups of a partition.
const rollUpName = "_rollups"

// rollUpChunk is how many positions one pass takes at most.
const rollUpChunk = 500_000

// rollUpDue tells whether there is something to roll up, and how long until it
// shall be done.
func (w *Writer) rollUpDue() (pending bool, in time.Duration) {
	if w.cfg.Partition >= events.ControlPartition || w.rolled == w.checkpoint.Position {
		return false, 0
	}
	return true, max(0, w.cfg.RollUpEvery-time.Since(w.rolledAt))
}

// errDamaged means that a pass cannot read its samples or its roll-up.
var errDamaged = errors.New("a table is damaged (remedy: tacho verify names the part, tacho replay columnar builds the tables anew)")

// rollUpLater puts off a pass that damaged samples have stopped: they must not
// hold up what still comes in.
func (w *Writer) rollUpLater(err error) {
	const passes = 12
	w.touched, w.rollUpDoubt = nil, true
	w.rolledAt = time.Now().Add((passes - 1) * w.cfg.RollUpEvery)
	w.mu.Lock()
	w.status.Errors++
	w.status.LastError = err.Error()
	n := w.status.Errors
	w.mu.Unlock()
	if n&(n-1) == 0 {
		w.cfg.Logger.Error("roll-ups stand still; samples and events go on", "partition", w.cfg.Partition, "error", err, "failures", n)
	}
}

// rollUp brings the roll-ups up to the checkpoint.
//
// Errors: errDamaged, after which rollUpLater; those that end the writer.
func (w *Writer) rollUp(ctx context.Context) error {
	ctx, cancel := projections.Graceful(ctx, stopPatience)
	defer cancel()
	if w.rollUpDoubt { // a part of the pass that was stopped may have been made; nothing more of it may come
		if err := w.persist(ctx, "claim", func() error { return w.claim(ctx, false) }); err != nil {
			return err
		}
		w.rollUpDoubt = false
	}
	for w.rolled != w.checkpoint.Position {
		to := w.checkpoint.Position
		if to.Epoch == w.rolled.Epoch && to.Seq-w.rolled.Seq > rollUpChunk {
			to.Seq = w.rolled.Seq + rollUpChunk
		}
		touched := w.touched
		if touched == nil {
			touched = w.sampled(ctx, to)
		}
		for _, s := range w.cfg.Catalog.Schemas().All() {
			if !rolledUp(s) || touched != nil && !touched[s.Name()] {
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

// sampled returns the message types with samples that the roll-ups lack, up to a
// position. After a start any may have some, and a look at all of them at once is
// less than a pass over each. It returns nil when it cannot tell: the passes meet
// what is wrong themselves, and say of which table.
func (w *Writer) sampled(ctx context.Context, to events.Position) map[string]bool {
	var parts []string
	for _, s := range w.cfg.Catalog.Schemas().All() {
		if !rolledUp(s) {
			continue
		}
		if err := w.ensure(ctx, s); err != nil {
			return nil
		}
		parts = append(parts, fmt.Sprintf("(SELECT %s AS t FROM %s WHERE %s LIMIT 1)", text(s.Name()), w.table(s.Name()), w.within(to)))
	}
	found := map[string]bool{}
	for some := range slices.Chunk(parts, tablesAtOnce) {
		var types []struct {
			Name string `ch:"t"`
		}
		if err := w.conn.Select(ctx, &types, strings.Join(some, " UNION ALL ")); err != nil {
			return nil
		}
		for _, t := range types {
			found[t.Name] = true
		}
	}
	return found
}

func (w *Writer) addToRollUp(ctx context.Context, s *schemas.Schema, r resolution, to events.Position) error {
	attempt, doubtful := 0, w.touched == nil
	var stopped error
	err := w.persist(ctx, "roll up "+r.view(s), func() error {
		if attempt++; attempt > 1 {
			if err := w.doubt(ctx); err != nil {
				return err
			}
			doubtful = true
		}
		again := false
		if doubtful {
			row := w.conn.QueryRow(ctx, fmt.Sprintf("SELECT count() > 0 FROM (SELECT 1 FROM %s WHERE _partition = %d AND _version > %d LIMIT 1)",
				w.table(r.table(s)), w.cfg.Partition, asNumber(w.rolled)))
			if err := row.Scan(&again); err != nil {
				return fmt.Errorf("look for a pass that was made before: %w", err)
			}
		}
		q := url.Values{
			"query": {w.rollUpSQL(s, r, to, again)}, "query_id": {w.queryID(fmt.Sprintf("%s-%d-%d", r.view(s), to.Seq, w.nextAttempt()))},
			"async_insert": {"0"}, "wait_end_of_query": {"1"},
		}
		err := w.post(ctx, q, strings.NewReader(""))
		if damaged(err) {
			stopped = fmt.Errorf("roll up %s: %w: %s", r.view(s), errDamaged, short(err))
			return nil
		}
		if err != nil {
			return err
		}
		return w.cfg.Fault("rolled up " + r.view(s))
	})
	if err == nil {
		err = stopped
	}
	return err
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
	w.rolled, w.touched, w.rolledAt = p, nil, time.Now()
	return nil
}
