package engine

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

// A registry stands in for npm and what it would bring: a script of that name
// that copies an archive, and counts how often it was asked to.
type registry struct {
	release
	dir string
}

func newRegistry(t *testing.T, library string) *registry {
	t.Helper()
	r := &registry{dir: t.TempDir()}
	archive := pack(t, library)
	sum, lib := sha512.Sum512(archive), sha256.Sum256([]byte(library))
	r.release = release{
		name: "library", version: "1", packageBytes: int64(len(archive)), libraryBytes: int64(len(library)),
		packageSHA512: base64.StdEncoding.EncodeToString(sum[:]), librarySHA256: hex.EncodeToString(lib[:]),
	}
	r.send(t, archive)
	r.script(t, `echo asked >> "$HERE/asked"; while [ "$1" != --pack-destination ]; do shift; done; cp "$HERE/archive" "$2/library-1.tgz"`)
	return r
}

func pack(t *testing.T, library string) []byte {
	t.Helper()
	var b bytes.Buffer
	zipped := gzip.NewWriter(&b)
	files := tar.NewWriter(zipped)
	for _, f := range []struct{ name, content string }{{"package/package.json", "{}"}, {"package/libchdb.so", library}, {"package/README.md", "x"}} {
		err := files.WriteHeader(&tar.Header{Name: f.name, Mode: 0o644, Size: int64(len(f.content))})
		if err == nil {
			_, err = files.Write([]byte(f.content))
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(files.Close(), zipped.Close()); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func (r *registry) send(t *testing.T, archive []byte) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(r.dir, "archive"), archive, 0o644); err != nil {
		t.Fatal(err)
	}
}

func (r *registry) script(t *testing.T, body string) {
	t.Helper()
	text := "#!/bin/sh\nHERE=" + r.dir + "\n" + body + "\n"
	if err := os.WriteFile(filepath.Join(r.dir, "npm"), []byte(text), 0o755); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", r.dir+":"+os.Getenv("PATH"))
}

func (r *registry) asked() int {
	b, _ := os.ReadFile(filepath.Join(r.dir, "asked"))
	return strings.Count(string(b), "asked")
}

// files lists what is in a folder, without the lock.
func files(t *testing.T, dir string) string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, e := range entries {
		if e.Name() != "lock" {
			names = append(names, e.Name())
		}
	}
	return strings.Join(names, " ")
}

func TestFetchOnce(t *testing.T) {
	r := newRegistry(t, strings.Repeat("library ", 1<<20))
	dir := filepath.Join(t.TempDir(), "new", "cache")
	if _, err := r.find(dir); !errors.Is(err, fs.ErrNotExist) {
		t.Fatalf("found before it was fetched: %v", err)
	}
	var said bytes.Buffer
	path, err := r.fetch(t.Context(), dir, &said)
	if err != nil {
		t.Fatal(err)
	}
	if b, err := os.ReadFile(path); err != nil || len(b) != 8<<20 {
		t.Fatal(len(b), err)
	}
	for _, want := range []string{"fetching ClickHouse 1: ", "unpacking ClickHouse: 8 of 8 MB, 100 %\n"} {
		if !strings.Contains(said.String(), want) {
			t.Errorf("no %q in\n%s", want, said.String())
		}
	}
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			if again, err := r.fetch(t.Context(), dir, &bytes.Buffer{}); err != nil || again != path {
				t.Error(again, err)
			}
		})
	}
	wg.Wait()
	if r.asked() != 1 {
		t.Fatalf("npm was asked %d times", r.asked())
	}
	if got := files(t, dir); got != "libchdb-1.so libchdb-1.so.verified" {
		t.Fatal(got)
	}
}

// TestFetchTogether: processes that find nothing at once ask npm once.
func TestFetchTogether(t *testing.T) {
	r := newRegistry(t, "library")
	dir := t.TempDir()
	// What a killed process left is cleared away.
	if err := os.MkdirAll(filepath.Join(dir, "fetch-123", "npm"), 0o755); err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			if _, err := r.fetch(t.Context(), dir, &bytes.Buffer{}); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if got := files(t, dir); got != "libchdb-1.so libchdb-1.so.verified" || r.asked() != 1 {
		t.Fatal(got, r.asked())
	}
}

