package ledger

import (
	"os"
	"path/filepath"
	"testing"
)

func TestFileSurvivesATornLine(t *testing.T) {
	path := filepath.Join(t.TempDir(), "x", "acked")
	l, err := Open(path)
	if err != nil {
		t.Fatal(err)
	}
	a, b := Entry{"car-1", "position", "AAA"}, Entry{"car-2", "position", "BBB"}
	for _, e := range []Entry{a, b, a} {
		if err := l.Add(e); err != nil {
			t.Fatal(err)
		}
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	f, err := os.OpenFile(path, os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteString("car-3\tposi"); err != nil {
		t.Fatal(err)
	}
	f.Close()
	if l, err = Open(path); err != nil {
		t.Fatal(err)
	}
	if l.Len() != 2 || !l.Has(a) || !l.Has(b) {
		t.Fatalf("%d entries", l.Len())
	}
	if err := l.Add(Entry{"car-3", "position", "CCC"}); err != nil {
		t.Fatal(err)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if entries, err := Read(path); err != nil || len(entries) != 3 || entries[2].ID != "CCC" {
		t.Fatal(entries, err)
	}
}

func TestAppend(t *testing.T) {
	path := filepath.Join(t.TempDir(), "x", "acked")
	for _, id := range []string{"AAA", "BBB"} {
		if err := Append(path, []Entry{{"car-1", "position", id}}); err != nil {
			t.Fatal(err)
		}
	}
	if entries, err := Read(path); err != nil || len(entries) != 2 || entries[1].ID != "BBB" {
		t.Fatal(entries, err)
	}
	l, err := Open(path)
	if err != nil || !l.Has(Entry{"car-1", "position", "AAA"}) {
		t.Fatal(err)
	}
	if err := l.Add(Entry{"car\t1", "position", "CCC"}); err == nil {
		t.Error("a tab goes into the file")
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte("one\ttwo\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Read(path); err == nil {
		t.Error("a line with two fields is read")
	}
}
