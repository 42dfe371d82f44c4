package columnar

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/tachograph/tachograph/events"
	"github.com/tachograph/tachograph/schemas"
)

// TestStartAgain: a start makes nothing anew that is as it should be, and mends
// what is not.
func TestStartAgain(t *testing.T) {
	long(t)
	b := newBench(t)
	again := func() {
		t.Helper()
		w, stop := b.start(events.ControlPartition, nil)
		for deadline := time.Now().Add(time.Minute); !w.Status().Resumed; time.Sleep(time.Millisecond) {
			if time.Now().After(deadline) {
				t.Fatal("not in time")
			}
		}
		if err := stop(); err != nil {
			t.Fatal(err)
		}
	}
	made := func() string {
		return b.query("SELECT name, uuid, metadata_modification_time FROM system.tables WHERE database = 'tacho' ORDER BY name")
	}
	again()
	first := made()
	time.Sleep(1100 * time.Millisecond) // ClickHouse tells times of modification by the second
	again()
	if second := made(); second != first {
		t.Fatalf("made anew:\n%s\nwas\n%s", second, first)
	}

	b.exec("ALTER TABLE tacho.position DROP COLUMN altitude")
	b.exec("DROP TABLE tacho.powertrain")
	b.exec("CREATE OR REPLACE VIEW tacho.position_1m AS SELECT 1 AS another")
	b.exec("ALTER TABLE tacho.dead_letters DROP COLUMN detail")
	again()
	b.expect("SELECT table, name FROM system.columns WHERE database = 'tacho' AND (table, name) IN (('position', 'altitude'), ('powertrain', 'device'), ('position_1m', 'signal'), ('dead_letters', 'detail')) ORDER BY table",
		"('dead_letters','detail') ('position','altitude') ('position_1m','signal') ('powertrain','device')")

	// A view over a column that has become wider is made anew: it keeps types.
	add := func(typ string) {
		t.Helper()
		src := schemas.Source{Format: schemas.FormatProto, Text: `syntax = "proto3"; import "google/protobuf/timestamp.proto"; message Tyre { google.protobuf.Timestamp time = 1; optional ` + typ + ` pressure = 2; }`}
		if _, _, err := b.catalog.Add(t.Context(), "tyre", src); err != nil {
			t.Fatal(err)
		}
	}
	view := View{Name: "tyres", Query: "SELECT pressure FROM {db}.tyre", Needs: []string{"tyre"}}
	w, err := New(Config{Log: b.log, Catalog: b.catalog, Partition: events.ControlPartition, Server: b.server, Views: []View{view}})
	if err != nil {
		t.Fatal(err)
	}
	for _, typ := range []string{"int32", "int64"} {
		add(typ)
		if err := w.prepare(t.Context()); err != nil {
			t.Fatal(err)
		}
		b.expect("SELECT type FROM system.columns WHERE database = 'tacho' AND table = 'tyres'", map[string]string{"int32": "('Nullable(Int32)')", "int64": "('Nullable(Int64)')"}[typ])
	}
}

// TestOlderVersionLater: messages of an older version of a schema, read by a
// writer that knew the tables of the newer one, leave the views as that has them.
func TestOlderVersionLater(t *testing.T) {
	b := newBench(t)
	var versions []*schemas.Schema
	for _, fields := range []string{"", "optional double load = 3;"} {
		src := schemas.Source{Format: schemas.FormatProto, Text: `syntax = "proto3"; import "google/protobuf/timestamp.proto"; message Tyre { google.protobuf.Timestamp time = 1; optional double pressure = 2; ` + fields + ` }`}
		s, _, err := b.catalog.Add(t.Context(), "tyre", src)
		if err != nil {
			t.Fatal(err)
		}
		versions = append(versions, s)
	}
	for range 2 { // the second one begins with what the first has made
		w, err := New(Config{Log: b.log, Catalog: b.catalog, Server: b.server})
		if err != nil {
			t.Fatal(err)
		}
		defer w.conn.Close()
		if err := Migrate(t.Context(), b.server); err != nil {
			t.Fatal(err)
		}
		if err := w.prepare(t.Context()); err != nil {
			t.Fatal(err)
		}
		for _, s := range versions {
			if err := w.ensure(t.Context(), s); err != nil {
				t.Fatal(err)
			}
			b.expect("SELECT count() FROM system.columns WHERE database = 'tacho' AND table = 'tyre_1m_wide' AND name IN ('pressure_count', 'load_count')", "(2)")
		}
	}
}

// TestMadeOnce: what one writer of a process has made no other makes again, though it
// looked before that was there.
func TestMadeOnce(t *testing.T) {
	b := newBench(t)
	s, ok := b.catalog.Schemas().Current("position")
	if !ok {
		t.Fatal("no schema")
	}
	if err := Migrate(t.Context(), b.server); err != nil {
		t.Fatal(err)
	}
	shared := &Tables{}
	var writers []*Writer
	for p := range uint16(2) {
		w, err := New(Config{Log: b.log, Catalog: b.catalog, Partition: p, Server: b.server, Tables: shared})
		if err != nil {
			t.Fatal(err)
		}
		defer w.conn.Close()
		if err := w.prepare(t.Context()); err != nil {
			t.Fatal(err)
		}
		writers = append(writers, w)
	}
	var made []string
	for _, w := range writers {
		if err := w.ensure(t.Context(), s); err != nil {
			t.Fatal(err)
		}
		made = append(made, b.query("SELECT name, uuid FROM system.tables WHERE database = 'tacho' AND startsWith(name, 'position') ORDER BY name"))
	}
	if made[0] != made[1] || strings.Count(made[0], "position") != 5 {
		t.Errorf("the first made\n%s\nthe second\n%s", made[0], made[1])
	}
}

// BenchmarkStart prepares the tables of 100 message types that are there: as a
// start does it, and by a statement for each.
func BenchmarkStart(b *testing.B) {
	bb := newBench(b)
	for i := range 100 {
		src := schemas.Source{Format: schemas.FormatProto, Text: fmt.Sprintf(`syntax = "proto3"; import "google/protobuf/timestamp.proto"; message M { google.protobuf.Timestamp time = 1; optional double a = 2; optional int64 b = 3; optional string c%d = 4; }`, i)}
		if _, _, err := bb.catalog.Add(b.Context(), fmt.Sprintf("type_%d", i), src); err != nil {
			b.Fatal(err)
		}
	}
	prepare := func(b *testing.B, known bool) {
		w, err := New(Config{Log: bb.log, Catalog: bb.catalog, Partition: events.ControlPartition, Server: bb.server})
		if err != nil {
			b.Fatal(err)
		}
		defer w.conn.Close()
		if err := Migrate(b.Context(), bb.server); err != nil {
			b.Fatal(err)
		}
		if known {
			if err := w.prepare(b.Context()); err != nil {
				b.Fatal(err)
			}
			return
		}
		for _, s := range bb.catalog.Schemas().All() {
			if err := w.ensure(b.Context(), s); err != nil {
				b.Fatal(err)
			}
		}
	}
	prepare(b, true)
	for _, known := range []bool{true, false} {
		b.Run(map[bool]string{true: "known", false: "asked"}[known], func(b *testing.B) {
			for b.Loop() {
				prepare(b, known)
			}
		})
	}
}
