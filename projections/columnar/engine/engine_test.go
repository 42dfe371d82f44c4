package engine_test

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/ClickHouse/clickhouse-go/v2"

	"github.com/tachograph/tachograph/projections/columnar/engine"
	"github.com/tachograph/tachograph/projections/columnar/engine/enginetest"
)

func TestMain(m *testing.M) { enginetest.Main(m) }

func ask(ctx context.Context, e *engine.Engine, user, password, sql string) (status int, answer string, err error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://"+e.HTTPAddr()+"/", strings.NewReader(sql))
	if err != nil {
		return 0, "", err
	}
	req.Close = true
	req.Header.Set("X-ClickHouse-User", user)
	req.Header.Set("X-ClickHouse-Key", password)
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return 0, "", err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	return resp.StatusCode, strings.TrimSpace(string(b)), err
}

func query(t *testing.T, e *engine.Engine, user, password, sql string) (status int, answer string) {
	t.Helper()
	status, answer, err := ask(t.Context(), e, user, password, sql)
	if err != nil {
		t.Fatal(err)
	}
	return status, answer
}

func must(t *testing.T, e *engine.Engine, sql, want string) {
	t.Helper()
	if status, got := query(t, e, "tacho", "writer", sql); status != 200 || got != want {
		t.Fatalf("%s: %d %s", sql, status, got)
	}
}

func eventually(t *testing.T, what string, check func() bool) {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); !check(); time.Sleep(50 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("not in time: " + what)
		}
	}
}

