package columnar

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"strconv"
	"strings"

	"github.com/ClickHouse/clickhouse-go/v2"

	"github.com/tachograph/tachograph/schemas"
)

// writersTable holds the fence (see claim). No message type can be called so.
const writersTable = "_writers"

// The columns of the fixed tables, in the order of their Arrow schemas
// (DESIGN.md, "Tables").
var eventColumns = []schemas.Column{
	{Name: "device", Type: "String", Codec: "ZSTD(1)", Comment: "the device, or the id of another aggregate"},
	{Name: "kind", Type: "LowCardinality(String)", Comment: "telemetry, registry, schema, ..."},
	{Name: "message", Type: "LowCardinality(String)", Comment: "message type; for control facts what happened"},
	{Name: "subject", Type: "String", Codec: "ZSTD(1)", Comment: "where the log keeps it"},
	{Name: "id", Type: "String", Codec: "ZSTD(1)", Comment: "the same for a message that was sent again"},
	{Name: "schema", Type: "UInt32", Codec: "T64, ZSTD(1)", Comment: "version known when it was accepted, 0 for none"},
	{Name: "time", Type: "DateTime64(6, 'UTC')", Codec: "Delta(8), ZSTD(1)", Comment: "device time of the first sample; arrival time without one"},
	{Name: "received", Type: "DateTime64(6, 'UTC')", Codec: "Delta(8), ZSTD(1)", Comment: "arrival time"},
	{Name: "payload", Type: "String", Codec: "ZSTD(1)", Comment: "the bytes as they were sent"},
	{Name: "repeat", Type: "Bool", Comment: "the device had sent it before: not in its message table"},
	{Name: "_epoch", Type: "UInt32", Codec: "ZSTD(1)", Comment: "of the log"},
	{Name: "_partition", Type: "UInt16", Codec: "ZSTD(1)", Comment: "of the log"},
	{Name: "_seq", Type: "UInt64", Codec: "Delta(8), ZSTD(1)", Comment: "in the partition"},
}

var deadColumns = []schemas.Column{
	{Name: "device", Type: "String"},
	{Name: "message", Type: "LowCardinality(String)"},
	{Name: "id", Type: "String", Comment: "of the event"},
	{Name: "schema", Type: "UInt32", Comment: "version it was read by"},
	{Name: "sample", Type: "UInt32", Comment: "index in its message"},
	{Name: "reason", Type: "LowCardinality(String)", Comment: "a short code"},
	{Name: "detail", Type: "String", Comment: "for people: where and what was expected"},
	{Name: "payload", Type: "String", Codec: "ZSTD(1)", Comment: "the sample as it came, or the whole message"},
	{Name: "received", Type: "DateTime64(6, 'UTC')", Comment: "arrival time"},
	{Name: "_epoch", Type: "UInt32"},
	{Name: "_partition", Type: "UInt16"},
	{Name: "_seq", Type: "UInt64"},
	{Name: "_row", Type: "UInt32", Comment: "as sample"},
}

var outcomeColumns = []schemas.Column{
	{Name: "device", Type: "String"},
	{Name: "message", Type: "LowCardinality(String)"},
	{Name: "letter", Type: "String", Comment: "epoch.partition.seq-sample of the dead letter"},
	{Name: "outcome", Type: "LowCardinality(String)", Comment: "replayed or dropped"},
	{Name: "schema", Type: "UInt32", Comment: "version that could read it; 0 for dropped"},
	{Name: "note", Type: "String", Comment: "why it was dropped"},
	{Name: "received", Type: "DateTime64(6, 'UTC')", Comment: "arrival of the letter's message, or of the wish to drop it"},
	{Name: "_epoch", Type: "UInt32"},
	{Name: "_partition", Type: "UInt16"},
	{Name: "_seq", Type: "UInt64"},
}

// A checkpoint says that everything up to it is in the table. It may be older
// than the truth, never newer.
var checkpointColumns = []schemas.Column{
	{Name: "partition", Type: "UInt16"},
	{Name: "table", Type: "LowCardinality(String)"},
	{Name: "epoch", Type: "UInt32"},
	{Name: "seq", Type: "UInt64"},
	{Name: "id", Type: "String", Comment: "of the event at seq"},
	{Name: "first", Type: "UInt64", Comment: "sequence at which the last batch began"},
}

