package columnar

import (
	"context"
	"fmt"
	"strings"

	"github.com/ClickHouse/clickhouse-go/v2"

	"github.com/tachograph/tachograph/schemas"
)

// The fixed tables (DESIGN.md, "Tables"). Partitions and later TTLs go by
// arrival time: a device's clock must not decide what is kept, nor into how
// many partitions an insert falls.
var fixedTables = []string{
	`CREATE TABLE IF NOT EXISTS %[1]s.events (
		device      String COMMENT 'the device, or the id of another aggregate' CODEC(ZSTD(1)),
		kind        LowCardinality(String) COMMENT 'telemetry, registry, schema, ...',
		message     LowCardinality(String) COMMENT 'message type; for control facts what happened',
		subject     String COMMENT 'where the log keeps it' CODEC(ZSTD(1)),
		id          String COMMENT 'the same for a message that was sent again' CODEC(ZSTD(1)),
		schema      UInt32 COMMENT 'version known when it was accepted, 0 for none' CODEC(T64, ZSTD(1)),
		time        DateTime64(6, 'UTC') COMMENT 'device time of the first sample; arrival time without one' CODEC(Delta(8), ZSTD(1)),
		received    DateTime64(6, 'UTC') COMMENT 'arrival time' CODEC(Delta(8), ZSTD(1)),
		payload     String COMMENT 'the bytes as they were sent' CODEC(ZSTD(1)),
		_epoch      UInt32 CODEC(ZSTD(1)),
		_partition  UInt16 CODEC(ZSTD(1)),
		_seq        UInt64 CODEC(Delta(8), ZSTD(1)),
		INDEX seqs _seq TYPE minmax GRANULARITY 1
	) ENGINE = MergeTree PARTITION BY toYYYYMM(received) ORDER BY (device, _epoch, _partition, _seq)`,

	`CREATE TABLE IF NOT EXISTS %[1]s.dead_letters (
		device      String,
		message     LowCardinality(String),
		id          String COMMENT 'the event''s',
		schema      UInt32,
		sample      UInt32 COMMENT 'index in its message',
		reason      LowCardinality(String) COMMENT 'a short code',
		detail      String COMMENT 'for people: where and what was expected',
		payload     String COMMENT 'the sample as it came, or the whole message' CODEC(ZSTD(1)),
		received    DateTime64(6, 'UTC'),
		_epoch      UInt32,
		_partition  UInt16,
		_seq        UInt64,
		_row        UInt32,
		INDEX seqs _seq TYPE minmax GRANULARITY 1
	) ENGINE = MergeTree PARTITION BY toYYYYMM(received) ORDER BY (device, received)`,

	// A checkpoint says that everything up to it is in the table. It may be
	// older than the truth, never newer.
	`CREATE TABLE IF NOT EXISTS %[1]s.checkpoints (
		partition   UInt16,
		table       LowCardinality(String),
		epoch       UInt32,
		seq         UInt64,
		id          String COMMENT 'of the event at seq',
		first       UInt64 COMMENT 'of the batch that ended there',
		saved       DateTime64(6, 'UTC') DEFAULT now64(6)
	) ENGINE = ReplacingMergeTree(seq) ORDER BY (partition, table, epoch)`,
}

// Migrate creates the database and the fixed tables where they are missing.
func Migrate(ctx context.Context, s Server) error {
	conn, err := s.Open()
	if err != nil {
		return err
	}
	defer conn.Close()
	db := quote(s.Name())
	for _, sql := range append([]string{"CREATE DATABASE IF NOT EXISTS %[1]s"}, fixedTables...) {
		if err := conn.Exec(ctx, fmt.Sprintf(sql, db)); err != nil {
			return fmt.Errorf("migrate ClickHouse database %s: %w", s.Name(), err)
		}
	}
	return nil
}

