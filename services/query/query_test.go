package query

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/tachograph/tachograph/projections/columnar/engine"
	"github.com/tachograph/tachograph/projections/columnar/engine/enginetest"
	"github.com/tachograph/tachograph/services/api/problem"
)

func TestMain(m *testing.M) { enginetest.Main(m) }

// A bench is a real ClickHouse and a client of it.
type bench struct {
	t      *testing.T
	engine *engine.Engine
	client *Client
	logged *bytes.Buffer
}

func newBench(t *testing.T, limits Limits, settings engine.QueryLimits) *bench {
	t.Helper()
	b := &bench{t: t, engine: enginetest.StartQuery(t, t.TempDir(), settings), logged: new(bytes.Buffer)}
	b.write("CREATE DATABASE IF NOT EXISTS tacho")
	b.client = b.connect(limits)
	return b
}

func (b *bench) connect(limits Limits) *Client {
	b.t.Helper()
	user, password := b.engine.Query()
	c, err := New(Config{URL: "http://" + b.engine.HTTPAddr(), User: user, Password: password, Limits: limits, Logger: slog.New(slog.NewTextHandler(b.logged, nil))})
	if err != nil {
		b.t.Fatal(err)
	}
	return c
}

// write runs a statement as the user that owns the database, and returns its answer.
func (b *bench) write(sql string) string {
	b.t.Helper()
	req, err := http.NewRequest(http.MethodPost, "http://"+b.engine.HTTPAddr()+"/", strings.NewReader(sql))
	if err != nil {
		b.t.Fatal(err)
	}
	user, password := b.engine.Writer()
	req.Header.Set("X-ClickHouse-User", user)
	req.Header.Set("X-ClickHouse-Key", password)
	req.Close = true
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		b.t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != http.StatusOK {
		b.t.Fatalf("%s: %s %s %v", sql, resp.Status, text, err)
	}
	return strings.TrimSpace(string(text))
}

// running counts the statements of the client's user that are at work, but for
// those that end others and are in the list a moment longer than their answer.
func (b *bench) running() string {
	b.t.Helper()
	return b.write("SELECT count() FROM system.processes WHERE user = 'query' AND query != 'SELECT 1'")
}

// idle waits until ClickHouse works for nobody.
func (b *bench) idle() {
	b.t.Helper()
	b.await("ClickHouse to be idle", func() bool { return b.write("SELECT count() FROM system.processes WHERE user = 'query'") == "0" })
}

func (b *bench) await(what string, done func() bool) {
	b.t.Helper()
	for deadline := time.Now().Add(30 * time.Second); !done(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			b.t.Fatalf("not in time: %s", what)
		}
	}
}

// all reads a whole answer.
func (b *bench) all(s Statement) ([]byte, error) {
	b.t.Helper()
	a, err := b.client.Ask(b.t.Context(), s)
	if err != nil {
		return nil, err
	}
	defer a.Close()
	var whole []byte
	for {
		piece, err := a.Next()
		if errors.Is(err, io.EOF) {
			return whole, nil
		}
		if err != nil {
			return whole, err
		}
		whole = append(whole, piece...)
	}
}

func (b *bench) text(s Statement) string {
	b.t.Helper()
	whole, err := b.all(s)
	if err != nil {
		b.t.Fatalf("%s: %v", s.Text, err)
	}
	return string(whole)
}

// refused wants a problem of the code, before anything was given away.
func (b *bench) refused(sql string, code problem.Code) *problem.Problem {
	b.t.Helper()
	whole, err := b.all(Statement{Text: sql, Format: CSV})
	var p *problem.Problem
	if !errors.As(err, &p) || len(whole) > 0 {
		b.t.Errorf("%.80s: %.80q %v, want %s", sql, whole, err, code)
		return problem.New(code, "", map[string]any{})
	}
	if p.Code != code {
		b.t.Errorf("%.80s: %s %s, want %s", sql, p.Code, p.Message, code)
	}
	return p
}