// TestUsers: nobody does what they may not, by whatever way.
func TestUsers(t *testing.T) {
	e := enginetest.Start(t)
	must(t, e, "SELECT version() LIKE '26.7%'", "1")
	must(t, e, "CREATE DATABASE tacho", "")
	must(t, e, "CREATE TABLE tacho.events (kind String, n UInt8) ENGINE = MergeTree ORDER BY n", "")
	must(t, e, "INSERT INTO tacho.events VALUES ('telemetry', 1), ('credential', 2)", "")
	must(t, e, "SELECT count() FROM tacho.events", "2")
	for _, sql := range []string{
		"SELECT n FROM tacho.events", "SELECT n FROM merge('tacho', '^events$')", "SELECT n FROM view(SELECT * FROM tacho.events)", "SELECT count() FROM numbers(1)",
		"SELECT count() FROM tacho.events", "SELECT count() FROM tacho.events SETTINGS session_timezone = 'Asia/Tokyo'", "SELECT max(n) FROM tacho.events PREWHERE n > 0",
		"SELECT getSetting('max_memory_usage') > 0 AND getSetting('readonly') = 1 SETTINGS profile = 'default'",
	} {
		if status, got := query(t, e, "query", "query", sql); status != 200 || got != "1" {
			t.Errorf("query: %s: %d %s", sql, status, got)
		}
	}
	for _, sql := range []string{
		"SELECT n FROM tacho.events", "SELECT n FROM tacho.events SETTINGS max_threads = 1", "SELECT n FROM merge('tacho', '^events$')",
		"SELECT n FROM view(SELECT * FROM tacho.events)", "SELECT count() FROM tacho.events SETTINGS optimize_trivial_count_query = 1",
		"SELECT max(n) FROM tacho.events", "SELECT n FROM loop(tacho.events) LIMIT 1 SETTINGS max_threads = 1",
		"SELECT count() FROM tacho.events WHERE kind = 'telemetry' OR kind = 'credential'",
		"SELECT 1 SETTINGS max_execution_time = 10",
	} {
		if status, got := query(t, e, "analyst", "analyst", sql); status != 200 || got != "1" {
			t.Errorf("analyst: %s: %d %s", sql, status, got)
		}
	}
	for _, who := range []struct {
		user, password string
		statements     []string
	}{
		{"analyst", "analyst", []string{
			"INSERT INTO tacho.events VALUES ('x', 3)", "DROP TABLE tacho.events", "CREATE TABLE tacho.x (a Int8) ENGINE = Memory",
			"SELECT * FROM file('/etc/passwd', 'LineAsString')", "SELECT * FROM url('http://127.0.0.1:1/', 'LineAsString')",
			"SELECT * FROM remote('127.0.0.1', 'tacho', 'events')", "SELECT * FROM executable('id', 'TSV', 'a String')",
			"SELECT * FROM system.users", "SELECT * FROM system.processes", "SYSTEM STOP LISTEN HTTP", "KILL QUERY WHERE 1", "SYSTEM SHUTDOWN",
			"SELECT 1 SETTINGS max_memory_usage = 1000000000000", "SELECT 1 SETTINGS max_memory_usage_for_user = 0",
			"SELECT 1 SETTINGS max_execution_time = 0", "SELECT 1 SETTINGS max_threads = 1000", "SET readonly = 0",
			"SELECT 1 SETTINGS max_untracked_memory = 1000000000", "SELECT 1 SETTINGS min_free_disk_space_for_temporary_data = 1",
		}},
		{"query", "query", []string{
			"INSERT INTO tacho.events VALUES ('x', 3)", "DROP TABLE tacho.events", "ALTER TABLE tacho.events DELETE WHERE 1", "TRUNCATE TABLE tacho.events",
			"CREATE TABLE tacho.x (a Int8) ENGINE = Memory", "CREATE TEMPORARY TABLE x (a Int8)", "CREATE FUNCTION x AS (a) -> a",
			"SELECT * FROM file('/etc/passwd', 'LineAsString')", "SELECT * FROM '/etc/passwd'", "SELECT * FROM url('http://127.0.0.1:1/', 'LineAsString')",
			"SELECT * FROM remote('127.0.0.1', 'tacho', 'events')", "SELECT * FROM cluster('default', tacho, events)", "SELECT * FROM executable('id', 'TSV', 'a String')",
			"SELECT * FROM mysql('127.0.0.1:1', 'a', 'b', 'c', 'd')", "SELECT * FROM sqlite('/etc/passwd', 't')", "SELECT * FROM s3('http://127.0.0.1:1/bucket/key', 'CSV', 'a String')",
			"INSERT INTO FUNCTION file('x.csv') SELECT 1", "SELECT 1 INTO OUTFILE 'x'", "BACKUP TABLE tacho.events TO Disk('x', 'y')",
			"SELECT * FROM loop(tacho.events)", "SELECT * FROM system.users", "SELECT * FROM system.processes", "SHOW PROCESSLIST", "KILL QUERY WHERE 1", "SYSTEM SHUTDOWN",
			"SET readonly = 0", "SET max_memory_usage = 0", "SELECT 1 SETTINGS readonly = 0", "SELECT 1 SETTINGS max_memory_usage = 1", "SELECT 1 SETTINGS max_execution_time = 1",
			"SELECT 1 SETTINGS max_result_rows = 1", "SELECT 1 FORMAT CSV SETTINGS max_threads = 1",
			// Settings of a subquery are not held to the profile (26.7), and lift nothing that matters.
			"SELECT length(groupArray(number)) FROM (SELECT number FROM numbers(500000000) SETTINGS max_memory_usage = 0)",
			"SELECT n FROM (SELECT n FROM loop(tacho.events) SETTINGS readonly = 0)",
			"GRANT ALL ON *.* TO query", "EXECUTE AS tacho SELECT 1", "SELECT 1; SELECT 2", "SELECT addressToLine(1)", "SELECT " + strings.Repeat("(", 5000) + "1" + strings.Repeat(")", 5000),
		}},
		{"analyst", "wrong", []string{"SELECT 1"}},
		{"default", "", []string{"SELECT 1", "SELECT 1 SETTINGS max_query_size = 1000", "SYSTEM STOP LISTEN TCP", "SYSTEM STOP LISTEN HTTP", "SELECT 1 SETTINGS max_concurrent_queries_for_all_users = 0", "SELECT * FROM tacho.events", "SELECT * FROM file('/etc/passwd', 'LineAsString')", "CREATE DATABASE x", "KILL QUERY WHERE 1"}},
		{"tacho", "", []string{"SELECT 1"}},
		{"tacho", "writer", []string{"SELECT * FROM file('/etc/passwd', 'LineAsString')", "SYSTEM SHUTDOWN", "CREATE DATABASE other"}},
		{"nobody", "", []string{"SELECT 1"}},
	} {
		for _, sql := range who.statements {
			if status, got := query(t, e, who.user, who.password, sql); status == 200 {
				t.Errorf("%s may: %s: %s", who.user, sql, got)
			}
		}
	}
}

