package columnar

import (
	"context"
	"fmt"
	"iter"
	"slices"
	"strings"
	"time"

	"github.com/ClickHouse/clickhouse-go/v2"

	"github.com/tachograph/tachograph/events"
	"github.com/tachograph/tachograph/schemas"
)

// An Erasure removes what a device sent in a stretch of arrival times from every
// table, the roll-ups and the tables that a replay has put aside, for good: an
// ALTER TABLE ... DELETE writes the parts anew, and it is over once no part of
// before is on the disk. Everything about it can be repeated.
//
// The log must not have the events any more, and the writer must be past where
// they were: neither brings them back then.
type Erasure struct {
	Server     Server
	Schemas    []*schemas.Schema // whose roll-ups there may be
	Partitions []uint16          // that the device is in, or was, and the server has
	Earlier    []Server          // that have what the device sent before the log was split

	Device   string
	From, To time.Time // whole microseconds; From zero: from the beginning

	// Pause stops the writers of the partitions, which begin anew when they are
	// resumed: while roll-ups are made anew, and to have it forget what it knows.
	Pause func(context.Context) (resume func(), err error)

	// Sync brings to disk what the server has written. nil where that is the
	// server's own matter.
	Sync func() error

	// Tell hears what is being done, for people.
	Tell func(string)
}

// covered is the condition of rows that arrived in the stretch.
func (e *Erasure) covered() string {
	at := func(t time.Time) string { return fmt.Sprintf("fromUnixTimestamp64Micro(%d, 'UTC')", t.UnixMicro()) }
	sql := "received < " + at(e.To)
	if !e.From.IsZero() {
		sql += " AND received >= " + at(e.From)
	}
	return "(" + sql + ")"
}

// ofDevice is the condition of the device's rows.
func (e *Erasure) ofDevice() string { return "device = " + text(e.Device) }

// Run erases and returns how many rows of each table went. Rows of what a replay
// put aside are not counted.
func (e *Erasure) Run(ctx context.Context) (map[string]uint64, error) {
	conn, err := e.Server.Open()
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	gone := map[string]uint64{}
	for _, db := range []string{e.Server.Name(), e.Server.aside().Name()} {
		var there uint64
		if err := conn.QueryRow(ctx, "SELECT count() FROM system.tables WHERE database = ? AND name = 'events'", db).Scan(&there); err != nil {
			return gone, fmt.Errorf("erase %s: %w", e.Device, err)
		}
		if there == 0 {
			continue
		}
		counts, err := e.erase(ctx, conn, db)
		if err != nil {
			return gone, fmt.Errorf("erase %s in database %s: %w", e.Device, db, err)
		}
		if db == e.Server.Name() {
			gone = counts
		}
	}
	return gone, nil
}

// Count tells how many rows of each table Run would remove, and where in the log
// what could not be read came from.
func (e *Erasure) Count(ctx context.Context) (counts map[string]uint64, unread []events.Position, err error) {
	conn, err := e.Server.Open()
	if err != nil {
		return nil, nil, err
	}
	defer conn.Close()
	fail := func(err error) (map[string]uint64, []events.Position, error) {
		return nil, nil, fmt.Errorf("count what is to be erased of %s: %w", e.Device, err)
	}
	tables, err := e.tables(ctx, conn, e.Server.Name())
	if err != nil {
		return fail(err)
	}
	counts = map[string]uint64{}
	for _, table := range tables {
		where, err := e.rows(ctx, conn, e.Server.Name(), table)
		if err != nil {
			return fail(err)
		}
		var n uint64
		if err := conn.QueryRow(ctx, fmt.Sprintf("SELECT count() FROM %s.%s WHERE %s", quote(e.Server.Name()), quote(table), where)).Scan(&n); err != nil {
			return fail(err)
		}
		if n > 0 {
			counts[table] = n
		}
	}
	rows, err := conn.Query(ctx, fmt.Sprintf("SELECT DISTINCT _epoch, _partition, _seq FROM %s.dead_letters WHERE %s AND %s", quote(e.Server.Name()), e.ofDevice(), e.covered()))
	if err != nil {
		return fail(err)
	}
	defer rows.Close()
	for rows.Next() {
		var p events.Position
		if err := rows.Scan(&p.Epoch, &p.Partition, &p.Seq); err != nil {
			return fail(err)
		}
		unread = append(unread, p)
	}
	return counts, unread, rows.Err()
}

