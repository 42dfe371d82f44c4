package columnar

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"time"

	"github.com/tachograph/tachograph/events"
)

// resume finds out where the partition's writer stood. It waits for a server
// that is not there yet.
func (w *Writer) resume(ctx context.Context) error {
	err := w.persist(ctx, "resume", func() error {
		if err := Migrate(ctx, w.cfg.Server); err != nil {
			return err
		}
		var c events.Cursor
		c.Position.Partition = w.cfg.Partition
		row := w.conn.QueryRow(ctx, fmt.Sprintf(
			"SELECT epoch, seq, id FROM %s.checkpoints WHERE partition = ? AND table = 'events' ORDER BY epoch DESC, seq DESC LIMIT 1",
			quote(w.cfg.Server.Name())), w.cfg.Partition)
		if err := row.Scan(&c.Position.Epoch, &c.Position.Seq, &c.ID); err != nil && !errors.Is(err, sql.ErrNoRows) {
			return fmt.Errorf("read checkpoint: %w", err)
		}
		w.checkpoint = c
		return nil
	})
	if err != nil {
		return err
	}
	w.mu.Lock()
	w.status.Position = w.checkpoint.Position
	w.mu.Unlock()
	return w.doubt(ctx)
}

// doubt is what follows any unknown outcome: end what may still run, then ask
// every table which rows beyond the checkpoint it has.
func (w *Writer) doubt(ctx context.Context) error {
	return w.persist(ctx, "read back", func() error {
		if err := w.killOwn(ctx); err != nil {
			return err
		}
		tables, err := w.messageTables(ctx)
		if err != nil {
			return err
		}
		after := w.checkpoint.Position
		if after.Epoch == 0 { // nothing was ever saved; the log tells its epoch
			tail, err := w.cfg.Log.Tail(ctx, w.cfg.Partition)
			if err != nil {
				return err
			}
			after.Epoch = tail.Epoch
		}
		all := map[string]present{}
		for table, hasRow := range tables {
			p, err := readPresent(ctx, w.conn, w.cfg.Server.Name(), table, after, hasRow)
			if err != nil {
				return err
			}
			if len(p) > 0 {
				all[table] = p
			}
		}
		w.present = all
		return nil
	})
}

// killOwn ends every query of this partition's writer, this one's or a
// predecessor's, and waits until they are gone: an insert that lingers could
// otherwise still add its rows after the tables were asked.
func (w *Writer) killOwn(ctx context.Context) error {
	like := w.queryPrefix() + "%"
	for {
		if err := w.conn.Exec(ctx, "KILL QUERY WHERE query_id LIKE "+text(like)+" ASYNC"); err != nil {
			return fmt.Errorf("end earlier inserts: %w", err)
		}
		var n uint64
		if err := w.conn.QueryRow(ctx, "SELECT count() FROM system.processes WHERE query_id LIKE "+text(like)).Scan(&n); err != nil {
			return fmt.Errorf("look for earlier inserts: %w", err)
		}
		if n == 0 {
			return nil
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(100 * time.Millisecond):
		}
	}
}

func (w *Writer) queryPrefix() string {
	return fmt.Sprintf("tacho-%s-%d-", w.cfg.Server.Name(), w.cfg.Partition)
}

// messageTables lists the tables that hold rows of the log, and whether a row
// of theirs is a sample rather than an event.
func (w *Writer) messageTables(ctx context.Context) (map[string]bool, error) {
	rows, err := w.conn.Query(ctx, `SELECT table, countIf(name = '_row') > 0 FROM system.columns WHERE database = ?
		GROUP BY table HAVING countIf(name IN ('_seq', '_epoch', '_partition')) = 3
		AND table IN (SELECT name FROM system.tables WHERE database = ? AND engine LIKE '%MergeTree')`,
		w.cfg.Server.Name(), w.cfg.Server.Name())
	if err != nil {
		return nil, fmt.Errorf("list tables: %w", err)
	}
	defer rows.Close()
	tables := map[string]bool{}
	for rows.Next() {
		var name string
		var hasRow bool
		if err := rows.Scan(&name, &hasRow); err != nil {
			return nil, fmt.Errorf("list tables: %w", err)
		}
		tables[name] = hasRow
	}
	return tables, rows.Err()
}
