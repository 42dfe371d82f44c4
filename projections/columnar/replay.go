package columnar

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/ClickHouse/clickhouse-go/v2"

	"github.com/tachograph/tachograph/events"
	"github.com/tachograph/tachograph/projections"
)

// The phases of the database beside the serving one.
const (
	phaseTable    = "_phase"
	phaseBuilding = "building" // a replay builds it
	phaseBefore   = "before"   // it holds what served before a replay was swapped in
)

// A Replay builds all tables anew in a database beside the serving one, from the
// log's beginning to its live end, compares the two and swaps them. The serving
// writers go on until the swap, which stops them for a moment. A replay that was
// interrupted goes on where it was; the tables that served before are kept for
// Undo.
type Replay struct {
	Writer     Config // of a serving writer; Partition is not used
	Partitions []uint16
	Pause      func(context.Context) (resume func(), err error) // stops the serving writers where they can go on

	// Fault, for tests, is asked before each step of a swap; its error is the step's.
	Fault func(step string) error
}

// otherName is the database beside the serving one.
func (r *Replay) otherName() string { return r.Writer.Server.Name() + "_replay" }

// Build builds the tables anew up to the live end, compares them with those that
// serve and, unless dry, swaps them. rate bounds the events a second over all
// partitions, 0 not; progress hears about five times a second.
func (r *Replay) Build(ctx context.Context, dry bool, rate float64, progress func(projections.Progress)) ([]projections.TableReport, error) {
	conn, err := r.Writer.Server.Open()
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	if err := r.readable(ctx, conn, phaseBuilding); err != nil {
		return nil, err
	}
	if err := r.begin(ctx, conn); err != nil {
		return nil, err
	}
	building, err := r.start(ctx, rate)
	if err != nil {
		return nil, err
	}
	defer func() { _ = building.Stop() }() // its error was told already
	if err := building.CatchUp(ctx, "building", projections.NearEnd, progress); err != nil {
		return nil, err
	}
	progress(building.Done(projections.Progress{Phase: "comparing"}))
	reports, err := r.compare(ctx, conn)
	if err != nil || dry {
		return reports, err
	}
	progress(building.Done(projections.Progress{Phase: "swapping"}))
	resume, err := r.Pause(ctx)
	if err != nil {
		return reports, err
	}
	defer resume()
	stood, err := checkpoints(ctx, conn, r.Writer.Server.Name())
	if err != nil {
		return reports, err
	}
	goal := projections.NearEnd
	if len(stood) > 0 {
		goal = projections.At(stood)
	}
	if err := building.CatchUp(ctx, "swapping", goal, progress); err != nil {
		return reports, err
	}
	if err := building.Stop(); err != nil {
		return reports, err
	}
	return reports, r.exchange(ctx, conn)
}

// Undo swaps back what served before the last replay. Its writers go on where
// they stood then.
func (r *Replay) Undo(ctx context.Context) error {
	conn, err := r.Writer.Server.Open()
	if err != nil {
		return err
	}
	defer conn.Close()
	phase, err := r.phase(ctx, conn)
	if err != nil {
		return err
	}
	if phase != phaseBefore {
		return projections.ErrNothingToUndo
	}
	if err := r.readable(ctx, conn, phaseBefore); err != nil {
		return err
	}
	resume, err := r.Pause(ctx)
	if err != nil {
		return err
	}
	defer resume()
	return r.exchange(ctx, conn)
}

// Check tells whether a replay could read all that it needs.
//
// Errors: *events.TruncatedError when the log was purged beyond.
func (r *Replay) Check(ctx context.Context) error {
	conn, err := r.Writer.Server.Open()
	if err != nil {
		return err
	}
	defer conn.Close()
	return r.readable(ctx, conn, phaseBuilding)
}

// readable tells whether the log has what the other database lacks: everything,
// unless it is in the phase from which it would go on.
func (r *Replay) readable(ctx context.Context, conn clickhouse.Conn, from string) error {
	for _, partition := range r.Partitions {
		bounds, err := r.Writer.Log.Bounds(ctx, partition)
		if err != nil {
			return fmt.Errorf("look whether the log can be replayed: %w", err)
		}
		if bounds.Oldest.Seq == 1 {
			continue
		}
		at := events.Position{Epoch: bounds.Oldest.Epoch, Partition: partition}
		phase, err := r.phase(ctx, conn)
		if err != nil {
			return err
		}
		if phase == from {
			c, err := readCheckpoint(ctx, conn, r.otherName(), partition)
			if err != nil {
				return err
			}
			at.Seq = c.Position.Seq
		}
		if at.Seq+1 < bounds.Oldest.Seq {
			return fmt.Errorf("the tables cannot be built from a log that was purged (remedy: refill a log from the archive and replay that): %w",
				&events.TruncatedError{Asked: at, Oldest: bounds.Oldest})
		}
	}
	return nil
}

