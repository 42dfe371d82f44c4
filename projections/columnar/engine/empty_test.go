package engine_test

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/tachograph/tachograph/projections/columnar/engine"
)

// TestEmptyDefinition: what CREATE TABLE leaves behind on a full disk does not
// keep the engine from starting, and the other tables are there.
func TestEmptyDefinition(t *testing.T) {
	dir := t.TempDir()
	e := start(t, config(t, engine.Config{Dir: dir}))
	must(t, e, "CREATE DATABASE tacho", "")
	must(t, e, "CREATE TABLE tacho.whole (x Int32) ENGINE = MergeTree ORDER BY x", "")
	files, err := filepath.Glob(filepath.Join(dir, "store", "store", "*", "*", "whole.sql"))
	if err != nil || len(files) != 1 {
		t.Fatal(files, err)
	}
	if err := e.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(filepath.Dir(files[0]), "half.sql"), nil, 0o640); err != nil {
		t.Fatal(err)
	}
	e = start(t, config(t, engine.Config{Dir: dir}))
	must(t, e, "SELECT name FROM system.tables WHERE database = 'tacho'", "whole")
	must(t, e, "CREATE TABLE tacho.half (x Int32) ENGINE = MergeTree ORDER BY x", "")
}
