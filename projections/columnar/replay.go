package columnar

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/ClickHouse/clickhouse-go/v2"

	"github.com/tachograph/tachograph/events"
)

// What a caller of a replay can act on.
var (
	ErrNothingToUndo = errors.New("no replay has been swapped in that could be undone")
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
	Rate       float64                                          // events a second at most over all partitions; 0: no limit
	Progress   func(Progress)                                   // called about twice a second

	// Fault, for tests, is asked before each step of a swap; its error is the step's.
	Fault func(step string) error
}

// A Progress is how far a replay is.
type Progress struct {
	Phase string  `json:"phase"` // building, comparing, swapping
	Done  uint64  `json:"done"`  // sequences, over all partitions
	Total uint64  `json:"total"`
	Rate  float64 `json:"rate"` // events a second, in this phase
}

// otherName is the database beside the serving one.
func (r *Replay) otherName() string { return r.Writer.Server.Name() + "_replay" }

// Build builds the tables anew up to the live end, compares them with those that
// serve and, unless dry, swaps them.
func (r *Replay) Build(ctx context.Context, dry bool) ([]TableReport, error) {
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
	building, stop := context.WithCancel(ctx)
	writers, ended, err := r.start(building)
	if err != nil {
		stop()
		return nil, err
	}
	defer func() {
		stop()
		ended.wait()
	}()
	if err := r.catchUp(ctx, writers, ended, nil); err != nil {
		return nil, err
	}
	r.tell(Progress{Phase: "comparing"}, writers)
	reports, err := r.compare(ctx, conn)
	if err != nil || dry {
		return reports, err
	}
	r.tell(Progress{Phase: "swapping"}, writers)
	resume, err := r.Pause(ctx)
	if err != nil {
		return reports, err
	}
	defer resume()
	stood, err := checkpoints(ctx, conn, r.Writer.Server.Name())
	if err != nil {
		return reports, err
	}
	if err := r.catchUp(ctx, writers, ended, stood); err != nil {
		return reports, err
	}
	stop()
	if err := ended.wait(); err != nil {
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
		return ErrNothingToUndo
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

// An ending is how the building writers ended.
type ending struct {
	all  sync.WaitGroup
	mu   sync.Mutex
	err  error
	died chan struct{} // closed at the first error
}

func (e *ending) wait() error {
	e.all.Wait()
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.err
}

// start lets writers build the other database, at a bounded rate.
func (r *Replay) start(ctx context.Context) ([]*Writer, *ending, error) {
	var writers []*Writer
	limited := events.Log(r.Writer.Log)
	if r.Rate > 0 {
		limited = &throttled{Log: r.Writer.Log, pause: time.Duration(float64(time.Second) / r.Rate)}
	}
	for _, p := range r.Partitions {
		c := r.Writer
		c.Partition, c.Log = p, limited
		c.Server.Database = r.otherName()
		w, err := New(c)
		if err != nil {
			return nil, nil, err
		}
		writers = append(writers, w)
	}
	e := &ending{died: make(chan struct{})}
	for _, w := range writers {
		e.all.Go(func() {
			if err := w.Run(ctx); err != nil {
				e.mu.Lock()
				defer e.mu.Unlock()
				if e.err == nil {
					e.err = err
					close(e.died)
				}
			}
		})
	}
	return writers, e, nil
}

// near is how far from the live end a replay may be when it is compared.
const near = 1000

// catchUp waits until the building writers have reached positions, or are near
// the live end when none are given.
func (r *Replay) catchUp(ctx context.Context, writers []*Writer, ended *ending, goal []events.Position) error {
	tick := time.NewTicker(200 * time.Millisecond)
	defer tick.Stop()
	phase := "building"
	if goal != nil {
		phase = "swapping"
	}
	var began time.Time // when the first rows were there
	first, rate := uint64(0), 0.0
	for {
		done, total, reached := uint64(0), uint64(0), true
		for _, w := range writers {
			s := w.Status()
			done, total = done+s.Position.Seq, total+s.Tail
			if goal == nil {
				reached = reached && s.Position.Seq+near > s.Tail && (s.CaughtUp || s.Tail == 0 || s.Position.Seq > 0)
			}
			for _, g := range goal {
				// The event at g may have been forgotten, and be the newest.
				reached = reached && (g.Partition != s.Partition || !before(s.Position, g) || s.CaughtUp && s.Lag == 0 && (s.Position.Seq > 0 || s.Tail == 0))
			}
		}
		if began.IsZero() && done > 0 {
			began, first = time.Now(), done
		} else if took := time.Since(began).Seconds(); !began.IsZero() && took > 0 {
			rate = float64(done-min(done, first)) / took
		}
		if r.Progress != nil {
			r.Progress(Progress{Phase: phase, Done: done, Total: total, Rate: rate})
		}
		if reached {
			return nil
		}
		select {
		case <-tick.C:
		case <-ended.died:
			return ended.wait()
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func before(p, q events.Position) bool {
	return p.Epoch < q.Epoch || p.Epoch == q.Epoch && p.Seq < q.Seq
}

func (r *Replay) tell(p Progress, writers []*Writer) {
	for _, w := range writers {
		s := w.Status()
		p.Done, p.Total = p.Done+s.Position.Seq, p.Total+s.Tail
	}
	if r.Progress != nil {
		r.Progress(p)
	}
}

// compare holds every table against its counterpart, up to where both have
// everything.
func (r *Replay) compare(ctx context.Context, conn clickhouse.Conn) ([]TableReport, error) {
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
	var reports []TableReport
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

// A throttled log is followed no faster than an event in each pause.
type throttled struct {
	events.Log
	pause time.Duration

	mu   sync.Mutex
	next time.Time
}

// Follow implements events.Log.
func (t *throttled) Follow(ctx context.Context, partition uint16, after events.Cursor) iter.Seq2[events.Event, error] {
	return func(yield func(events.Event, error) bool) {
		for e, err := range t.Log.Follow(ctx, partition, after) {
			t.mu.Lock()
			now := time.Now()
			if t.next.Before(now.Add(-10 * time.Millisecond)) {
				t.next = now.Add(-10 * time.Millisecond) // what was not used is not saved up
			}
			t.next = t.next.Add(t.pause)
			wait := t.next.Sub(now)
			t.mu.Unlock()
			if wait > 10*time.Millisecond { // shorter pauses come together
				select {
				case <-time.After(wait):
				case <-ctx.Done():
					return
				}
			}
			if !yield(e, err) {
				return
			}
		}
	}
}
