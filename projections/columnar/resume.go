package columnar

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/ClickHouse/clickhouse-go/v2"

	"github.com/tachograph/tachograph/events"
)

// resume finds out where the partition's writer stood. It waits for a server
// that is not there yet.
func (w *Writer) resume(ctx context.Context) error {
	err := w.persist(ctx, "resume", func() error {
		if err := Migrate(ctx, w.cfg.Server); err != nil {
			return err
		}
		if err := w.claim(ctx, true); err != nil {
			return err
		}
		var err error
		if w.checkpoint, err = readCheckpoint(ctx, w.conn, w.cfg.Server.Name(), w.cfg.Partition); err != nil {
			return err
		}
		if err := w.findBeyond(ctx); err != nil {
			return err
		}
		if err := w.resumeRollUps(ctx); err != nil {
			return err
		}
		return w.restoreRepeats(ctx)
	})
	if err != nil {
		return err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.status.Position, w.status.LastError = w.checkpoint.Position, ""
	w.status.CaughtUp = true // as far as what it reads next shows
	return nil
}

// readCheckpoint returns up to where all tables of a database have a partition.
func readCheckpoint(ctx context.Context, conn clickhouse.Conn, db string, partition uint16) (c events.Cursor, err error) {
	c.Position.Partition = partition
	row := conn.QueryRow(ctx, fmt.Sprintf(
		"SELECT epoch, seq, id FROM %s.checkpoints WHERE partition = ? AND table = 'events' ORDER BY epoch DESC, seq DESC LIMIT 1", quote(db)), partition)
	if err := row.Scan(&c.Position.Epoch, &c.Position.Seq, &c.ID); err != nil && !errors.Is(err, sql.ErrNoRows) {
		return c, fmt.Errorf("read checkpoint: %w", err)
	}
	return c, nil
}

// Reached returns the position up to which tacho.events and all other tables
// have a partition; a writer goes on there after a restart.
func Reached(ctx context.Context, s Server, partition uint16) (events.Position, error) {
	conn, err := s.Open()
	if err != nil {
		return events.Position{}, err
	}
	defer conn.Close()
	c, err := readCheckpoint(ctx, conn, s.Name(), partition)
	return c.Position, err
}

// doubt is what follows any unknown outcome: nothing sent so far may still
// arrive, then every table is asked how far it has rows beyond the checkpoint.
// Up to there, blocks are compared with what is there before they are inserted.
func (w *Writer) doubt(ctx context.Context) error {
	if err := w.claim(ctx, false); err != nil {
		return err
	}
	return w.findBeyond(ctx)
}

// tablesAtOnce is how many tables one statement looks at.
const tablesAtOnce = 50

func (w *Writer) findBeyond(ctx context.Context) error {
	tables, err := w.messageTables(ctx)
	if err != nil {
		return err
	}
	beyond := map[string]uint64{}
	for some := range slices.Chunk(tables, tablesAtOnce) {
		if err := w.lookBeyond(ctx, some, beyond); err != nil {
			return err
		}
	}
	w.beyond = beyond
	return nil
}

// lookBeyond adds to beyond the newest sequence of each table that has rows beyond
// the checkpoint.
func (w *Writer) lookBeyond(ctx context.Context, tables []string, beyond map[string]uint64) error {
	after := w.checkpoint.Position
	var parts []string
	for _, table := range tables {
		parts = append(parts, fmt.Sprintf("SELECT %s AS t, max(_seq) AS seq FROM %s WHERE _partition = %d AND (_epoch > %d OR _epoch = %d AND _seq > %d)",
			text(table), w.table(table), w.cfg.Partition, after.Epoch, after.Epoch, after.Seq))
	}
	var newest []struct {
		Table string `ch:"t"`
		Seq   uint64 `ch:"seq"`
	}
	err := w.conn.Select(ctx, &newest, strings.Join(parts, " UNION ALL "))
	if err != nil && len(tables) > 1 { // which one it is
		for _, table := range tables {
			if err := w.lookBeyond(ctx, []string{table}, beyond); err != nil {
				return err
			}
		}
		return nil
	}
	if err != nil {
		return fmt.Errorf("look for rows of %s beyond the checkpoint: %w", tables[0], err)
	}
	for _, n := range newest {
		if n.Seq > 0 {
			beyond[n.Table] = n.Seq
		}
	}
	return nil
}

// messageTables lists the tables that hold rows of the log.
func (w *Writer) messageTables(ctx context.Context) ([]string, error) {
	rows, err := w.conn.Query(ctx, `SELECT table FROM system.columns WHERE database = ?
		AND table IN (SELECT name FROM system.tables WHERE database = ? AND engine LIKE '%MergeTree')
		GROUP BY table HAVING countIf(name IN ('_seq', '_epoch', '_partition')) = 3`,
		w.cfg.Server.Name(), w.cfg.Server.Name())
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
		tables = append(tables, name)
	}
	return tables, rows.Err()
}
