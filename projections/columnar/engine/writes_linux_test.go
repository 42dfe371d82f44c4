package engine_test

import (
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/tachograph/tachograph/projections/columnar/engine"
	"github.com/tachograph/tachograph/projections/columnar/engine/enginetest"
)

// smallDisk names the file system that TestFullDisk runs on.
const smallDisk = "TACHO_TEST_SMALL_DISK"

// TestFullDisk: a disk that is full to the last byte every now and then takes
// nothing of what was acknowledged, be it rows, merges or definitions.
func TestFullDisk(t *testing.T) {
	disk := os.Getenv(smallDisk)
	if disk == "" {
		disk = t.TempDir()
		cmd := exec.CommandContext(t.Context(), "unshare", "-rm", "sh", "-c", `mount -t tmpfs -o size=400m tmpfs "$0" && exec "$@"`,
			disk, os.Args[0], "-test.run", "^"+t.Name()+"$", "-test.v")
		cmd.Env = append(os.Environ(), smallDisk+"="+disk)
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		return
	}
	e := start(t, config(t, engine.Config{Dir: filepath.Join(disk, "engine")}))
	must(t, e, "CREATE DATABASE tacho", "")
	must(t, e, "CREATE TABLE tacho.rows (k UInt32, n UInt64, s String) ENGINE = MergeTree ORDER BY n SETTINGS min_bytes_for_wide_part = 0", "")
	over, hogged := make(chan struct{}), make(chan error, 1)
	go func() { hogged <- hog(filepath.Join(disk, "ballast"), over) }()

	const rows, bytes = 20_000, 50
	acknowledged := func(sql string) bool {
		status, _, err := ask(t.Context(), e, "tacho", "writer", sql)
		return err == nil && status == 200
	}
	var inserts, columns []int
	ended, child := 0, e.PID()
	for k, deadline := 0, time.Now().Add(3*time.Minute); ended < 2 || len(inserts) < 10 || len(columns) < 5; k++ {
		if time.Now().After(deadline) {
			t.Fatalf("%d inserts and %d columns were acknowledged, the engine ended %d times", len(inserts), len(columns), ended)
		}
		if acknowledged(fmt.Sprintf("INSERT INTO tacho.rows (k, n, s) SELECT %d, number, randomPrintableASCII(%d) FROM numbers(%d)", k, bytes, rows)) {
			inserts = append(inserts, k)
		}
		if acknowledged(fmt.Sprintf("ALTER TABLE tacho.rows ADD COLUMN c%d Nullable(Float64)", k)) {
			columns = append(columns, k)
		}
		if now := e.PID(); now != child {
			ended, child = ended+1, now
		}
	}
	close(over)
	if err := <-hogged; err != nil {
		t.Fatal(err)
	}
	eventually(t, "at work", func() bool { child = e.PID(); return e.Down() == nil && acknowledged("SELECT 1") })
	if err := syscall.Kill(child, syscall.SIGKILL); err != nil { // what it has in memory must be on the disk
		t.Fatal(err)
	}
	eventually(t, "back", func() bool { return e.PID() != child && acknowledged("SELECT 1") })

	there := map[string]bool{}
	_, answer := query(t, e, "tacho", "writer", "SELECT k FROM tacho.rows GROUP BY k HAVING "+fmt.Sprintf("count() = %d AND sum(length(s)) = %d AND uniqExact(n) = %d", rows, rows*bytes, rows))
	for _, k := range strings.Fields(answer) {
		there[k] = true
	}
	_, answer = query(t, e, "tacho", "writer", "SELECT name FROM system.columns WHERE database = 'tacho' AND table = 'rows'")
	for _, c := range strings.Fields(answer) {
		there[c] = true
	}
	for _, k := range inserts {
		if !there[strconv.Itoa(k)] {
			t.Errorf("insert %d is not whole", k)
		}
	}
	for _, k := range columns {
		if !there["c"+strconv.Itoa(k)] {
			t.Errorf("column c%d is not there", k)
		}
	}
	must(t, e, "SELECT count() FROM (SELECT k FROM tacho.rows GROUP BY k HAVING count() != "+strconv.Itoa(rows)+")", "0")
	must(t, e, "CHECK TABLE tacho.rows SETTINGS check_query_single_value_result = 1", "1")
}

// hog fills a disk to the last byte, for a moment, again and again.
func hog(path string, over <-chan struct{}) error {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	defer f.Close()
	for {
		if err := enginetest.FillDisk(f); err != nil {
			return err
		}
		time.Sleep(time.Duration(rand.IntN(50)) * time.Millisecond)
		info, err := f.Stat()
		if err != nil {
			return err
		}
		size := max(0, info.Size()-40<<20)
		select {
		case <-over:
			size = 0
		default:
		}
		if err := f.Truncate(size); err != nil || size == 0 {
			return err
		}
		time.Sleep(50*time.Millisecond + time.Duration(rand.IntN(350))*time.Millisecond)
	}
}
