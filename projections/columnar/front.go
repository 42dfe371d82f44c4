package columnar

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/ClickHouse/clickhouse-go/v2"
)

// A Front is the database through which all shards are asked as one. Each server
// has it: a Distributed table for each table of the shards, and the views over
// them. It is laid anew whenever a schema was registered: the tables of all shards
// first, as a query of one asks all. Nothing is ever written through it.
//
// Writers don't wait for it. While a shard is away, what is new in the schemas
// cannot be queried yet, and queries end with an error instead of half an answer.
type Front struct {
	Writer Config // of a writer; Server and Partition are not used
	Shards Shards
	Tell   func(error) // hears what keeps the front from being complete; nil: nothing
}

// frontPoll is how often schemas are looked at; after a failure, how soon it is tried again.
const frontPoll = 300 * time.Millisecond

// Run keeps the front until ctx ends.
//
// Errors: ErrOtherShards.
func (f *Front) Run(ctx context.Context) error {
	laid, failures := "", 0
	for {
		if now := f.versions(); now != laid {
			err := f.lay(ctx)
			switch {
			case ctx.Err() != nil:
				return nil
			case errors.Is(err, ErrOtherShards):
				f.Tell(err)
				return err
			case err == nil:
				laid, failures = now, 0
			default:
				failures++
			}
			f.Tell(err)
		}
		if rest(ctx, min(frontPoll<<min(failures, 5), 5*time.Second)) != nil {
			return nil
		}
	}
}

// versions tells the schemas apart that there have been.
func (f *Front) versions() string {
	var all []string
	for _, s := range f.Writer.Catalog.Schemas().All() {
		all = append(all, fmt.Sprintf("%s@%d", s.Name(), s.Version()))
	}
	return strings.Join(all, " ") + "."
}

// lay makes what is missing. It can be repeated.
func (f *Front) lay(ctx context.Context) error {
	var servers []*Writer // never run
	for _, s := range f.Shards.Servers {
		cfg := f.Writer
		cfg.Server = s
		w, err := New(cfg)
		if err != nil {
			return err
		}
		defer w.conn.Close()
		servers = append(servers, w)
	}
	for _, w := range servers {
		if err := f.layShard(ctx, w); err != nil {
			return fmt.Errorf("shard %s: %w", w.cfg.Server.URL, err)
		}
	}
	for _, w := range servers {
		if err := f.layTables(ctx, w); err != nil {
			return fmt.Errorf("tables over all shards at %s: %w", w.cfg.Server.URL, err)
		}
	}
	if err := f.checkPlaces(ctx, servers); err != nil {
		return err
	}
	for _, w := range servers {
		if err := f.layViews(ctx, w); err != nil {
			return fmt.Errorf("views over all shards at %s: %w", w.cfg.Server.URL, err)
		}
	}
	return nil
}

// layShard makes a shard's own tables, whether or not a message of theirs came to
// it, and looks whether it knows its cluster.
func (f *Front) layShard(ctx context.Context, w *Writer) error {
	if err := Migrate(ctx, w.cfg.Server); err != nil {
		return err
	}
	if err := f.layOwn(ctx, w); err != nil {
		return err
	}
	var shards, replicas uint64
	if err := w.conn.QueryRow(ctx, "SELECT uniqExact(shard_num), count() FROM system.clusters WHERE cluster = ?", f.Shards.Cluster).Scan(&shards, &replicas); err != nil {
		return fmt.Errorf("look for the cluster %s: %w", f.Shards.Cluster, err)
	}
	if want := uint64(len(f.Shards.Servers)); shards != want || replicas != want {
		return fmt.Errorf("its cluster %q has %d shards with %d servers, and --clickhouse names %d shards with one server each (remedy: remote_servers in its configuration, or --clickhouse-cluster)", f.Shards.Cluster, shards, replicas, want)
	}
	return nil
}

// layOwn makes the tables of every message type, and those of facts.
func (f *Front) layOwn(ctx context.Context, w *Writer) error {
	w.tables.mu.Lock()
	defer w.tables.mu.Unlock()
	if err := w.tables.look(ctx, w.conn, w.cfg.Server.Name()); err != nil {
		return err
	}
	for _, s := range f.Writer.Catalog.Schemas().All() {
		if err := w.ensureTables(ctx, s); err != nil {
			return err
		}
	}
	for _, facts := range f.Writer.Facts {
		if err := w.ensureTables(ctx, facts.Schema); err != nil {
			return err
		}
	}
	return nil
}

