package engine

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
)

// TestWrongLibrary: a library that is not the released one is never used.
func TestWrongLibrary(t *testing.T) {
	dir := t.TempDir()
	library := filepath.Join(dir, "libchdb-"+PackageVersion+".so")
	if err := os.WriteFile(library, []byte("not a library"), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := Fetch(t.Context(), dir, nil); !errors.Is(err, ErrChecksum) {
		t.Fatalf("want a wrong checksum, got %v", err)
	}
	archive := filepath.Join(dir, "x.tgz")
	if err := os.WriteFile(archive, []byte("not an archive"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := unpack(archive, filepath.Join(dir, "out")); !errors.Is(err, ErrChecksum) {
		t.Fatalf("want a wrong checksum, got %v", err)
	}
}