// rows is the condition of the rows of a table that go.
func (e *Erasure) rows(ctx context.Context, conn clickhouse.Conn, db, table string) (string, error) {
	if table == outcomeTable { // that a letter was dropped is a control fact, and stays
		return e.ofDevice() + " AND " + e.covered() + " AND outcome = " + text(OutcomeReplayed), nil
	}
	if table != "events" {
		return e.ofDevice() + " AND " + e.covered(), nil
	}
	repeats, err := e.repeats(ctx, conn, db)
	return fmt.Sprintf("%s AND (kind IN ('telemetry', 'presence') AND %s OR kind = 'telemetry' AND (_epoch, _partition, _seq) IN (%s))", e.ofDevice(), e.covered(), repeats), err
}

// erase does one database: the roll-ups first, as the samples tell which buckets
// they are in, and the events last, as they tell what else has to go.
func (e *Erasure) erase(ctx context.Context, conn clickhouse.Conn, db string) (map[string]uint64, error) {
	tables, err := e.tables(ctx, conn, db)
	if err != nil {
		return nil, err
	}
	resume, err := e.Pause(ctx)
	if err != nil {
		return nil, err
	}
	err = e.rollUps(ctx, conn, db, tables)
	resume()
	if err != nil {
		return nil, err
	}
	counts := map[string]uint64{}
	for _, table := range tables {
		where, err := e.rows(ctx, conn, db, table)
		if err != nil {
			return counts, err
		}
		e.Tell("removing rows of " + table)
		if table == "events" {
			if err := noteRemoved(ctx, conn, db, where); err != nil {
				return counts, err
			}
		}
		if counts[table], err = remove(ctx, conn, db, table, where); err != nil {
			return counts, err
		}
		if counts[table] == 0 {
			delete(counts, table)
		}
	}
	// The writer that begins anew does not know what the device sent.
	if resume, err = e.Pause(ctx); err != nil {
		return counts, err
	}
	resume()
	if e.Sync != nil {
		if err := e.Sync(); err != nil {
			return counts, err
		}
	}
	for _, s := range e.Schemas {
		for _, r := range resolutions {
			if slices.Contains(tables, s.Name()) && rolledUp(s) {
				tables = append(tables, r.table(s))
			}
		}
	}
	return counts, e.awaitGone(ctx, conn, db, tables)
}

// tables are those with a row for each event or sample of telemetry, and for each
// of presence; events is the last.
func (e *Erasure) tables(ctx context.Context, conn clickhouse.Conn, db string) ([]string, error) {
	rows, err := conn.Query(ctx, `SELECT table FROM system.columns WHERE database = ? AND table IN (SELECT name FROM system.tables WHERE database = ? AND engine LIKE '%MergeTree')
		GROUP BY table HAVING countIf(name IN ('device', 'received', '_seq')) = 3 ORDER BY table = 'events', table`, db, db)
	if err != nil {
		return nil, fmt.Errorf("list tables: %w", err)
	}
	defer rows.Close()
	var tables []string
	for rows.Next() {
		var name string
		if err := rows.Scan(&name); err != nil {
			return nil, fmt.Errorf("list tables: %w", err)
		}
		if schemas.ValidName(name) == nil || name == "events" || name == "dead_letters" || name == "presence" || name == outcomeTable {
			tables = append(tables, name)
		}
	}
	return tables, rows.Err()
}

