package columnar

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/tachograph/tachograph/events"
)

// ErrTablesChanged means that tables were exchanged (a replay) during an audit:
// start it again.
var ErrTablesChanged = errors.New("the tables were exchanged meanwhile")

// An Audit holds the log against the tables that were written from it, beside
// the writers and without changing anything: every event up to where all tables
// are complete is decoded again, and each table must have exactly the rows that
// follow, value for value. Stretches are compared by their checksums, computed in
// ClickHouse on both sides; only one that differs is looked at row by row. Parts
// are held against the checksums that ClickHouse keeps, roll-ups against their
// samples.
//
// It costs about as much as reading the log and inserting it, and memory for one
// of the writer's batches.
type Audit struct {
	Writer   Config // of a serving writer; Partition and Log are not used
	Shards   Shards // several are audited one after the other, instead of Writer.Server
	Log      events.Inspector
	Most     int                 // differences that are kept for the report, counted are all; 0 is 100
	Progress func(AuditProgress) // called about twice a second

	window uint64 // for tests: positions
}

// An AuditProgress is how far an audit is.
type AuditProgress struct {
	Phase       string  `json:"phase"` // parts, events, rollups
	Table       string  `json:"table,omitempty"`
	Done        uint64  `json:"done"` // positions over all partitions; parts; tables of roll-ups
	Total       uint64  `json:"total"`
	Rate        float64 `json:"rate"` // of Done, a second, in this phase
	Differences uint64  `json:"differences"`
}

// auditor is an audit at work.
type auditor struct {
	*Writer  // never run: its connection, its configuration
	log      events.Inspector
	most     int
	window   uint64 // positions; see windowSums
	report   *AuditReport
	tables   map[string]*auditedTable
	behind   map[uint16]uint64 // the last sequence of rows that lie behind the log's end
	progress func(AuditProgress)

	phase AuditProgress
	began time.Time // the phase
	told  time.Time
}

// Run audits. It returns what it has found so far with an error as well.
//
// Errors: ErrTablesChanged; those of the log, of ClickHouse and of ctx.
func (a *Audit) Run(ctx context.Context) (*AuditReport, error) {
	report := &AuditReport{Counts: map[DifferenceKind]uint64{}, UpTo: []events.Position{}, Tables: []AuditedTable{}, Differences: []Difference{}}
	servers := a.Shards.Servers
	if !a.Shards.Several() {
		servers = []Server{a.Writer.Server}
	}
	for _, s := range servers {
		if err := a.audit(ctx, s, report); err != nil {
			return report, fmt.Errorf("verify: %w", err)
		}
	}
	slices.SortFunc(report.UpTo, func(p, q events.Position) int { return cmp.Compare(p.Partition, q.Partition) })
	return report, nil
}

// audit audits the partitions of one server.
func (a *Audit) audit(ctx context.Context, s Server, report *AuditReport) error {
	cfg := a.Writer
	cfg.Log, cfg.Server = a.Log, s
	w, err := New(cfg)
	if err != nil {
		return err
	}
	defer func() {
		w.client.CloseIdleConnections()
		_ = w.conn.Close()
	}()
	run := &auditor{Writer: w, log: a.Log, most: a.Most, window: a.window, progress: a.Progress, tables: map[string]*auditedTable{}, behind: map[uint16]uint64{}, report: report}
	if run.window == 0 {
		run.window = windowPositions
	}
	if run.most <= 0 {
		run.most = 100
	}
	if run.progress == nil {
		run.progress = func(AuditProgress) {}
	}
	return run.run(ctx)
}

func (a *auditor) run(ctx context.Context) error {
	upTo, err := a.cursors(ctx)
	if err != nil {
		return err
	}
	for _, c := range upTo {
		a.report.UpTo = append(a.report.UpTo, c.Position)
	}
	if err := a.findTables(ctx); err != nil {
		return err
	}
	if err := a.checkParts(ctx); err != nil {
		return err
	}
	if err := a.foreign(ctx); err != nil {
		return err
	}
	total := uint64(0)
	for _, c := range upTo {
		total += c.Position.Seq
	}
	a.enter("events", total)
	for _, c := range upTo {
		if err := a.partition(ctx, c); err != nil {
			return err
		}
	}
	if a.cfg.Server.Shard.Number == 0 { // the log has one place for all
		if err := a.deadLetters(ctx); err != nil {
			return err
		}
	}
	if err := a.rollUps(ctx); err != nil {
		return err
	}
	now, err := a.cursors(ctx)
	if err != nil {
		return err
	}
	for _, c := range upTo {
		if !slices.ContainsFunc(now, func(n events.Cursor) bool {
			return n.Position.Partition == c.Position.Partition && !before(n.Position, c.Position)
		}) {
			return ErrTablesChanged
		}
	}
	return nil
}

// cursors returns up to where every table has the partitions of the log.
func (a *auditor) cursors(ctx context.Context) (all []events.Cursor, err error) {
	rows, err := a.conn.Query(ctx, fmt.Sprintf(`SELECT partition, max((epoch, seq)).1, max((epoch, seq)).2, argMax(id, (epoch, seq))
		FROM %s WHERE table = 'events' GROUP BY partition ORDER BY partition`, a.table("checkpoints")))
	if err != nil {
		return nil, fmt.Errorf("read checkpoints: %w", err)
	}
	defer rows.Close()
	for rows.Next() {
		var c events.Cursor
		if err := rows.Scan(&c.Position.Partition, &c.Position.Epoch, &c.Position.Seq, &c.ID); err != nil {
			return nil, fmt.Errorf("read checkpoints: %w", err)
		}
		if a.expects(c.Position.Partition) {
			all = append(all, c)
		}
	}
	return all, rows.Err()
}

// expects tells whether the server has a partition.
func (a *auditor) expects(partition uint16) bool {
	return slices.Contains(a.log.Partitions(), partition) && a.cfg.Server.Shard.Has(partition)
}

// enter begins a phase.
func (a *auditor) enter(phase string, total uint64) {
	a.began, a.phase = time.Now(), AuditProgress{Phase: phase, Total: total}
	a.tell(true)
}

// step tells of progress, not too often.
func (a *auditor) step(n uint64) {
	a.phase.Done += n
	a.tell(false)
}

func (a *auditor) tell(now bool) {
	if !now && time.Since(a.told) < 500*time.Millisecond {
		return
	}
	a.told = time.Now()
	if took := time.Since(a.began).Seconds(); took > 0.1 {
		a.phase.Rate = float64(a.phase.Done) / took
	}
	a.phase.Differences = a.report.Total
	a.progress(a.phase)
}
