package columnar

import (
	"context"
	"crypto/sha256"
	"fmt"
	"strings"

	"github.com/ClickHouse/clickhouse-go/v2"
)

// A View is a query over tables that the writer keeps. It is made anew when it,
// or a table that it reads, is another one than in the release that made it.
type View struct {
	Name, Comment string
	Query         string   // {db} stands for the quoted name of the database
	Needs         []string // message types whose tables must be there first
}

// ensure makes the view, in place of one of an older release. ClickHouse keeps
// the types of a view's columns as they were, so that one over a column that has
// become wider is another: over are the tables that it reads, and the end of its
// comment tells view and tables apart from others.
func (v View) ensure(ctx context.Context, conn clickhouse.Conn, db string, over []*table, known *stock) error {
	sql := fmt.Sprintf("CREATE OR REPLACE VIEW %s.%s AS %s", quote(db), quote(v.Name), strings.ReplaceAll(v.Query, "{db}", quote(db)))
	sum := sha256.New()
	sum.Write([]byte(sql))
	for _, t := range over {
		sum.Write([]byte(t.create(db)))
	}
	comment := fmt.Sprintf("%s (%x)", v.Comment, sum.Sum(nil)[:4])
	if known.comment(v.Name) == comment {
		return nil
	}
	if err := conn.Exec(ctx, sql+" COMMENT "+text(comment)); err != nil {
		return fmt.Errorf("create view %s: %w", v.Name, err)
	}
	known.commented(v.Name, comment)
	return nil
}

func (w *Writer) ensureView(ctx context.Context, v View) error {
	return w.persist(ctx, "ensure "+v.Name, func() error {
		w.tables.mu.Lock()
		defer w.tables.mu.Unlock()
		return v.ensure(ctx, w.conn, w.cfg.Server.Name(), w.cfg.under(v), w.tables.stock)
	})
}

// under returns the tables that a view may read.
func (c *Config) under(v View) []*table {
	var all []*table
	for i := range fixedTables {
		all = append(all, &fixedTables[i])
	}
	for _, f := range c.Facts {
		all = append(all, messageTable(f.Schema))
	}
	for _, name := range v.Needs {
		if s, ok := c.Catalog.Schemas().Current(name); ok {
			all = append(all, messageTable(s))
		}
	}
	return all
}