// repeats lists the positions of events that arrived later and are the same as
// one that goes.
func (e *Erasure) repeats(ctx context.Context, conn clickhouse.Conn, db string) (string, error) {
	table := quote(db) + ".events"
	earlier, err := e.earlier(ctx)
	if err != nil {
		return "", err
	}
	rows, err := conn.Query(ctx, fmt.Sprintf("SELECT _epoch, _partition, _seq FROM %s WHERE %s AND kind = 'telemetry' AND repeat AND NOT %s AND received >= %s AND (id IN (SELECT id FROM %s WHERE %s AND kind = 'telemetry' AND %s) OR id IN (%s))",
		table, e.ofDevice(), e.covered(), fmt.Sprintf("fromUnixTimestamp64Micro(%d, 'UTC')", e.To.UnixMicro()), table, e.ofDevice(), e.covered(), earlier))
	if err != nil {
		return "", fmt.Errorf("look for what was sent again: %w", err)
	}
	defer rows.Close()
	list := []string{"(0, 0, 0)"} // there is none such
	for rows.Next() {
		var p events.Position
		if err := rows.Scan(&p.Epoch, &p.Partition, &p.Seq); err != nil {
			return "", fmt.Errorf("look for what was sent again: %w", err)
		}
		list = append(list, fmt.Sprintf("(%d, %d, %d)", p.Epoch, p.Partition, p.Seq))
	}
	return strings.Join(list, ", "), rows.Err()
}

// earlier lists the ids of events that go from other servers.
func (e *Erasure) earlier(ctx context.Context) (string, error) {
	ids := []string{"''"} // no event has none
	for _, s := range e.Earlier {
		conn, err := s.Open()
		if err != nil {
			return "", err
		}
		err = func() error {
			defer conn.Close()
			rows, err := conn.Query(ctx, fmt.Sprintf("SELECT DISTINCT id FROM %s.events WHERE %s AND kind = 'telemetry' AND %s", quote(s.Name()), e.ofDevice(), e.covered()))
			if err != nil {
				return err
			}
			defer rows.Close()
			for rows.Next() {
				var id string
				if err := rows.Scan(&id); err != nil {
					return err
				}
				ids = append(ids, text(id))
			}
			return rows.Err()
		}()
		if err != nil {
			return "", fmt.Errorf("look for what was sent before the log was split: %w", err)
		}
	}
	return strings.Join(ids, ", "), nil
}

// remove deletes rows and returns how many there were. Asked again it finds
// none.
func remove(ctx context.Context, conn clickhouse.Conn, db, table, where string) (n uint64, err error) {
	name := quote(db) + "." + quote(table)
	if err := conn.QueryRow(ctx, fmt.Sprintf("SELECT count() FROM %s WHERE %s", name, where)).Scan(&n); err != nil {
		return 0, fmt.Errorf("count rows of %s: %w", table, err)
	}
	if n > 0 {
		if err := conn.Exec(ctx, fmt.Sprintf("ALTER TABLE %s DELETE WHERE %s", name, where)); err != nil {
			return 0, fmt.Errorf("remove rows of %s: %w", table, err)
		}
	}
	return n, awaitMutations(ctx, conn, db, table)
}

const erasePoll = 200 * time.Millisecond

// awaitMutations waits until no change of a table is under way, also one that
// was begun before a crash.
func awaitMutations(ctx context.Context, conn clickhouse.Conn, db, table string) error {
	for {
		var left uint64
		var failed string
		if err := conn.QueryRow(ctx, "SELECT count(), max(latest_fail_reason) FROM system.mutations WHERE database = ? AND table = ? AND NOT is_done AND NOT is_killed", db, table).Scan(&left, &failed); err != nil {
			return fmt.Errorf("look whether rows of %s are removed: %w", table, err)
		}
		if left == 0 {
			return nil
		}
		if failed != "" {
			return fmt.Errorf("remove rows of %s: %s", table, failed)
		}
		if err := rest(ctx, erasePoll); err != nil {
			return err
		}
	}
}

