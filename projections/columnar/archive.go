package columnar

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"math"
	"strings"
	"sync"
	"time"

	"github.com/ClickHouse/clickhouse-go/v2"

	"github.com/tachograph/tachograph/events"
	"github.com/tachograph/tachograph/projections/history"
)

// An Archive reads events back from ClickHouse's table events, in the order of the
// log. Where that lacks some, what a replay has put aside is asked as well: after
// an undo the tables that served meanwhile have what came since.
type Archive struct {
	Server Server
	Keep   time.Duration // of events, see Keep.Events; 0 is for ever

	stretch uint64 // positions read at a time, for tests; 0 is archiveStretch

	mu    sync.Mutex
	known map[uint16]knownWhole // by partition
}

// A knownWhole is a stretch of which somebody has everything. It is asked again
// after wholeFor: rows expire.
type knownWhole struct {
	after events.Position
	upTo  uint64
	dbs   []string
	at    time.Time
}

const wholeFor = time.Minute

var (
	_ history.Archive = (*Archive)(nil)
	_ history.Archive = Archives(nil)
)

// Archives are those of several shards, each of the partitions that its server has.
type Archives []*Archive

func (all Archives) of(partition uint16) *Archive { return all[int(partition)%len(all)] }

// First implements history.Archive.
func (all Archives) First(ctx context.Context, before events.Position, since time.Time) (seq uint64, ok bool, err error) {
	return all.of(before.Partition).First(ctx, before, since)
}

// Whole implements history.Archive.
func (all Archives) Whole(ctx context.Context, after events.Position, upTo uint64) error {
	return all.of(after.Partition).Whole(ctx, after, upTo)
}

// ID implements history.Archive.
func (all Archives) ID(ctx context.Context, at events.Position) (string, error) {
	return all.of(at.Partition).ID(ctx, at)
}

// Events implements history.Archive.
func (all Archives) Events(ctx context.Context, after events.Position, upTo uint64) iter.Seq2[events.Event, error] {
	return all.of(after.Partition).Events(ctx, after, upTo)
}

// Stream implements history.Archive.
func (all Archives) Stream(ctx context.Context, s events.Stream, after events.Position, upTo uint64) iter.Seq2[events.Event, error] {
	return all.of(after.Partition).Stream(ctx, s, after, upTo)
}

// archiveStretch is how many positions one query reads. The table is sorted by
// device, so each query reads all that was inserted with the stretch, and sorts
// it, on disk beyond archiveMemory: few and large ones are cheap.
const (
	archiveStretch = 4_000_000
	archiveMemory  = 256 << 20
)

// databases returns the databases that have events.
func (a *Archive) databases(ctx context.Context, conn clickhouse.Conn) (dbs []string, err error) {
	for _, db := range []string{a.Server.Name(), a.Server.aside().Name()} {
		var n uint64
		if err := conn.QueryRow(ctx, "SELECT count() FROM system.tables WHERE database = ? AND name IN ('events', ?)", db, absentTable).Scan(&n); err != nil {
			return nil, fmt.Errorf("look for the table events: %w", err)
		}
		if n == 2 {
			dbs = append(dbs, db)
		}
	}
	return dbs, nil
}

// from is what to read columns from, of databases, with a condition.
func from(dbs []string, columns, where string) string {
	var parts []string
	for i, db := range dbs {
		parts = append(parts, fmt.Sprintf("SELECT %s, %d AS _source FROM %s.events WHERE %s", columns, i, quote(db), where))
	}
	return "(" + strings.Join(parts, " UNION ALL ") + ")"
}

// A view of a stretch: which databases have it, and what in it is empty.
type archiveView struct {
	dbs    []string
	absent []span
}

// look finds out who has a stretch; the error tells what nobody has.
func (a *Archive) look(ctx context.Context, conn clickhouse.Conn, after events.Position, upTo uint64) (archiveView, error) {
	dbs, err := a.databases(ctx, conn)
	if err != nil {
		return archiveView{}, err
	}
	if len(dbs) == 0 {
		at := after
		at.Seq = upTo + 1
		return archiveView{}, &events.TruncatedError{Asked: after, Oldest: at}
	}
	var holes []span
	var v archiveView
	for n := 1; n <= len(dbs); n++ {
		v.dbs = dbs[:n]
		if v.absent, err = absentIn(ctx, conn, v.dbs, after, upTo); err != nil {
			return v, err
		}
		if holes, err = a.holes(ctx, conn, v, after, upTo); err != nil || len(holes) == 0 {
			return v, err
		}
	}
	return v, a.missing(ctx, conn, v.dbs, after, holes)
}

