package peers

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"strconv"
	"strings"
	"time"

	"github.com/ClickHouse/clickhouse-go/v2"
)

// A ColumnarResult compares the columnar projection with a bare insert of the
// same rows into tables of the same shape on the same engine, in messages a
// second: every message is a row of tacho.events and a row of tacho.position.
type ColumnarResult struct {
	Messages int       `json:"messages"`
	Drain    float64   `json:"drain_per_second"` // median
	Insert   float64   `json:"bare_insert_per_second"`
	Drains   []float64 `json:"drains"`
	Inserts  []float64 `json:"bare_inserts"`
}

// Columnar fills a log once, with the gateway alone. Then, count times, it lets
// a node with an empty ClickHouse drain it, and inserts as many ready-made rows.
func Columnar(ctx context.Context, program, dir string, messages, count int) (r ColumnarResult, err error) {
	r.Messages = messages
	if messages < 2*blockRows {
		return r, fmt.Errorf("%d messages are too few to see a rate; at least %d", messages, 2*blockRows)
	}
	if err := prefill(ctx, program, dir, messages); err != nil {
		return r, fmt.Errorf("prefill: %w", err)
	}
	for range count {
		// Without its tables the projection starts over: they are its checkpoint.
		if err := os.RemoveAll(filepath.Join(dir, "clickhouse")); err != nil {
			return r, err
		}
		drain, insert, err := drainOnce(ctx, program, dir, messages)
		if err != nil {
			return r, err
		}
		r.Drains, r.Inserts = append(r.Drains, drain), append(r.Inserts, insert)
	}
	r.Drain, r.Insert = Median(r.Drains), Median(r.Inserts)
	return r, nil
}

func prefill(ctx context.Context, program, dir string, messages int) (err error) {
	t, err := StartTacho(ctx, program, dir, "--role", "gateway,api", "--durability", "os")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, t.Stop()) }()
	devices := make([]string, 100)
	for i := range devices {
		devices[i] = "bench-" + strconv.Itoa(i+1)
	}
	if err := t.Register(ctx, devices); err != nil {
		return err
	}
	f := Flood{Addr: t.Node.MQTT, Devices: devices, Login: t.Login, Topic: t.Topic, Window: 100, Messages: messages,
		Limit: 5 * time.Minute, Start: time.Now().Add(-time.Hour)}
	res, err := f.Run(ctx)
	if err == nil && res.Acknowledged != messages {
		err = fmt.Errorf("%d of %d messages in %s", res.Acknowledged, messages, res.Elapsed)
	}
	return err
}

func drainOnce(ctx context.Context, program, dir string, messages int) (drain, insert float64, err error) {
	t, err := StartTacho(ctx, program, dir)
	if err != nil {
		return 0, 0, err
	}
	defer func() { err = errors.Join(err, t.Stop()) }()
	if drain, err = t.watchDrain(ctx, messages); err != nil {
		return 0, 0, fmt.Errorf("drain: %w", err)
	}
	if insert, err = t.bareInsert(ctx, messages); err != nil {
		return 0, 0, fmt.Errorf("bare insert: %w", err)
	}
	return drain, insert, nil
}