func TestText(t *testing.T) {
	b := newBench(t, Limits{}, engine.QueryLimits{})
	for _, c := range []struct {
		format Format
		want   string
	}{
		{NDJSON, "{\"n\":0,\"s\":\"a\\\"b\"}\n{\"n\":1,\"s\":\"a\\\"b\"}\n"},
		{CSV, "\"n\",\"s\"\n0,\"a\"\"b\"\n1,\"a\"\"b\"\n"},
		{TSV, "0\ta\"b\n1\ta\"b\n"},
	} {
		if got := b.text(Statement{Text: `SELECT number AS n, 'a"b' AS s FROM numbers(2)`, Format: c.format}); got != c.want {
			t.Errorf("%s: %q, want %q", c.format.Name, got, c.want)
		}
	}
	if got := b.text(Statement{Text: "SELECT 9007199254740993 AS n", Format: JSON}); !strings.Contains(got, `"n": 9007199254740993`) || !strings.Contains(got, `"type": "UInt64"`) {
		t.Error(got)
	}
	if got := b.text(Statement{Text: "SELECT 1 AS n", Format: Table}); !strings.Contains(got, "│ 1 │") {
		t.Error(got)
	}
	if got := b.text(Statement{Text: "SELECT 1 WHERE 0", Format: TSV}); got != "" {
		t.Errorf("%q", got)
	}
	// Marks of an exception that are the data's own.
	odd := "\r\n__exception__\r\nabcdefghijklmnop\r\nCode: 1. DB::Exception: no. (NO)"
	if got := b.text(Statement{Text: "SELECT {x:String} AS x", Format: Format{"", "", "RawBLOB"}, Parameters: map[string]string{"x": odd}}); got != odd {
		t.Errorf("%q", got)
	}
}

// TestParameters: a value is what it is, whatever it looks like.
func TestParameters(t *testing.T) {
	b := newBench(t, Limits{}, engine.QueryLimits{})
	for _, value := range []string{
		"", "car-1", "'; DROP TABLE tacho.events; --", `\`, `\\`, `\N`, "\\t", "a\tb\nc\rd\x00e\bf\fg\vh", `"`, "ü€😀", "{y:String}", "&format=CSV", "%27", "\xff\xfe", strings.Repeat("x", 10_000),
	} {
		got := b.text(Statement{Text: "SELECT {x:String}", Format: Format{"", "", "RawBLOB"}, Parameters: map[string]string{"x": value}})
		if got != value {
			t.Errorf("%.80q became %.80q", value, got)
		}
	}
	typed := Statement{
		Text: "SELECT {n:UInt8} + 1, {t:DateTime64(3)}, length({l:Array(String)}), {i:Identifier} FROM (SELECT 7 AS seven)", Format: TSV,
		Parameters: map[string]string{"n": "41", "t": "2026-11-23 10:00:00.123", "l": "['a','b']", "i": "seven"},
	}
	if got := b.text(typed); got != "42\t2026-11-23 10:00:00.123\t2\t7\n" {
		t.Errorf("%q", got)
	}
	for _, s := range []Statement{
		{Text: "SELECT {x:UInt8}", Parameters: map[string]string{"x": "1 OR 1"}}, {Text: "SELECT {x:UInt8}"},
	} {
		s.Format = CSV
		var p *problem.Problem
		if got, err := b.all(s); !errors.As(err, &p) || p.Code != problem.InvalidQuery {
			t.Errorf("%v: %q %v", s, got, err)
		}
	}
}

// TestSyntax: what is wrong and where, without the server's insides.
func TestSyntax(t *testing.T) {
	b := newBench(t, Limits{}, engine.QueryLimits{})
	p := b.refused("SELECT 1,\n  2 3 FROM\n tacho.position", problem.InvalidQuery)
	if !strings.Contains(p.Message, "Syntax error") || p.Details["line"] != 2 || p.Details["column"] != 5 {
		t.Errorf("%s %v", p.Message, p.Details)
	}
	for _, sql := range []string{
		"SELECT nonsense", "SELECT * FROM tacho.nothing", "SELECT 1 +", "SELECT 'a' + 1", "SELECT throwIf(1)", "SELECT 1; SELECT 2", "SELECT intDiv(1, 0)", "\x00", "SELECT '\xff", "DESCRIBE",
		"SELECT 1 FORMAT Native", "SELECT 1 FORMAT JSONEachRow", "USE tacho", "SELECT dictGet('x', 'y', 1)", "SELECT catboostEvaluate('x', 1)", "SELECT toUInt8('x')", "SELECT * FROM '/etc/passwd'",
		"SELECT " + strings.Repeat("(", 5000) + "1" + strings.Repeat(")", 5000), "SELECT 1" + strings.Repeat(" + 1", 60_000),
		"SELECT " + strings.Repeat("x", 100_000),
	} {
		p := b.refused(sql, problem.InvalidQuery)
		for _, inside := range []string{"DB::", "version 26", "Stack trace", "while executing", b.engine.HTTPAddr(), "/store/"} {
			if strings.Contains(p.Message, inside) {
				t.Errorf("%.80s: tells %q: %.400s", sql, inside, p.Message)
			}
		}
		if len(p.Message) > mostMessage+100 {
			t.Errorf("%.80s: a message of %d bytes", sql, len(p.Message))
		}
	}
	b.idle()
}