func TestRestartAfterKill(t *testing.T) {
	e := enginetest.Start(t)
	must(t, e, "CREATE DATABASE tacho", "")
	must(t, e, "CREATE TABLE tacho.t (n UInt8) ENGINE = MergeTree ORDER BY n", "")
	must(t, e, "INSERT INTO tacho.t VALUES (7)", "")
	for range 3 {
		before := e.PID()
		if err := syscall.Kill(before, syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		eventually(t, "to be back after a kill", func() bool {
			return e.PID() != before && e.Down() == nil
		})
		must(t, e, "SELECT n FROM tacho.t", "7")
	}
}

// TestStopWhileClientsAreConnected: an idle connection of somebody else's, or a
// query that never ends, does not hold up the end.
func TestStopWhileClientsAreConnected(t *testing.T) {
	e := start(t, engine.Config{Dir: t.TempDir()})
	conn, err := clickhouse.Open(&clickhouse.Options{Addr: []string{e.NativeAddr()}, Auth: clickhouse.Auth{Username: "analyst", Password: "analyst"}})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if err := conn.Ping(t.Context()); err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_, _, _ = ask(t.Context(), e, "analyst", "analyst", "SELECT sleepEachRow(1) FROM numbers(1000) SETTINGS max_block_size = 1, function_sleep_max_microseconds_per_block = 0")
	}()
	time.Sleep(200 * time.Millisecond)
	began := time.Now()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	if err := e.Stop(ctx); err != nil {
		t.Fatal(err)
	}
	t.Log("stopped after ", time.Since(began))
	<-ended
}

// TestStopWhileStartingAgain: Stop does not wait for the pause or for a start
// that cannot succeed.
func TestStopWhileStartingAgain(t *testing.T) {
	e := start(t, engine.Config{Dir: t.TempDir()})
	pid := e.PID()
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the end to be noticed", func() bool { return e.Down() != nil })
	began := time.Now()
	ctx, cancel := context.WithTimeout(t.Context(), 15*time.Second)
	defer cancel()
	if err := e.Stop(ctx); err != nil {
		t.Fatal(err)
	}
	t.Log("stopped after ", time.Since(began))
	if l, err := net.Listen("tcp", e.HTTPAddr()); err != nil {
		t.Fatal("something listens still: ", err)
	} else {
		l.Close()
	}
}