// lookAgain is look for who asks often: what was whole a moment ago still is.
func (a *Archive) lookAgain(ctx context.Context, conn clickhouse.Conn, after events.Position, upTo uint64) (archiveView, error) {
	a.mu.Lock()
	k := a.known[after.Partition]
	a.mu.Unlock()
	if k.after.Epoch == after.Epoch && k.after.Seq <= after.Seq && time.Since(k.at) < wholeFor {
		if k.upTo >= upTo {
			return archiveView{dbs: k.dbs}, nil
		}
		from := after
		from.Seq = max(after.Seq, k.upTo)
		v, err := a.look(ctx, conn, from, upTo)
		if err != nil || len(v.dbs) > len(k.dbs) { // those before it are in the first one of them
			return v, err
		}
	} else {
		v, err := a.look(ctx, conn, after, upTo)
		if err != nil {
			return v, err
		}
		k = knownWhole{after: after, dbs: v.dbs, at: time.Now()}
	}
	k.upTo = upTo
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.known == nil {
		a.known = map[uint16]knownWhole{}
	}
	a.known[after.Partition] = k
	return archiveView{dbs: k.dbs}, nil
}

// Whole implements history.Archive.
func (a *Archive) Whole(ctx context.Context, after events.Position, upTo uint64) error {
	if after.Seq >= upTo {
		return nil
	}
	conn, err := a.Server.Open()
	if err != nil {
		return err
	}
	defer conn.Close()
	_, err = a.look(ctx, conn, after, upTo)
	return err
}

// ID implements history.Archive.
func (a *Archive) ID(ctx context.Context, at events.Position) (id string, err error) {
	conn, err := a.Server.Open()
	if err != nil {
		return "", err
	}
	defer conn.Close()
	dbs, err := a.databases(ctx, conn)
	if err != nil || len(dbs) == 0 {
		return "", err
	}
	rows, err := conn.Query(ctx, "SELECT id FROM "+from(dbs, "id", fmt.Sprintf("_epoch = %d AND _partition = %d AND _seq = %d", at.Epoch, at.Partition, at.Seq))+" ORDER BY _source LIMIT 1")
	if err != nil {
		return "", fmt.Errorf("look up the event at %s: %w", at, err)
	}
	defer rows.Close()
	for rows.Next() {
		if err := rows.Scan(&id); err != nil {
			return "", fmt.Errorf("look up the event at %s: %w", at, err)
		}
	}
	return id, rows.Err()
}

// First implements history.Archive.
func (a *Archive) First(ctx context.Context, before events.Position, since time.Time) (seq uint64, ok bool, err error) {
	conn, err := a.Server.Open()
	if err != nil {
		return 0, false, err
	}
	defer conn.Close()
	dbs, err := a.databases(ctx, conn)
	if err != nil || len(dbs) == 0 {
		return 0, false, err
	}
	where := fmt.Sprintf("_epoch = %d AND _partition = %d AND _seq < %d", before.Epoch, before.Partition, before.Seq)
	if !since.IsZero() { // of what arrived within the microsecond the table can't say more
		where += fmt.Sprintf(" AND received >= fromUnixTimestamp64Micro(toInt64(%d), 'UTC')", since.UnixMicro())
	}
	if err := conn.QueryRow(ctx, "SELECT min(_seq) FROM "+from(dbs, "_seq", where)).Scan(&seq); err != nil {
		return 0, false, fmt.Errorf("look for the oldest archived event: %w", err)
	}
	return seq, seq > 0, nil
}

// errCutShort tells that an answer ended before all was there that the table has.
var errCutShort = errors.New("the answer was cut short, or rows were removed meanwhile")

