package engine

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
)

// PackageVersion is the version of the npm package that the engine comes from.
const PackageVersion = "26.7.3-stable.1"

// A release names the library and what it must be, to the byte.
type release struct {
	name, version string
	packageSHA512 string // base64, as npm has it
	packageBytes  int64  // for the progress shown
	librarySHA256 string // hex
	libraryBytes  int64
}

// released is the one release that this program is built and tested for.
func released() release {
	return release{
		name: "@chdb/lib-linux-x64-gnu", version: PackageVersion,
		packageSHA512: "XP97mMqnc5tZpKQywR8N7cLTsHNiTmHr30pC5mzo3jWmukjKn2IBa60c2B/gWUNcuFjOMjWoorQICCqBVj5wpw==",
		packageBytes:  177817999,
		librarySHA256: "36ad4e999882821ef13cf2d0f52c93f48e6ee1b4498b35a201c23ce4b8d15bf5",
		libraryBytes:  566330096,
	}
}

// What a caller of Fetch and Find can act on.
var (
	ErrChecksum = errors.New("checksum is wrong")
	ErrPlatform = errors.New("the embedded ClickHouse runs on linux/amd64 only: pass --clickhouse with the address of a server")
	ErrNPM      = errors.New("npm is needed to fetch it: install Node.js with npm, or pass --clickhouse with the address of a server")
)

// CacheDir is where the library is kept: TACHO_CACHE, or tachograph in the
// user's cache directory.
func CacheDir() (string, error) {
	if dir := os.Getenv("TACHO_CACHE"); dir != "" {
		return filepath.Abs(dir)
	}
	dir, err := os.UserCacheDir()
	if err != nil {
		return "", fmt.Errorf("find a cache directory (set TACHO_CACHE): %w", err)
	}
	return filepath.Join(dir, "tachograph"), nil
}

// Find returns the path of the library in dir without fetching it.
//
// Errors: fs.ErrNotExist when it is not there, ErrPlatform, ErrChecksum.
func Find(dir string) (string, error) {
	if err := platform(); err != nil {
		return "", err
	}
	return released().find(dir)
}

// Fetch returns the path of the library in dir, fetching it with npm when it
// is not there. Processes that fetch at once wait for each other. Progress goes
// to w, which may be nil: a bar on a terminal, else a line now and then.
//
// Errors: ErrPlatform, ErrNPM, ErrChecksum.
func Fetch(ctx context.Context, dir string, w io.Writer) (string, error) {
	if err := platform(); err != nil {
		return "", err
	}
	if w == nil {
		w = io.Discard
	}
	return released().fetch(ctx, dir, w)
}

func platform() error {
	if runtime.GOOS != "linux" || runtime.GOARCH != "amd64" {
		return ErrPlatform
	}
	return nil
}

func (r release) path(dir string) string { return filepath.Join(dir, "libchdb-"+r.version+".so") }

func (r release) find(dir string) (string, error) {
	path := r.path(dir)
	if err := r.verify(path); err != nil {
		return "", fmt.Errorf("find ClickHouse: %w", err)
	}
	return path, nil
}

func (r release) fetch(ctx context.Context, dir string, w io.Writer) (string, error) {
	path, err := r.find(dir)
	if !errors.Is(err, fs.ErrNotExist) {
		return path, err
	}
	fail := func(err error) (string, error) { return "", fmt.Errorf("fetch ClickHouse into %s: %w", dir, err) }
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return fail(err)
	}
	unlock, err := lock(ctx, filepath.Join(dir, "lock"))
	if err != nil {
		return fail(err)
	}
	defer unlock()
	// Another process may have been quicker.
	if path, err := r.find(dir); !errors.Is(err, fs.ErrNotExist) {
		return path, err
	}
	if err := r.download(ctx, dir, w); err != nil {
		return fail(err)
	}
	return r.path(dir), nil
}