// watchDrain returns the rate from the first rows that are seen to the last, so
// that neither program's start counts.
func (t *Tacho) watchDrain(ctx context.Context, messages int) (float64, error) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Minute)
	defer cancel()
	const both = "SELECT least((SELECT count() FROM tacho.events WHERE kind = 'telemetry'), (SELECT count() FROM tacho.position))"
	var first time.Time
	var had int
	for {
		answer, err := t.Node.Query(ctx, both)
		now := time.Now()
		n := 0
		if err == nil {
			if n, err = strconv.Atoi(answer); err != nil {
				return 0, err
			}
		}
		switch {
		case n > messages:
			return 0, fmt.Errorf("%d rows of %d messages", n, messages)
		case n == messages && first.IsZero():
			return 0, errors.New("it was over before it was seen; take more messages")
		case n == messages:
			return float64(n-had) / now.Sub(first).Seconds(), nil
		case n > 0 && first.IsZero():
			first, had = now, n
		}
		select {
		case <-ctx.Done():
			return 0, fmt.Errorf("%d rows of %d messages: %w (last error: %v)", n, messages, ctx.Err(), err)
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// bareInsert takes a block of rows out of each table and inserts it into a
// table of the same shape until as many rows are there.
func (t *Tacho) bareInsert(ctx context.Context, messages int) (float64, error) {
	password, err := os.ReadFile(filepath.Join(t.Node.Dir, "clickhouse.writer.password"))
	if err != nil {
		return 0, err
	}
	addresses, err := os.ReadFile(filepath.Join(t.Node.Dir, "addresses.json"))
	if err != nil {
		return 0, err
	}
	var at struct {
		Native string `json:"clickhouse_native"`
	}
	if err := json.Unmarshal(addresses, &at); err != nil {
		return 0, err
	}
	conn, err := clickhouse.Open(&clickhouse.Options{Addr: []string{at.Native},
		Auth: clickhouse.Auth{Database: "tacho", Username: "tacho", Password: strings.TrimSpace(string(password))}, ReadTimeout: time.Minute})
	if err != nil {
		return 0, err
	}
	defer conn.Close()
	var blocks []block
	for _, table := range []string{"events", "position"} {
		b, err := readBlock(ctx, conn, table)
		if err != nil {
			return 0, fmt.Errorf("read %s: %w", table, err)
		}
		if err := conn.Exec(ctx, "CREATE TABLE "+b.into+" AS "+table); err != nil {
			return 0, err
		}
		blocks = append(blocks, b)
	}
	began := time.Now()
	for done := 0; done < messages; done += blockRows {
		for _, b := range blocks {
			if err := b.insert(ctx, conn, min(blockRows, messages-done)); err != nil {
				return 0, fmt.Errorf("insert into %s: %w", b.into, err)
			}
		}
	}
	elapsed := time.Since(began)
	for _, b := range blocks {
		if err := conn.Exec(ctx, "DROP TABLE "+b.into); err != nil {
			return 0, err
		}
	}
	return float64(messages) / elapsed.Seconds(), nil
}

// A block is ready-made rows, a slice for each column.
type block struct {
	into    string
	columns []reflect.Value
}

func readBlock(ctx context.Context, conn clickhouse.Conn, table string) (b block, err error) {
	b.into = "_bare_" + table
	where := ""
	if table == "events" {
		where = " WHERE kind = 'telemetry'"
	}
	rows, err := conn.Query(ctx, "SELECT * FROM "+table+where+" ORDER BY _seq LIMIT "+strconv.Itoa(blockRows))
	if err != nil {
		return b, err
	}
	defer rows.Close()
	for _, c := range rows.ColumnTypes() {
		b.columns = append(b.columns, reflect.MakeSlice(reflect.SliceOf(c.ScanType()), 0, blockRows))
	}
	for rows.Next() {
		cells := make([]any, len(b.columns))
		for i, c := range b.columns {
			cells[i] = reflect.New(c.Type().Elem()).Interface()
		}
		if err := rows.Scan(cells...); err != nil {
			return b, err
		}
		for i := range b.columns {
			b.columns[i] = reflect.Append(b.columns[i], reflect.ValueOf(cells[i]).Elem())
		}
	}
	if err := rows.Err(); err != nil {
		return b, err
	}
	if n := b.columns[0].Len(); n < blockRows {
		return b, fmt.Errorf("%d rows", n)
	}
	return b, nil
}

func (b block) insert(ctx context.Context, conn clickhouse.Conn, rows int) error {
	batch, err := conn.PrepareBatch(ctx, "INSERT INTO "+b.into)
	if err != nil {
		return err
	}
	for i, c := range b.columns {
		if err := batch.Column(i).Append(c.Slice(0, rows).Interface()); err != nil {
			return errors.Join(err, batch.Abort())
		}
	}
	return batch.Send()
}
