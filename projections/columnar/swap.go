package columnar

import (
	"context"
	"fmt"
	"strings"

	"github.com/ClickHouse/clickhouse-go/v2"
)

// swapTable holds the intent of a swap while it is under way: which table of the
// serving database shall become which of the other. EXCHANGE TABLES is atomic for
// one pair only; a crash in between is finished by Recover, which tells by the
// tables' UUIDs what is done.
const swapTable = "_swap"

// swap exchanges all tables of two databases. No writer of either may be at work.
func swap(ctx context.Context, conn clickhouse.Conn, serving, other string, fault func(string) error) error {
	fail := func(err error) error { return fmt.Errorf("swap databases %s and %s: %w", serving, other, err) }
	mine, err := swappable(ctx, conn, serving)
	if err != nil {
		return fail(err)
	}
	theirs, err := swappable(ctx, conn, other)
	if err != nil {
		return fail(err)
	}
	var values []string
	for table, id := range theirs {
		values = append(values, fmt.Sprintf("(%s, %s, %s)", text(other), text(table), text(id)))
		if mine[table] == "" { // exchanged for an empty one
			if err := conn.Exec(ctx, fmt.Sprintf("CREATE TABLE %s.%s AS %s.%s", quote(serving), quote(table), quote(other), quote(table))); err != nil {
				return fail(err)
			}
		}
	}
	if len(values) == 0 {
		return fail(fmt.Errorf("%s has no tables", other))
	}
	intent := quote(serving) + "." + quote(swapTable)
	if err := conn.Exec(ctx, "CREATE TABLE IF NOT EXISTS "+intent+" (other String, table String, id String) ENGINE = MergeTree ORDER BY table"); err != nil {
		return fail(err)
	}
	if err := fault("intend"); err != nil {
		return fail(err)
	}
	if err := conn.Exec(ctx, "INSERT INTO "+intent+" VALUES "+strings.Join(values, ", ")); err != nil {
		return fail(err)
	}
	return finishSwap(ctx, conn, serving, fault)
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

// Recover finishes a swap that a crash has interrupted. It is called before the
// writers of the database start.
func Recover(ctx context.Context, s Server) error {
	conn, err := s.Open()
	if err != nil {
		return err
	}
	defer conn.Close()
	var n uint64
	if err := conn.QueryRow(ctx, "SELECT count() FROM system.tables WHERE database = ? AND name = ?", s.Name(), swapTable).Scan(&n); err != nil {
		return fmt.Errorf("look for an unfinished swap: %w", err)
	}
	if n == 0 {
		return nil
	}
	return finishSwap(ctx, conn, s.Name(), func(string) error { return nil })
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