// The columns that every message table has besides those of its schema.
var metaColumns = []schemas.Column{
	{Name: "device", Type: "String", Codec: "ZSTD(1)", Comment: "who sent it"},
	{Name: "received", Type: "DateTime64(6, 'UTC')", Codec: "Delta(8), ZSTD(1)", Comment: "arrival time"},
	{Name: "_epoch", Type: "UInt32", Codec: "ZSTD(1)", Comment: "of the log"},
	{Name: "_partition", Type: "UInt16", Codec: "ZSTD(1)", Comment: "of the log"},
	{Name: "_seq", Type: "UInt64", Codec: "Delta(8), ZSTD(1)", Comment: "in the partition"},
	{Name: schemas.RowColumn, Type: "UInt32", Codec: "T64, ZSTD(1)", Comment: "index of the sample in its message"},
	{Name: "_id", Type: "String", Codec: "ZSTD(1)", Comment: "the event's id"},
}

func tableColumns(s *schemas.Schema) []schemas.Column {
	columns := append([]schemas.Column{metaColumns[0]}, s.Columns()...)
	return append(columns, metaColumns[1:]...)
}

func definition(c schemas.Column) string {
	b := quote(c.Name) + " " + c.Type
	if c.Comment != "" {
		b += " COMMENT " + text(c.Comment)
	}
	if c.Codec != "" {
		b += " CODEC(" + c.Codec + ")"
	}
	return b
}

// ensureTable creates the schema's table or adds what it lacks, before the
// first row that needs it. What is there stays: a version of another process
// may know more.
func ensureTable(ctx context.Context, conn clickhouse.Conn, db string, s *schemas.Schema) error {
	want := tableColumns(s)
	defs := make([]string, 0, len(want)+1)
	for _, c := range want {
		defs = append(defs, definition(c))
	}
	defs = append(defs, "INDEX seqs _seq TYPE minmax GRANULARITY 1")
	create := fmt.Sprintf("CREATE TABLE IF NOT EXISTS %s.%s (%s) ENGINE = MergeTree PARTITION BY toYYYYMM(received) ORDER BY (device, time) COMMENT %s",
		quote(db), quote(s.Name()), strings.Join(defs, ", "), text(s.Description()))
	if err := conn.Exec(ctx, create); err != nil {
		return fmt.Errorf("create table %s: %w", s.Name(), err)
	}
	have, err := columnTypes(ctx, conn, db, s.Name())
	if err != nil {
		return err
	}
	var changes []string
	previous := ""
	for _, c := range want {
		switch t, ok := have[c.Name]; {
		case !ok:
			changes = append(changes, "ADD COLUMN IF NOT EXISTS "+definition(c)+" AFTER "+quote(previous))
		case t != c.Type && wider(t, c.Type):
			changes = append(changes, "MODIFY COLUMN "+definition(c))
		}
		previous = c.Name
	}
	if len(changes) == 0 {
		return nil
	}
	if err := conn.Exec(ctx, fmt.Sprintf("ALTER TABLE %s.%s %s", quote(db), quote(s.Name()), strings.Join(changes, ", "))); err != nil {
		return fmt.Errorf("alter table %s: %w", s.Name(), err)
	}
	return nil
}

func columnTypes(ctx context.Context, conn clickhouse.Conn, db, table string) (map[string]string, error) {
	rows, err := conn.Query(ctx, "SELECT name, type FROM system.columns WHERE database = ? AND table = ?", db, table)
	if err != nil {
		return nil, fmt.Errorf("columns of %s: %w", table, err)
	}
	defer rows.Close()
	types := map[string]string{}
	for rows.Next() {
		var name, typ string
		if err := rows.Scan(&name, &typ); err != nil {
			return nil, fmt.Errorf("columns of %s: %w", table, err)
		}
		types[name] = typ
	}
	return types, rows.Err()
}

// wider tells whether a column of type have should become want: the schemas'
// rules allow nothing but wider numbers and optional values, so anything else
// is another process's newer version.
func wider(have, want string) bool {
	if strings.HasPrefix(want, "Nullable(") && !strings.HasPrefix(have, "Nullable(") {
		return true
	}
	width := func(t string) int {
		t = strings.TrimSuffix(strings.TrimPrefix(t, "Nullable("), ")")
		digits := strings.TrimLeft(t, "UIntFloat")
		n := 0
		_, _ = fmt.Sscanf(digits, "%d", &n)
		return n
	}
	return width(want) > width(have)
}

func quote(name string) string { return "`" + strings.ReplaceAll(name, "`", "``") + "`" }

func text(s string) string {
	return "'" + strings.NewReplacer(`\`, `\\`, `'`, `\'`).Replace(s) + "'"
}
