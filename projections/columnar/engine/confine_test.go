package engine_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/tachograph/tachograph/projections/columnar/engine/enginetest"
)

// TestConfined: the engine reads no file but its own, whoever asks: the
// function file() asks for no grant.
func TestConfined(t *testing.T) {
	t.Setenv("TACHO_NATS", "nats://user:sesame@host")
	dir := t.TempDir()
	secret := filepath.Join(dir, "admin.token")
	if err := os.WriteFile(secret, []byte("sesame"), 0o600); err != nil {
		t.Fatal(err)
	}
	inside := filepath.Join(dir, "clickhouse")
	if err := os.Symlink("..", filepath.Join(dir, "link")); err != nil {
		t.Fatal(err)
	}
	e := enginetest.StartIn(t, inside)
	parent := fmt.Sprintf("/proc/%d", os.Getpid())
	for _, user := range [][2]string{{"query", "query"}, {"analyst", "analyst"}, {"tacho", "writer"}, {"default", ""}} {
		for _, file := range []string{
			secret, "../admin.token", "store/../../admin.token", dir + "/link/admin.token", "/proc/self/cwd/../admin.token",
			parent + "/environ", parent + "/cwd/go.mod", parent + "/root" + secret, parent + "/fd/0", "/etc/passwd", "/dev/zero",
		} {
			status, got := query(t, e, user[0], user[1], "SELECT file('"+file+"')")
			if status == 200 || strings.Contains(got, "sesame") {
				t.Errorf("%s reads %s: %s", user[0], file, got)
			}
		}
		if _, got := query(t, e, user[0], user[1], "SELECT file('/proc/self/environ')"); strings.Contains(got, "sesame") || strings.Contains(got, "TACHO_NATS") {
			t.Errorf("%s reads the environment: %s", user[0], got)
		}
	}
	// Errors tell what a statement made of a file, before anybody asks for rights:
	// without a password there is no statement at all.
	for _, sql := range []string{
		"SELECT CAST(file('users.xml') AS Enum8('a' = 1)) FROM system.processes", "KILL QUERY WHERE CAST(file('users.xml') AS Enum8('a' = 1)) = 1",
		"SELECT CAST(file('users.xml') AS Enum8('a' = 1)) FROM tacho.events",
	} {
		if _, got := query(t, e, "default", "", sql); strings.Contains(got, "<clickhouse>") {
			t.Errorf("%s: %.200s", sql, got)
		}
	}
}