// layTables makes a server's Distributed tables.
func (f *Front) layTables(ctx context.Context, w *Writer) error {
	front, local := w.cfg.Server.front().Name(), w.cfg.Server.Name()
	if err := w.conn.Exec(ctx, "CREATE DATABASE IF NOT EXISTS "+quote(front)); err != nil {
		return err
	}
	want, err := tableShapes(ctx, w.conn, local, "%MergeTree")
	if err != nil {
		return err
	}
	have, err := tableShapes(ctx, w.conn, front, "Distributed")
	if err != nil {
		return err
	}
	for _, t := range want {
		if t.name == swapTable {
			continue
		}
		engine := fmt.Sprintf("Distributed(%s, %s, %s)", text(f.Shards.Cluster), text(local), text(t.name))
		if slices.Contains(have, tableShape{t.name, t.columns, engine}) {
			continue
		}
		if err := w.conn.Exec(ctx, fmt.Sprintf("CREATE OR REPLACE TABLE %s.%s AS %s.%s ENGINE = %s COMMENT %s",
			quote(front), quote(t.name), quote(local), quote(t.name), engine, text("all shards' "+t.name))); err != nil {
			return fmt.Errorf("table %s: %w", t.name, err)
		}
	}
	return nil
}

// A tableShape is what a Distributed table has in common with those it asks.
type tableShape struct{ name, columns, engine string }

func tableShapes(ctx context.Context, conn clickhouse.Conn, db, engine string) (all []tableShape, err error) {
	rows, err := conn.Query(ctx, `SELECT t.name, c.columns, extract(t.engine_full, '^Distributed\\([^)]*\\)')
		FROM system.tables AS t
		INNER JOIN (SELECT table, arrayStringConcat(groupArray(name || ' ' || type), ', ') AS columns
			FROM (SELECT table, name, type FROM system.columns WHERE database = ? ORDER BY table, position) GROUP BY table) AS c ON c.table = t.name
		WHERE t.database = ? AND t.engine LIKE ? ORDER BY t.name`, db, db, engine)
	if err != nil {
		return nil, fmt.Errorf("list tables of %s: %w", db, err)
	}
	defer rows.Close()
	for rows.Next() {
		var t tableShape
		if err := rows.Scan(&t.name, &t.columns, &t.engine); err != nil {
			return nil, fmt.Errorf("list tables of %s: %w", db, err)
		}
		all = append(all, t)
	}
	return all, rows.Err()
}

// checkPlaces makes sure that the servers which each one asks are those that are
// written to: remote_servers is somebody else's configuration.
func (f *Front) checkPlaces(ctx context.Context, servers []*Writer) error {
	var want []shardRow
	for _, w := range servers {
		some, err := readPlaces(ctx, w.conn, w.cfg.Server.Name())
		if err != nil {
			return fmt.Errorf("shard %s: %w", w.cfg.Server.URL, err)
		}
		want = append(want, some...)
	}
	for _, w := range servers {
		got, err := readPlaces(ctx, w.conn, w.cfg.Server.front().Name())
		if err != nil {
			return fmt.Errorf("shard %s asks the others: %w", w.cfg.Server.URL, err)
		}
		if !slices.Equal(got, want) {
			return fmt.Errorf("the cluster %q of %s is not made of the servers that --clickhouse names (remedy: its remote_servers must list each of %s once)", f.Shards.Cluster, w.cfg.Server.URL, f.Shards.names())
		}
	}
	return nil
}

// layViews makes a server's views over the Distributed tables.
func (f *Front) layViews(ctx context.Context, w *Writer) error {
	registered := f.Writer.Catalog.Schemas().All()
	views := slices.Clone(f.Writer.Views)
	for i := range views {
		if views[i].Name == coverage { // of an earlier moment
			views[i] = coverageView(registered)
		}
	}
	db := w.cfg.Server.front().Name()
	known, err := takeStock(ctx, w.conn, db)
	if err != nil {
		return err
	}
	for _, s := range registered {
		if !rolledUp(s) {
			continue
		}
		for _, r := range resolutions {
			if err := ensureRollUpViews(ctx, w.conn, db, s, r, known); err != nil {
				return err
			}
		}
	}
	for _, v := range views {
		if err := v.ensure(ctx, w.conn, db, f.Writer.under(v), known); err != nil {
			return err
		}
	}
	return nil
}