func (r *Replay) exchange(ctx context.Context, conn clickhouse.Conn) error {
	fault := r.Fault
	if fault == nil {
		fault = func(string) error { return nil }
	}
	// From here on it must not be half done because somebody lost patience.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Minute)
	defer cancel()
	if err := r.setPhase(ctx, conn, phaseBefore); err != nil {
		return err
	}
	return swap(ctx, conn, r.Writer.Server.Name(), r.otherName(), fault)
}

// begin makes the database, or finds the one that an interrupted replay left.
func (r *Replay) begin(ctx context.Context, conn clickhouse.Conn) error {
	phase, err := r.phase(ctx, conn)
	if err != nil {
		return err
	}
	if phase == phaseBuilding {
		return nil
	}
	for _, sql := range []string{"DROP DATABASE IF EXISTS " + quote(r.otherName()) + " SYNC", "CREATE DATABASE " + quote(r.otherName())} {
		if err := conn.Exec(ctx, sql); err != nil {
			return fmt.Errorf("begin replay: %w", err)
		}
	}
	return r.setPhase(ctx, conn, phaseBuilding)
}

// phase is "" when there is no database beside the serving one.
func (r *Replay) phase(ctx context.Context, conn clickhouse.Conn) (phase string, err error) {
	var n uint64
	err = conn.QueryRow(ctx, "SELECT count() FROM system.tables WHERE database = ? AND name = ?", r.otherName(), phaseTable).Scan(&n)
	if err == nil && n > 0 {
		err = conn.QueryRow(ctx, fmt.Sprintf("SELECT argMax(phase, at) FROM %s.%s", quote(r.otherName()), quote(phaseTable))).Scan(&phase)
	}
	if err != nil {
		return "", fmt.Errorf("look for an earlier replay: %w", err)
	}
	return phase, nil
}

func (r *Replay) setPhase(ctx context.Context, conn clickhouse.Conn, phase string) error {
	table := quote(r.otherName()) + "." + quote(phaseTable)
	for _, sql := range []string{
		"CREATE TABLE IF NOT EXISTS " + table + " (at DateTime64(9), phase String) ENGINE = MergeTree ORDER BY at",
		fmt.Sprintf("INSERT INTO %s VALUES (now64(9), %s)", table, text(phase)),
	} {
		if err := conn.Exec(ctx, sql); err != nil {
			return fmt.Errorf("note phase %s of the replay: %w", phase, err)
		}
	}
	return nil
}

// start lets writers build the other database, at a bounded rate.
func (r *Replay) start(ctx context.Context, rate float64) (*projections.Rebuild, error) {
	var writers []projections.Runner
	limited := projections.Throttle(r.Writer.Log, rate)
	for _, p := range r.Partitions {
		c := r.Writer
		c.Partition, c.Log = p, limited
		c.Server.Database = r.otherName()
		w, err := New(c)
		if err != nil {
			return nil, err
		}
		writers = append(writers, w)
	}
	return projections.StartRebuild(ctx, writers), nil
}

func before(p, q events.Position) bool {
	return p.Epoch < q.Epoch || p.Epoch == q.Epoch && p.Seq < q.Seq
}

// compare holds every table against its counterpart, up to where both have
// everything.
func (r *Replay) compare(ctx context.Context, conn clickhouse.Conn) ([]projections.TableReport, error) {
	serving, other := r.Writer.Server.Name(), r.otherName()
	mine, err := checkpoints(ctx, conn, serving)
	if err != nil {
		return nil, err
	}
	theirs, err := checkpoints(ctx, conn, other)
	if err != nil {
		return nil, err
	}
	var upTo []events.Position
	for _, p := range mine {
		for _, q := range theirs {
			if p.Partition == q.Partition {
				if before(q, p) {
					p = q
				}
				upTo = append(upTo, p)
			}
		}
	}
	tables, err := swappable(ctx, conn, other)
	if err != nil {
		return nil, err
	}
	have, err := swappable(ctx, conn, serving)
	if err != nil {
		return nil, err
	}
	var names []string
	for table := range tables {
		if table != "checkpoints" && !strings.HasPrefix(table, "_") && have[table] != "" { // roll-ups follow from their tables
			names = append(names, table)
		}
	}
	slices.Sort(names)
	var reports []projections.TableReport
	for _, table := range names {
		report, err := compare(ctx, conn, serving, other, table, upTo)
		if err != nil {
			return reports, err
		}
		reports = append(reports, report)
	}
	return reports, nil
}

// checkpoints returns how far the writers of a database are.
func checkpoints(ctx context.Context, conn clickhouse.Conn, db string) (all []events.Position, err error) {
	rows, err := conn.Query(ctx, fmt.Sprintf(`SELECT partition, max((epoch, seq)).1, max((epoch, seq)).2 FROM %s.checkpoints WHERE table = 'events' GROUP BY partition`, quote(db)))
	if err != nil {
		return nil, fmt.Errorf("read checkpoints of %s: %w", db, err)
	}
	defer rows.Close()
	for rows.Next() {
		var p events.Position
		if err := rows.Scan(&p.Partition, &p.Epoch, &p.Seq); err != nil {
			return nil, fmt.Errorf("read checkpoints of %s: %w", db, err)
		}
		all = append(all, p)
	}
	return all, rows.Err()
}