// TestStopHung: a child that does not react is killed when the caller's
// patience ends.
func TestStopHung(t *testing.T) {
	e := start(t, engine.Config{Dir: t.TempDir()})
	if err := syscall.Kill(e.PID(), syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	if err := e.Stop(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("want that it had to be killed, got %v", err)
	}
	if err := syscall.Kill(e.PID(), 0); !errors.Is(err, syscall.ESRCH) {
		t.Fatalf("it lives: %v", err)
	}
}

func TestFolderInUse(t *testing.T) {
	dir := t.TempDir()
	enginetest.StartIn(t, dir)
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
	defer cancel()
	if second, err := engine.Start(ctx, config(t, engine.Config{Dir: dir})); err == nil {
		_ = second.Stop(t.Context())
		t.Fatal("two engines in one folder")
	} else if !errors.Is(err, engine.ErrFolderInUse) {
		t.Fatal(err)
	}
}

func TestPortTaken(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	_, port, _ := net.SplitHostPort(l.Addr().String())
	n, _ := strconv.Atoi(port)
	for _, c := range []engine.Config{{NativePort: n}, {HTTPPort: n}} {
		c.Dir = t.TempDir()
		if e, err := engine.Start(t.Context(), config(t, c)); err == nil {
			_ = e.Stop(t.Context())
			t.Fatal("started on a taken port")
		} else if !errors.Is(err, syscall.EADDRINUSE) {
			t.Fatal(err)
		}
	}
}

// TestReserved: a port that is kept is given to nobody as a free one, is no
// use to others who ask for it, and the engine has it again whenever it is started anew.
func TestReserved(t *testing.T) {
	var ports [2]int
	for i := range ports {
		port, release, err := engine.Reserve("127.0.0.1")
		if err != nil {
			t.Fatal(err)
		}
		defer release()
		ports[i] = port
		if l, err := net.Listen("tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(port))); err == nil {
			l.Close()
			t.Fatal("somebody else listens there")
		}
	}
	e, err := engine.Start(t.Context(), config(t, engine.Config{Dir: t.TempDir(), NativePort: ports[0], HTTPPort: ports[1], Reserved: true}))
	if err != nil {
		t.Fatal(err)
	}
	defer e.Stop(context.Background())
	for range 2 {
		pid := e.PID()
		if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		for deadline := time.Now().Add(30 * time.Second); e.PID() == pid || e.Down() != nil; time.Sleep(20 * time.Millisecond) {
			if time.Now().After(deadline) {
				t.Fatal(e.Down())
			}
		}
	}
	if _, port, _ := net.SplitHostPort(e.HTTPAddr()); port != strconv.Itoa(ports[1]) {
		t.Error(e.HTTPAddr())
	}
}

// TestNoLibrary: the loader's own words reach the caller.
func TestNoLibrary(t *testing.T) {
	c := config(t, engine.Config{Dir: t.TempDir()})
	c.Library = filepath.Join(t.TempDir(), "nothing.so")
	if _, err := engine.Start(t.Context(), c); err == nil || !strings.Contains(err.Error(), "nothing.so") {
		t.Fatalf("want what could not be loaded, got %v", err)
	}
}

func TestConfigRefused(t *testing.T) {
	for _, c := range []engine.Config{
		{Dir: t.TempDir(), Database: "a b", WriterPassword: "x", AnalystPassword: "x", QueryPassword: "x"},
		{Dir: t.TempDir(), Database: "x/><y", WriterPassword: "x", AnalystPassword: "x", QueryPassword: "x"},
		{Dir: t.TempDir(), AnalystPassword: "x", QueryPassword: "x"}, {Dir: t.TempDir(), WriterPassword: "x", QueryPassword: "x"},
		{Dir: t.TempDir(), WriterPassword: "x", AnalystPassword: "x"},
	} {
		if _, err := engine.Start(t.Context(), c); err == nil {
			t.Errorf("accepted %+v", c)
		}
	}
}

// TestStrangeFolder: the path may hold what means something in XML; the log is
// in the folder and says warnings and errors alone; secrets are nobody's else.
func TestStrangeFolder(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "a&b <c> ü")
	e := start(t, engine.Config{Dir: dir, AnalystPassword: "sesame"})
	must(t, e, "SELECT 1", "1")
	if status, got := query(t, e, "analyst", "sesame", "SELECT throwIf(1)"); status == 200 || !strings.Contains(got, "throwIf") {
		t.Fatal("no error: ", got)
	}
	if err := e.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	log, err := os.ReadFile(filepath.Join(dir, "clickhouse.log"))
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(log), "<Error>") || strings.Contains(string(log), "<Debug>") || strings.Contains(string(log), "<Trace>") {
		t.Fatalf("the log:\n%.2000s", log)
	}
	for _, file := range []string{"config.xml", "users.xml"} {
		info, err := os.Stat(filepath.Join(dir, file))
		if err != nil || info.Mode().Perm() != 0o600 {
			t.Fatal(file, info, err)
		}
		if b, err := os.ReadFile(filepath.Join(dir, file)); err != nil || strings.Contains(string(b), "sesame") {
			t.Fatal(file, "holds a password", err)
		}
	}
}

func config(t *testing.T, c engine.Config) engine.Config {
	t.Helper()
	cache, err := engine.CacheDir()
	if err != nil {
		t.Fatal(err)
	}
	if c.Library, err = engine.Fetch(t.Context(), cache, os.Stderr); err != nil {
		t.Fatal(err)
	}
	c.WriterPassword, c.AnalystPassword, c.QueryPassword = "writer", cmp.Or(c.AnalystPassword, "analyst"), "query"
	return c
}

func start(t *testing.T, c engine.Config) *engine.Engine {
	t.Helper()
	e, err := engine.Start(t.Context(), config(t, c))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
		defer cancel()
		if err := e.Stop(ctx); err != nil {
			t.Error(fmt.Errorf("stop: %w", err))
		}
	})
	return e
}
