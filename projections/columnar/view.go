package columnar

import (
	"context"
	"fmt"
	"strings"
)

// A View is a query over tables that the writer keeps. It is made anew at every
// start.
type View struct {
	Name, Comment string
	Query         string   // {db} stands for the quoted name of the database
	Needs         []string // message types whose tables must be there first
}

// sql makes the view, in place of one of an older release.
func (v View) sql(database string) string {
	db := quote(database)
	return fmt.Sprintf("CREATE OR REPLACE VIEW %s.%s AS %s COMMENT %s", db, quote(v.Name), strings.ReplaceAll(v.Query, "{db}", db), text(v.Comment))
}

func (w *Writer) ensureView(ctx context.Context, v View) error {
	return w.persist(ctx, "ensure "+v.Name, func() error {
		if err := w.conn.Exec(ctx, v.sql(w.cfg.Server.Name())); err != nil {
			return fmt.Errorf("create view %s: %w", v.Name, err)
		}
		return nil
	})
}