// Events implements history.Archive.
func (a *Archive) Events(ctx context.Context, after events.Position, upTo uint64) iter.Seq2[events.Event, error] {
	stretch := a.stretch
	if stretch == 0 {
		stretch = archiveStretch
	}
	return func(yield func(events.Event, error) bool) {
		for at := after; at.Seq < upTo; {
			end := min(at.Seq+stretch, upTo)
			last, err := a.read(ctx, at, end, "", yield)
			if err != nil {
				yield(events.Event{}, err)
			}
			if err != nil || last < end {
				return
			}
			at.Seq = end
		}
	}
}

// Stream implements history.Archive. That the archive is whole is asked once, for
// all of the partition: a stream does not show what it lacks.
func (a *Archive) Stream(ctx context.Context, s events.Stream, after events.Position, upTo uint64) iter.Seq2[events.Event, error] {
	return func(yield func(events.Event, error) bool) {
		if after.Seq >= upTo {
			return
		}
		where := fmt.Sprintf(" AND device = %s AND kind = %s", text(s.ID), text(string(s.Kind)))
		if _, err := a.read(ctx, after, upTo, where, func(e events.Event, err error) bool {
			all := s.Name == "" && s.Kind == events.Telemetry // with its replays
			return err == nil && e.Stream != s && !all || yield(e, err)
		}); err != nil {
			yield(events.Event{}, err)
		}
	}
}

// read yields one stretch, of that only what meets a condition, and returns up to
// where it came: less than upTo when it was told to stop.
func (a *Archive) read(ctx context.Context, after events.Position, upTo uint64, condition string, yield func(events.Event, error) bool) (uint64, error) {
	conn, err := a.Server.Open()
	if err != nil {
		return after.Seq, err
	}
	defer conn.Close()
	look := a.look
	if condition != "" {
		look = a.lookAgain
	}
	v, err := look(ctx, conn, after, upTo)
	if err != nil {
		return after.Seq, err
	}
	where := fmt.Sprintf("_epoch = %d AND _partition = %d AND _seq > %d AND _seq <= %d", after.Epoch, after.Partition, after.Seq, upTo) + condition
	// The row at the end shows that the answer was not cut off.
	sql := fmt.Sprintf("SELECT _seq, received, schema, message, subject, id, payload FROM (SELECT * FROM %s UNION ALL SELECT toUInt64(%d), toDateTime64(0, 6, 'UTC'), toUInt32(0), '', '', '', '', 9) ORDER BY _seq, _source FORMAT ArrowStream",
		from(v.dbs, "_seq, received, schema, toString(message) AS message, subject, id, payload", where), uint64(math.MaxUint64))
	last, whole := after.Seq, false
	for record, err := range a.query(ctx, sql) {
		if err != nil {
			return last, err
		}
		rows, err := archivedOf(record)
		if err != nil {
			return last, err
		}
		for i := range rows.n {
			seq := rows.seq.Value(i)
			if whole = seq == math.MaxUint64; whole || seq <= last {
				continue // twice in the table, or in both
			}
			if seq > last+1 && condition == "" {
				if v.absent, err = a.explained(ctx, conn, v, after, span{last + 1, seq - 1}); err != nil {
					return last, err
				}
			}
			e, err := rows.event(i, after)
			if err != nil {
				return last, err
			}
			last = seq
			if !yield(e, nil) {
				return min(last, upTo-1), nil
			}
		}
	}
	if !whole {
		return last, fmt.Errorf("read archived events up to %d: %w", upTo, errCutShort)
	}
	if last < upTo && condition == "" {
		if _, err := a.explained(ctx, conn, v, after, span{last + 1, upTo}); err != nil {
			return last, err
		}
	}
	return upTo, nil
}

// explained tells whether positions that did not come are empty; some may have
// been removed meanwhile.
func (a *Archive) explained(ctx context.Context, conn clickhouse.Conn, v archiveView, of events.Position, s span) ([]span, error) {
	if len(s.without(v.absent)) == 0 {
		return v.absent, nil
	}
	of.Seq = s.first - 1
	now, err := absentIn(ctx, conn, v.dbs, of, s.last)
	if err != nil {
		return nil, err
	}
	if left := s.without(now); len(left) > 0 {
		return nil, fmt.Errorf("events %d to %d of partition %d did not come: %w", left[0].first, left[len(left)-1].last, of.Partition, errCutShort)
	}
	return joined(append(now, v.absent...)), nil
}