// TestWrongPackage: whatever the registry sends that was not released is never
// there under the library's name.
func TestWrongPackage(t *testing.T) {
	good := pack(t, "library")
	flipped := bytes.Clone(good)
	flipped[len(flipped)/2] ^= 1
	var empty bytes.Buffer
	zipped := gzip.NewWriter(&empty)
	if err := errors.Join(tar.NewWriter(zipped).Close(), zipped.Close()); err != nil {
		t.Fatal(err)
	}
	for name, archive := range map[string][]byte{
		"another library": pack(t, "LIBRARY"), "a larger library": pack(t, strings.Repeat("library", 4<<20)), "a bit flipped": flipped,
		"cut short": good[:len(good)/2], "not an archive": []byte("<html>"), "nothing": {}, "no library": empty.Bytes(),
		"more behind it": append(bytes.Clone(good), 'x'),
	} {
		t.Run(name, func(t *testing.T) {
			r := newRegistry(t, "library")
			r.send(t, archive)
			dir := t.TempDir()
			if _, err := r.fetch(t.Context(), dir, &bytes.Buffer{}); !errors.Is(err, ErrChecksum) {
				t.Fatalf("want a wrong checksum, got %v", err)
			}
			if got := files(t, dir); got != "" {
				t.Fatalf("left %s", got)
			}
		})
	}
}

// TestWrongLibrary: a library in the cache that is not the released one is
// never used, and the error says what to do.
func TestWrongLibrary(t *testing.T) {
	dir := t.TempDir()
	library := released().path(dir)
	if err := os.WriteFile(library, []byte("not a library"), 0o644); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		for _, get := range []func() (string, error){
			func() (string, error) { return Find(dir) },
			func() (string, error) { return Fetch(t.Context(), dir, nil) },
		} {
			_, err := get()
			if !errors.Is(err, ErrChecksum) || !strings.Contains(err.Error(), "delete the file") {
				t.Fatalf("want a wrong checksum and a remedy, got %v", err)
			}
		}
	}
}

// TestLibraryChangedLater: the stamp that spares a verification is of one file.
func TestLibraryChangedLater(t *testing.T) {
	r := newRegistry(t, "library")
	dir := t.TempDir()
	path, err := r.fetch(t.Context(), dir, &bytes.Buffer{})
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte("LIBRARY"), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := r.find(dir); !errors.Is(err, ErrChecksum) {
		t.Fatalf("want a wrong checksum, got %v", err)
	}
}

func TestFetchFails(t *testing.T) {
	r := newRegistry(t, "library")
	dir := t.TempDir()
	r.script(t, `echo no network >&2; exit 1`)
	if _, err := r.fetch(t.Context(), dir, &bytes.Buffer{}); err == nil || !strings.Contains(err.Error(), "no network") {
		t.Fatalf("npm's own words are missing: %v", err)
	}
	r.script(t, `sleep 60`)
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if _, err := r.fetch(ctx, dir, &bytes.Buffer{}); !errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("want the end of the context, got %v", err)
	}
	t.Setenv("PATH", "/nowhere")
	if _, err := r.fetch(t.Context(), dir, &bytes.Buffer{}); !errors.Is(err, ErrNPM) || !strings.Contains(err.Error(), "--clickhouse") {
		t.Fatalf("want that npm is missing, got %v", err)
	}
	if got := files(t, dir); got != "" {
		t.Fatalf("left %s", got)
	}
}

func TestMeter(t *testing.T) {
	var b bytes.Buffer
	m := &meter{w: &b, terminal: true, what: "fetching", total: 10e6}
	m.at(5e6)
	m.end(true)
	want := fmt.Sprintf("\rfetching [%s%s] 5 of 10 MB, 50 %%\x1b[K\rfetching [%s] 10 of 10 MB, 100 %%\x1b[K\n",
		strings.Repeat("=", 15), strings.Repeat(" ", 15), strings.Repeat("=", 30))
	if b.String() != want {
		t.Fatalf("%q\nwant\n%q", b.String(), want)
	}
}
