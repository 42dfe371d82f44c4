package engine_test

import (
	"context"
	"errors"
	"io"
	"net/http"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/tachograph/tachograph/projections/columnar/engine"
	"github.com/tachograph/tachograph/projections/columnar/engine/enginetest"
)

func TestMain(m *testing.M) { enginetest.Main(m) }

func query(t *testing.T, e *engine.Engine, user, password, sql string) (status int, answer string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "http://"+e.HTTPAddr()+"/", strings.NewReader(sql))
	if err != nil {
		t.Fatal(err)
	}
	req.Close = true
	req.Header.Set("X-ClickHouse-User", user)
	req.Header.Set("X-ClickHouse-Key", password)
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, strings.TrimSpace(string(b))
}

func TestUsers(t *testing.T) {
	e := enginetest.Start(t)
	must := func(user, password, sql, want string) {
		t.Helper()
		if status, got := query(t, e, user, password, sql); status != 200 || got != want {
			t.Fatalf("%s: %s: %d %s", user, sql, status, got)
		}
	}
	refuse := func(user, password, sql string) {
		t.Helper()
		if status, got := query(t, e, user, password, sql); status == 200 {
			t.Fatalf("%s may: %s: %s", user, sql, got)
		}
	}
	must("tacho", "writer", "SELECT version() LIKE '26.7%'", "1")
	must("tacho", "writer", "CREATE DATABASE tacho", "")
	must("tacho", "writer", "CREATE TABLE tacho.events (kind String, n UInt8) ENGINE = MergeTree ORDER BY n", "")
	must("tacho", "writer", "INSERT INTO tacho.events VALUES ('telemetry', 1), ('credential', 2)", "")
	must("tacho", "writer", "SELECT count() FROM tacho.events", "2")
	must("analyst", "analyst", "SELECT n FROM tacho.events", "1")
	must("analyst", "analyst", "SELECT n FROM tacho.events SETTINGS max_threads = 1", "1")
	refuse("analyst", "analyst", "INSERT INTO tacho.events VALUES ('x', 3)")
	refuse("analyst", "analyst", "DROP TABLE tacho.events")
	refuse("analyst", "analyst", "SELECT * FROM file('/etc/passwd', 'LineAsString')")
	refuse("analyst", "analyst", "SELECT * FROM url('http://127.0.0.1:1/', 'LineAsString')")
	refuse("analyst", "wrong", "SELECT 1")
	refuse("default", "", "SELECT * FROM tacho.events")
	refuse("default", "", "SELECT * FROM file('/etc/passwd', 'LineAsString')")
	refuse("nobody", "", "SELECT 1")
}

func TestRestartAfterKill(t *testing.T) {
	e := enginetest.Start(t)
	if status, got := query(t, e, "tacho", "writer", "CREATE DATABASE tacho"); status != 200 {
		t.Fatal(got)
	}
	query(t, e, "tacho", "writer", "CREATE TABLE tacho.t (n UInt8) ENGINE = MergeTree ORDER BY n")
	query(t, e, "tacho", "writer", "INSERT INTO tacho.t VALUES (7)")
	before := e.PID()
	if err := syscall.Kill(before, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(20 * time.Second); ; {
		if e.PID() != before {
			if status, got := query(t, e, "tacho", "writer", "SELECT n FROM tacho.t"); status == 200 && got == "7" {
				return
			}
		}
		if time.Now().After(deadline) {
			t.Fatal("not back after a kill")
		}
		time.Sleep(50 * time.Millisecond)
	}
}

func TestFolderInUse(t *testing.T) {
	dir := t.TempDir()
	enginetest.StartIn(t, dir)
	cache, err := engine.CacheDir()
	if err != nil {
		t.Fatal(err)
	}
	library, err := engine.Fetch(t.Context(), cache, nil)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
	defer cancel()
	if second, err := engine.Start(ctx, engine.Config{Dir: dir, Library: library}); err == nil {
		second.Stop(t.Context())
		t.Fatal("two engines in one folder")
	} else if !errors.Is(err, engine.ErrFolderInUse) {
		t.Fatal(err)
	}
}
