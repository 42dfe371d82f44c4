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
	Shards     Shards // several are replayed at once, and swapped together, instead of Writer.Server
	Partitions []uint16
	Pause      func(context.Context) (resume func(), err error) // stops the serving writers where they can go on

	// Fault, for tests, is asked before each step of a swap; its error is the step's.
	Fault func(step string) error
}

// open connects to all servers, none of which may be half swapped.
func (r *Replay) open(ctx context.Context) (all []replayed, done func(), err error) {
	shards := r.Shards
	if !shards.Several() {
		shards = NewShards("", r.Writer.Server)
	}
	done = func() {
		for _, s := range all {
			_ = s.conn.Close()
		}
	}
	for _, server := range shards.Servers {
		conn, err := server.Open()
		if err != nil {
			done()
			return nil, nil, err
		}
		all = append(all, replayed{server, conn})
		unfinished, err := decided(ctx, shards, server)
		if err == nil && unfinished {
			err = fmt.Errorf("at %s (remedy: start the node again, which finishes it): %w", server.URL, projections.ErrSwapUnfinished)
		}
		if err != nil {
			done()
			return nil, nil, err
		}
	}
	return all, done, nil
}

// Build builds the tables anew up to the live end, compares them with those that
// serve and, unless dry, swaps them; progress hears about five times a second.
func (r *Replay) Build(ctx context.Context, order projections.Order, progress func(projections.Progress)) ([]projections.TableReport, error) {
	parked, tell := &projections.Casualties{}, progress
	progress = func(p projections.Progress) { tell(parked.In(p)) }
	servers, done, err := r.open(ctx)
	if err != nil {
		return nil, err
	}
	defer done()
	if err := r.readable(ctx, servers, phaseBuilding); err != nil {
		return nil, err
	}
	for _, s := range servers {
		if err := r.begin(ctx, s); err != nil {
			return nil, err
		}
	}
	building, err := r.start(ctx, servers, order, parked)
	if err != nil {
		return nil, err
	}
	defer func() { _ = building.Stop() }() // its error was told already
	if err := building.CatchUp(ctx, "building", projections.NearEnd, progress); err != nil {
		return nil, err
	}
	end, err := r.end(ctx) // or the last events would not be compared
	if err != nil {
		return nil, err
	}
	if err := building.CatchUp(ctx, "building", projections.At(end), progress); err != nil {
		return nil, err
	}
	progress(building.Done(projections.Progress{Phase: "comparing"}))
	var reports []projections.TableReport
	for _, s := range servers {
		some, err := r.compare(ctx, s)
		if reports = joinReports(reports, some); err != nil {
			return reports, err
		}
	}
	if order.Dry {
		return reports, nil
	}
	progress(building.Done(projections.Progress{Phase: "swapping"}))
	resume, err := r.Pause(ctx)
	if err != nil {
		return reports, err
	}
	defer resume()
	var stood []events.Position
	for _, s := range servers {
		some, err := checkpoints(ctx, s.conn, s.Name())
		if err != nil {
			return reports, err
		}
		stood = append(stood, some...)
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
	return reports, r.exchange(ctx, servers)
}

// end returns the newest event of each partition.
func (r *Replay) end(ctx context.Context) (all []events.Position, err error) {
	for _, partition := range r.Partitions {
		bounds, err := r.Writer.Log.Bounds(ctx, partition)
		if err != nil {
			return nil, fmt.Errorf("look for the live end: %w", err)
		}
		if bounds.Newest.Seq > 0 {
			all = append(all, bounds.Newest)
		}
	}
	return all, nil
}

// Undo swaps back what served before the last replay. Its writers go on where
// they stood then.
func (r *Replay) Undo(ctx context.Context) error {
	servers, done, err := r.open(ctx)
	if err != nil {
		return err
	}
	defer done()
	for _, s := range servers {
		phase, err := s.phase(ctx)
		if err != nil {
			return err
		}
		if phase != phaseBefore {
			return projections.ErrNothingToUndo
		}
	}
	if err := r.readable(ctx, servers, phaseBefore); err != nil {
		return err
	}
	resume, err := r.Pause(ctx)
	if err != nil {
		return err
	}
	defer resume()
	return r.exchange(ctx, servers)
}

// Discard drops what a replay has built that was not swapped in, and returns when
// its room on the disk is free; the next one begins anew. None may run.
//
// Errors: projections.ErrNothingToDiscard, projections.ErrSwapUnfinished.
func (r *Replay) Discard(ctx context.Context) error {
	servers, done, err := r.open(ctx)
	if err != nil {
		return err
	}
	defer done()
	var half []replayed
	for _, s := range servers {
		phase, err := s.phase(ctx)
		if err != nil {
			return err
		}
		there, err := s.built(ctx)
		if err != nil {
			return err
		}
		if there && phase != phaseBefore { // one without a phase was just begun
			half = append(half, s)
		}
	}
	if len(half) == 0 {
		return projections.ErrNothingToDiscard
	}
	for _, s := range half {
		if err := dropDatabase(ctx, s.conn, s.other()); err != nil {
			return fmt.Errorf("discard replay: %w", err)
		}
	}
	return nil
}

// Check tells whether a replay could read all that it needs.
//
// Errors: *events.TruncatedError when the log was purged beyond.
func (r *Replay) Check(ctx context.Context) error {
	servers, done, err := r.open(ctx)
	if err != nil {
		return err
	}
	defer done()
	return r.readable(ctx, servers, phaseBuilding)
}

// readable tells whether the log, with its archive if it has one, has what the
// other database lacks: everything, unless it is in the phase from which it would
// go on.
func (r *Replay) readable(ctx context.Context, servers []replayed, from string) error {
	for _, partition := range r.Partitions {
		bounds, err := r.Writer.Log.Bounds(ctx, partition)
		if err != nil {
			return fmt.Errorf("look whether the log can be replayed: %w", err)
		}
		if bounds.Oldest.Seq == 1 {
			continue
		}
		at := events.Cursor{Position: events.Position{Epoch: bounds.Oldest.Epoch, Partition: partition}}
		s := having(servers, partition)
		phase, err := s.phase(ctx)
		if err != nil {
			return err
		}
		if phase == from {
			c, err := readCheckpoint(ctx, s.conn, s.other(), partition)
			if err != nil {
				return err
			}
			if c.Position.Seq > 0 {
				at = c
			}
		}
		if _, err := r.Writer.Log.Locate(ctx, partition, events.After(at)); err != nil {
			return fmt.Errorf("the tables cannot be built from the log (remedy: refill one from an archive of files and replay that): %w", err)
		}
	}
	return nil
}

// upToDate tells whether the tables that serve have all that was purged from the
// log: after an undo, what came meanwhile is in the other database alone until
// the writers have caught up, and a replay that begins drops that.
func (r *Replay) upToDate(ctx context.Context, s replayed) error {
	for _, partition := range r.Partitions {
		if !s.Shard.Has(partition) {
			continue
		}
		bounds, err := r.Writer.Log.Bounds(ctx, partition)
		if err != nil {
			return fmt.Errorf("look whether the log can be replayed: %w", err)
		}
		if bounds.Oldest.Seq == 1 {
			continue
		}
		c, err := readCheckpoint(ctx, s.conn, s.Name(), partition)
		if err != nil {
			return err
		}
		if c.Position.Epoch < bounds.Oldest.Epoch || c.Position.Seq+1 < bounds.Oldest.Seq {
			return fmt.Errorf("begin replay: the tables that serve are at %s of a log that was purged up to %d: they are being brought up to date from those that an undo has put aside (remedy: wait until the projection has caught up)", c.Position, bounds.Oldest.Seq-1)
		}
	}
	return nil
}

func (r *Replay) exchange(ctx context.Context, servers []replayed) error {
	fault := r.Fault
	if fault == nil {
		fault = func(string) error { return nil }
	}
	// From here on it must not be half done because somebody lost patience.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Minute)
	defer cancel()
	for _, s := range servers {
		if err := s.setPhase(ctx, phaseBefore); err != nil {
			return err
		}
	}
	return swap(ctx, servers, fault)
}

// begin makes the database, or finds the one that an interrupted replay left.
func (r *Replay) begin(ctx context.Context, s replayed) error {
	phase, err := s.phase(ctx)
	if err != nil {
		return err
	}
	if phase == phaseBuilding {
		return nil
	}
	if phase == phaseBefore {
		if err := r.upToDate(ctx, s); err != nil {
			return err
		}
	}
	if err := dropDatabase(ctx, s.conn, s.other()); err != nil {
		return fmt.Errorf("begin replay: %w", err)
	}
	if err := s.conn.Exec(ctx, "CREATE DATABASE "+quote(s.other())); err != nil {
		return fmt.Errorf("begin replay: %w", err)
	}
	return s.setPhase(ctx, phaseBuilding)
}

// start lets writers build the other database, at a bounded rate.
func (r *Replay) start(ctx context.Context, servers []replayed, order projections.Order, parked *projections.Casualties) (*projections.Rebuild, error) {
	var writers []projections.Runner
	limited := projections.Throttle(r.Writer.Log, order.Rate)
	tables := &Tables{} // of databases that come and go
	for _, p := range r.Partitions {
		c := r.Writer
		c.Partition, c.Log, c.Tables = p, limited, tables
		c.Server = having(servers, p).aside()
		c.OnPanic = projections.OnPanic{Park: order.Park, Tell: parked.Add}
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
func (r *Replay) compare(ctx context.Context, s replayed) ([]projections.TableReport, error) {
	conn, serving, other := s.conn, s.Name(), s.other()
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

// joinReports adds what was found at another shard.
func joinReports(all, more []projections.TableReport) []projections.TableReport {
	for _, t := range more {
		i := slices.IndexFunc(all, func(o projections.TableReport) bool { return o.Table == t.Table })
		if i < 0 {
			all = append(all, t)
			continue
		}
		all[i].Old, all[i].New = all[i].Old+t.Old, all[i].New+t.New
		all[i].OnlyOld, all[i].OnlyNew, all[i].Changed = all[i].OnlyOld+t.OnlyOld, all[i].OnlyNew+t.OnlyNew, all[i].Changed+t.Changed
		all[i].Examples = append(all[i].Examples, t.Examples...)
	}
	return all
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