// TestHostile: what does more than read, or reads what it may not, is refused
// by the server, whatever it looks like.
func TestHostile(t *testing.T) {
	b := newBench(t, Limits{}, engine.QueryLimits{})
	b.write("CREATE TABLE tacho.events (kind String, n UInt8) ENGINE = MergeTree ORDER BY n")
	b.write("INSERT INTO tacho.events VALUES ('telemetry', 1), ('credential', 2)")
	for _, sql := range []string{
		"INSERT INTO tacho.events VALUES ('x', 3)", "DROP TABLE tacho.events", "ALTER TABLE tacho.events DELETE WHERE 1", "/* SELECT */ TRUNCATE TABLE tacho.events", "CREATE TEMPORARY TABLE x (a Int8)",
		"SELECT * FROM file('/etc/passwd', 'LineAsString')", "SELECT * FROM `file`('/etc/passwd', 'LineAsString')", "SELECT file('/etc/passwd')", "SELECT `fi\\x6ce`('/etc/passwd')",
		"SELECT file(materialize('/proc/1/environ'))", "SELECT file('nothing')", "SELECT * FROM url('http://127.0.0.1:1/', 'LineAsString')", "SELECT * FROM remote('127.0.0.1', 'tacho', 'events')",
		"SELECT * FROM executable('id', 'TSV', 'a String')", "SELECT * FROM mysql('127.0.0.1:1', 'a', 'b', 'c', 'd')", "SELECT * FROM s3('http://127.0.0.1:1/bucket/key', 'CSV', 'a String')",
		"INSERT INTO FUNCTION file('x.csv') SELECT 1", "SELECT 1 INTO OUTFILE 'x'", "SELECT * FROM loop(tacho.events)",
		"SELECT * FROM system.users", "SELECT * FROM system.processes", "SHOW PROCESSLIST", "KILL QUERY WHERE 1", "SYSTEM SHUTDOWN", "GRANT ALL ON *.* TO query",
		"SET readonly = 0", "SELECT 1 SETTINGS readonly = 0", "SELECT 1 SETTINGS max_memory_usage = 0", "SELECT 1 SETTINGS max_execution_time = 0", "SELECT 1 SETTINGS cancel_http_readonly_queries_on_client_close = 0",
	} {
		b.refused(sql, problem.QueryForbidden)
	}
	for _, sql := range []string{"SELECT count() FROM tacho.events", "SELECT count() FROM merge('tacho', '.*')", "SELECT count() FROM view(SELECT * FROM events)", "SELECT count() FROM events WHERE kind = 'credential' OR 1"} {
		if got := b.text(Statement{Text: sql, Format: TSV}); got != "1\n" {
			t.Errorf("%s: %s", sql, got)
		}
	}
	if got := b.write("SELECT count() FROM tacho.events"); got != "2" {
		t.Errorf("%s rows", got)
	}
}

// TestUnfitUser: a user that may write, or change its limits, asks nothing.
func TestUnfitUser(t *testing.T) {
	b := newBench(t, Limits{}, engine.QueryLimits{})
	for user, password := range map[string]string{engine.WriterUser: "writer", engine.AnalystUser: "analyst", engine.QueryUser: "wrong"} {
		c, err := New(Config{URL: "http://" + b.engine.HTTPAddr(), User: user, Password: password})
		if err != nil {
			t.Fatal(err)
		}
		var p *problem.Problem
		if _, err := c.Ask(context.Background(), Statement{Text: "SELECT 1", Format: CSV}); !errors.As(err, &p) || p.Code != problem.Unavailable {
			t.Errorf("%s: %v", user, err)
		}
	}
	for _, address := range []string{"", "127.0.0.1:8123", "ftp://127.0.0.1", "http://"} {
		if _, err := New(Config{URL: address}); err == nil {
			t.Errorf("took %q", address)
		}
	}
}
