package columnar

import (
	"context"
	"fmt"

	"github.com/ClickHouse/clickhouse-go/v2"
)

// A stock is what a database had when it was looked at. A start that finds all
// tables and views in it as they should be makes no statement for each of them.
// It may be old: it spares statements, and never decides what one says. The nil
// stock has nothing.
type stock struct {
	columns  map[string]map[string]string // of each table, the type of each column
	engines  map[string]string
	comments map[string]string
}

func takeStock(ctx context.Context, conn clickhouse.Conn, db string) (*stock, error) {
	s := &stock{map[string]map[string]string{}, map[string]string{}, map[string]string{}}
	for _, read := range []struct {
		sql string
		row func(a, b, c string)
	}{
		{"SELECT name, comment, '' FROM system.tables WHERE database = ?", func(table, comment, _ string) {
			s.comments[table], s.columns[table] = comment, map[string]string{}
		}},
		// Of a view the server would read and parse its whole statement for this.
		{"SELECT name, engine_full, '' FROM system.tables WHERE database = ? AND engine LIKE '%MergeTree'", func(table, engine, _ string) {
			s.engines[table] = engine
		}},
		{"SELECT table, name, type FROM system.columns WHERE database = ?", func(table, column, typ string) {
			if columns, ok := s.columns[table]; ok { // one that was made in between is none yet
				columns[column] = typ
			}
		}},
	} {
		rows, err := conn.Query(ctx, read.sql, db)
		if err != nil {
			return nil, fmt.Errorf("look what %s has: %w", db, err)
		}
		defer rows.Close()
		for rows.Next() {
			var a, b, c string
			if err := rows.Scan(&a, &b, &c); err != nil {
				return nil, fmt.Errorf("look what %s has: %w", db, err)
			}
			read.row(a, b, c)
		}
		if err := rows.Err(); err != nil {
			return nil, fmt.Errorf("look what %s has: %w", db, err)
		}
	}
	return s, nil
}

// has tells whether a table is there and lacks nothing.
func (s *stock) has(t *table) bool {
	if s == nil {
		return false
	}
	columns, ok := s.columns[t.name]
	return ok && len(t.changes(columns)) == 0
}

// lacks tells whether a table was not there.
func (s *stock) lacks(table string) bool {
	if s == nil {
		return false
	}
	_, ok := s.columns[table]
	return !ok
}

// made notes that a table was made, as it should be.
func (s *stock) made(t *table) {
	types := make(map[string]string, len(t.columns))
	for _, c := range t.columns {
		types[c.Name] = c.Type
	}
	s.columns[t.name], s.engines[t.name] = types, t.engine
}

// engine is a table's, "" where that is not known.
func (s *stock) engine(table string) string {
	if s == nil {
		return ""
	}
	return s.engines[table]
}

// comment is a table's or a view's, "" where that is not known.
func (s *stock) comment(name string) string {
	if s == nil {
		return ""
	}
	return s.comments[name]
}

// commented notes that a view was made.
func (s *stock) commented(name, comment string) {
	if s != nil {
		s.comments[name] = comment
	}
}