var writerColumns = []schemas.Column{
	{Name: "partition", Type: "UInt16"},
	{Name: "term", Type: "UInt64", Comment: "the writer with the highest one may insert"},
	{Name: "who", Type: "String", Comment: "host and process"},
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

// storedColumn says when a sample was inserted. Without it, samples that are
// older than their time to live when they are inserted (a backlog, a replay)
// would expire before the roll-ups have them.
var storedColumn = schemas.Column{
	Name: "_stored", Type: "DateTime('UTC') MATERIALIZED now()", Codec: "Delta(4), ZSTD(1)", Comment: "when it was inserted, for the time to live",
}

// What stands behind the columns. Partitions and later TTLs go by arrival time:
// a device's clock must not decide what is kept, nor into how many partitions
// an insert falls.
const (
	byPosition = "MergeTree PARTITION BY toYYYYMM(received) ORDER BY (device, _epoch, _partition, _seq)"
	byArrival  = "MergeTree PARTITION BY toYYYYMM(received) ORDER BY (device, received)"
	byTime     = "MergeTree PARTITION BY toYYYYMM(received) ORDER BY (device, time)"
	bySeq      = "ReplacingMergeTree(seq) ORDER BY (partition, table, epoch)"
	byTerm     = "ReplacingMergeTree(term) ORDER BY partition"
)

// fixedTables are there whatever the schemas are.
var fixedTables = []table{
	{"events", "every event of the log", byPosition, eventColumns, "_seq"},
	{"dead_letters", "what could not be read", byArrival, deadColumns, "_seq"},
	{outcomeTable, "what became of it", byArrival, outcomeColumns, "_seq"},
	{"checkpoints", "how far each table is", bySeq, checkpointColumns, ""},
	{writersTable, "who may insert", byTerm, writerColumns, ""},
	absentDefinition,
}

// Migrate creates the database and the fixed tables where they are missing, and
// adds the columns that an older release did not have.
//
// Errors: ErrOtherShards.
func Migrate(ctx context.Context, s Server) error {
	conn, err := s.Open()
	if err != nil {
		return err
	}
	defer conn.Close()
	if err := s.settle(ctx, conn); err != nil {
		return err
	}
	if err := conn.Exec(ctx, "CREATE DATABASE IF NOT EXISTS "+quote(s.Name())); err != nil {
		return fmt.Errorf("migrate ClickHouse database %s: %w", s.Name(), err)
	}
	have, err := takeStock(ctx, conn, s.Name())
	if err != nil {
		return fmt.Errorf("migrate ClickHouse database: %w", err)
	}
	for _, t := range fixedTables {
		if err := t.ensure(ctx, conn, s.Name(), have); err != nil {
			return fmt.Errorf("migrate ClickHouse database %s: %w", s.Name(), err)
		}
	}
	return nil
}

// messageTable is a message type's, or that of a kind of facts.
func messageTable(s *schemas.Schema) *table {
	columns := tableColumns(s)
	if schemas.ValidName(s.Name()) == nil { // facts are kept
		columns = append(columns, storedColumn)
	}
	return &table{s.Name(), s.Description(), byTime, columns, "_seq"}
}

func tableColumns(s *schemas.Schema) []schemas.Column {
	columns := append([]schemas.Column{metaColumns[0]}, s.Columns()...)
	return append(columns, metaColumns[1:]...)
}

// A table as it should be.
type table struct {
	name, comment, engine string
	columns               []schemas.Column
	indexed               string // by what, beside the order; "" for nothing
}

const (
	createMissing   = "CREATE TABLE IF NOT EXISTS "
	codeTableExists = 57 // ClickHouse's TABLE_ALREADY_EXISTS
)

func (t *table) create(db string) string {
	defs := make([]string, 0, len(t.columns)+1)
	for _, c := range t.columns {
		defs = append(defs, definition(c))
	}
	if t.indexed != "" {
		defs = append(defs, fmt.Sprintf("INDEX seqs %s TYPE minmax GRANULARITY 1", quote(t.indexed)))
	}
	return fmt.Sprintf(createMissing+"%s.%s (%s) ENGINE = %s COMMENT %s",
		quote(db), quote(t.name), strings.Join(defs, ", "), t.engine, text(t.comment))
}

// ensure creates the table or adds what it lacks, before the first row that
// needs it. What is there stays: a version of another process may know more.
func (t *table) ensure(ctx context.Context, conn clickhouse.Conn, db string, known *stock) error {
	if known.has(t) {
		return nil
	}
	if known.lacks(t.name) { // made by us it is as it should be, and nobody need ask
		var there *clickhouse.Exception
		err := conn.Exec(ctx, "CREATE TABLE "+strings.TrimPrefix(t.create(db), createMissing))
		if err == nil {
			known.made(t)
			return nil
		}
		if !errors.As(err, &there) || there.Code != codeTableExists {
			return fmt.Errorf("create table %s: %w", t.name, err)
		}
	}
	if err := conn.Exec(ctx, t.create(db)); err != nil {
		return fmt.Errorf("create table %s: %w", t.name, err)
	}
	have, err := columnTypes(ctx, conn, db, t.name)
	if err != nil {
		return err
	}
	changes := t.changes(have)
	if len(changes) == 0 {
		return nil
	}
	if err := conn.Exec(ctx, fmt.Sprintf("ALTER TABLE %s.%s %s", quote(db), quote(t.name), strings.Join(changes, ", "))); err != nil {
		return fmt.Errorf("alter table %s: %w", t.name, err)
	}
	return nil
}

// changes are what makes a table with the columns that there are one as it
// should be.
func (t *table) changes(have map[string]string) (changes []string) {
	place := "FIRST"
	for _, c := range t.columns {
		switch typ, ok := have[c.Name]; {
		case !ok:
			changes = append(changes, "ADD COLUMN IF NOT EXISTS "+definition(c)+" "+place)
		case typ != c.Type && wider(typ, c.Type):
			changes = append(changes, "MODIFY COLUMN "+definition(c))
		}
		place = "AFTER " + quote(c.Name)
	}
	return changes
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
	if strings.Contains(want, "Nullable(") && !strings.Contains(have, "Nullable(") {
		return true
	}
	return width(want) > width(have)
}

var numbers = regexp.MustCompile(`(?:Int|Float)(\d+)`)

// width is the sum of the bits in a type's name: 32 in Array(UInt32).
func width(typ string) int {
	sum := 0
	for _, m := range numbers.FindAllStringSubmatch(typ, -1) {
		n, _ := strconv.Atoi(m[1])
		sum += n
	}
	return sum
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

func quote(name string) string { return "`" + strings.ReplaceAll(name, "`", "``") + "`" }

func text(s string) string {
	return "'" + strings.NewReplacer(`\`, `\\`, `'`, `\'`).Replace(s) + "'"
}