// awaitGone waits until no part of the tables that was written before their last
// change is on the disk. ClickHouse keeps replaced parts for 8 minutes, for the
// case that the new ones are lost with the power: they are on disk by now. It
// looks for such parts every 5 minutes at last, where not told otherwise.
func (e *Erasure) awaitGone(ctx context.Context, conn clickhouse.Conn, db string, tables []string) error {
	hurried := map[string]bool{}
	for {
		old, err := oldParts(ctx, conn, db, tables)
		if err != nil {
			return err
		}
		if len(old) == 0 {
			break
		}
		e.Tell("waiting until the old parts have left the disk of " + strings.Join(old, ", "))
		for _, table := range old {
			if hurried[table] {
				continue
			}
			hurried[table] = true
			if err := conn.Exec(ctx, "ALTER TABLE "+quote(db)+"."+quote(table)+" MODIFY SETTING old_parts_lifetime = 1"); err != nil {
				return fmt.Errorf("have old parts of %s removed: %w", table, err)
			}
		}
		if err := rest(ctx, erasePoll); err != nil {
			return err
		}
	}
	for _, table := range tables {
		var hurry uint64 // from before a crash, perhaps
		if err := conn.QueryRow(ctx, "SELECT count() FROM system.tables WHERE database = ? AND name = ? AND engine_full LIKE '%old_parts_lifetime = 1%'", db, table).Scan(&hurry); err != nil {
			return fmt.Errorf("settings of %s: %w", table, err)
		}
		if hurry == 0 {
			continue
		}
		if err := conn.Exec(ctx, "ALTER TABLE "+quote(db)+"."+quote(table)+" RESET SETTING old_parts_lifetime"); err != nil {
			return fmt.Errorf("have old parts of %s kept again: %w", table, err)
		}
	}
	return nil
}

// oldParts returns which tables have parts from before their last change.
func oldParts(ctx context.Context, conn clickhouse.Conn, db string, tables []string) (old []string, err error) {
	rows, err := conn.Query(ctx, `SELECT DISTINCT p.table FROM system.parts AS p
		INNER JOIN (SELECT table, max(arrayMax(block_numbers.number)) AS version FROM system.mutations WHERE database = ? GROUP BY table) AS m ON p.table = m.table
		WHERE p.database = ? AND p.table IN (?) AND p.data_version < m.version ORDER BY p.table`, db, db, tables)
	if err != nil {
		return nil, fmt.Errorf("look for old parts: %w", err)
	}
	defer rows.Close()
	for rows.Next() {
		var table string
		if err := rows.Scan(&table); err != nil {
			return nil, fmt.Errorf("look for old parts: %w", err)
		}
		old = append(old, table)
	}
	return old, rows.Err()
}

func rest(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(d):
		return nil
	}
}

// History yields what tacho.events has of a device's telemetry up to a position
// of its partition, in the order of the log.
func History(ctx context.Context, s Server, device string, upTo events.Position) iter.Seq2[events.Event, error] {
	return func(yield func(events.Event, error) bool) {
		fail := func(err error) {
			yield(events.Event{}, fmt.Errorf("read history of %s from the archive: %w", device, err))
		}
		conn, err := s.Open()
		if err != nil {
			fail(err)
			return
		}
		defer conn.Close()
		rows, err := conn.Query(ctx, fmt.Sprintf(`SELECT message, id, schema, received, payload, _epoch, _partition, _seq FROM %s.events
			WHERE device = ? AND kind = 'telemetry' AND _partition = ? AND (_epoch, _seq) <= (?, ?) ORDER BY _epoch, _seq`, quote(s.Name())),
			device, upTo.Partition, upTo.Epoch, upTo.Seq)
		if err != nil {
			fail(err)
			return
		}
		defer rows.Close()
		for rows.Next() {
			e := events.Event{Stream: events.Stream{Kind: events.Telemetry, ID: device}}
			var payload string
			if err := rows.Scan(&e.Type, &e.ID, &e.Schema, &e.Received, &payload, &e.Position.Epoch, &e.Position.Partition, &e.Position.Seq); err != nil {
				fail(err)
				return
			}
			e.Payload = []byte(payload)
			if !yield(e, nil) {
				return
			}
		}
		if err := rows.Err(); err != nil {
			fail(err)
		}
	}
}
