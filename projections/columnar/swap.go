package columnar

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/ClickHouse/clickhouse-go/v2"
)

// swapTable holds the intent of a swap while it is under way: which table of the
// serving database shall become which of the other. EXCHANGE TABLES is atomic for
// one pair only; a crash in between is finished by Recover, which tells by the
// tables' UUIDs what is done.
//
// Of several shards the first one decides: it gets its intent when all others have
// theirs, and loses it when all others have carried theirs out. An intent of
// another one counts while the first has one, else it is what is left of a swap
// that was not decided.
const swapTable = "_swap"

// swap exchanges all tables of two databases of each server. No writer of any may
// be at work.
func swap(ctx context.Context, servers []replayed, fault func(string) error) error {
	fail := func(s replayed, err error) error {
		return fmt.Errorf("swap databases %s and %s of %s: %w", s.Name(), s.other(), s.URL, err)
	}
	firstLast := append(slices.Clone(servers[1:]), servers[0])
	for _, s := range firstLast {
		if err := intend(ctx, s.conn, s.Name(), s.other(), fault); err != nil {
			return fail(s, err)
		}
	}
	for _, s := range firstLast {
		if err := finishSwap(ctx, s.conn, s.Name(), fault); err != nil {
			return fail(s, err)
		}
	}
	return nil
}

// intend writes down what shall be exchanged at a server.
func intend(ctx context.Context, conn clickhouse.Conn, serving, other string, fault func(string) error) error {
	mine, err := swappable(ctx, conn, serving)
	if err != nil {
		return err
	}
	theirs, err := swappable(ctx, conn, other)
	if err != nil {
		return err
	}
	var values []string
	for table, id := range theirs {
		values = append(values, fmt.Sprintf("(%s, %s, %s)", text(other), text(table), text(id)))
		if mine[table] == "" { // exchanged for an empty one
			if err := conn.Exec(ctx, fmt.Sprintf("CREATE TABLE %s.%s AS %s.%s", quote(serving), quote(table), quote(other), quote(table))); err != nil {
				return err
			}
		}
	}
	if len(values) == 0 {
		return fmt.Errorf("%s has no tables", other)
	}
	if err := fault("intend"); err != nil {
		return err
	}
	intent := quote(serving) + "." + quote(swapTable)
	for _, sql := range []string{
		"DROP TABLE IF EXISTS " + intent + " SYNC", // one that was not decided
		"CREATE TABLE " + intent + " (other String, table String, id String) ENGINE = MergeTree ORDER BY table",
	} {
		if err := conn.Exec(ctx, sql); err != nil {
			return err
		}
	}
	return conn.Exec(ctx, "INSERT INTO "+intent+" VALUES "+strings.Join(values, ", "))
}

// finishSwap carries out the intent, however much of it has been already.
func finishSwap(ctx context.Context, conn clickhouse.Conn, serving string, fault func(string) error) error {
	intent := quote(serving) + "." + quote(swapTable)
	rows, err := conn.Query(ctx, "SELECT other, table, id FROM "+intent+" ORDER BY table")
	if err != nil {
		return fmt.Errorf("finish swap of %s: %w", serving, err)
	}
	defer rows.Close()
	var pairs [][3]string
	for rows.Next() {
		var p [3]string
		if err := rows.Scan(&p[0], &p[1], &p[2]); err != nil {
			return fmt.Errorf("finish swap of %s: %w", serving, err)
		}
		pairs = append(pairs, p)
	}
	if err := rows.Err(); err != nil {
		return fmt.Errorf("finish swap of %s: %w", serving, err)
	}
	now, err := swappable(ctx, conn, serving)
	if err != nil {
		return err
	}
	for _, p := range pairs {
		other, table, id := p[0], p[1], p[2]
		if now[table] == id {
			continue
		}
		if err := fault("exchange " + table); err != nil {
			return fmt.Errorf("finish swap of %s: %w", serving, err)
		}
		if err := conn.Exec(ctx, fmt.Sprintf("EXCHANGE TABLES %s.%s AND %s.%s", quote(serving), quote(table), quote(other), quote(table))); err != nil {
			return fmt.Errorf("finish swap of %s: table %s: %w", serving, table, err)
		}
	}
	if err := fault("exchanged"); err != nil {
		return fmt.Errorf("finish swap of %s: %w", serving, err)
	}
	if err := conn.Exec(ctx, "DROP TABLE IF EXISTS "+intent+" SYNC"); err != nil {
		return fmt.Errorf("finish swap of %s: %w", serving, err)
	}
	return nil
}

// Recover finishes a swap that a crash has interrupted, as far as it concerns a
// server. It is called before the writers of that server start, and for one server
// at a time. Shards that are away are waited for only where they have to be asked.
func Recover(ctx context.Context, all Shards, s Server) error {
	if decided, err := decided(ctx, all, s); err != nil || !decided {
		return err
	}
	if s.Shard.Number == 0 {
		for _, other := range all.Servers[1:] {
			if err := Recover(ctx, all, other); err != nil {
				return err
			}
		}
	}
	conn, err := s.Open()
	if err != nil {
		return err
	}
	defer conn.Close()
	return finishSwap(ctx, conn, s.Name(), func(string) error { return nil })
}

// decided tells whether a server has an intent that counts.
func decided(ctx context.Context, all Shards, s Server) (bool, error) {
	yes, err := intends(ctx, s)
	if err != nil || !yes || s.Shard.Number == 0 {
		return yes, err
	}
	return intends(ctx, all.Servers[0])
}

// intends tells whether a server has an intent.
func intends(ctx context.Context, s Server) (bool, error) {
	conn, err := s.Open()
	if err != nil {
		return false, err
	}
	defer conn.Close()
	var n uint64
	err = conn.QueryRow(ctx, "SELECT count() FROM system.tables WHERE database = ? AND name = ?", s.Name(), swapTable).Scan(&n)
	if err == nil && n > 0 {
		err = conn.QueryRow(ctx, "SELECT count() FROM "+quote(s.Name())+"."+quote(swapTable)).Scan(&n)
	}
	if err != nil {
		return false, fmt.Errorf("look for an unfinished swap: %w", err)
	}
	return n > 0, nil
}

// swappable lists the tables of a database that a replay makes anew, with their
// UUIDs: all but the fence, which belongs to the writers of the database.
func swappable(ctx context.Context, conn clickhouse.Conn, db string) (map[string]string, error) {
	rows, err := conn.Query(ctx, `SELECT name, toString(uuid) FROM system.tables WHERE database = ? AND engine LIKE '%MergeTree' AND name NOT IN (?, ?, ?)`,
		db, writersTable, swapTable, phaseTable)
	if err != nil {
		return nil, fmt.Errorf("list tables of %s: %w", db, err)
	}
	defer rows.Close()
	tables := map[string]string{}
	for rows.Next() {
		var name, id string
		if err := rows.Scan(&name, &id); err != nil {
			return nil, fmt.Errorf("list tables of %s: %w", db, err)
		}
		tables[name] = id
	}
	return tables, rows.Err()
}
