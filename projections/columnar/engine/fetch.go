package engine

import (
	"archive/tar"
	"bufio"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"syscall"
	"time"
)

// The one release this program is built and tested for.
const (
	Package        = "@chdb/lib-linux-x64-gnu"
	PackageVersion = "26.7.3-stable.1"

	packageSHA512 = "XP97mMqnc5tZpKQywR8N7cLTsHNiTmHr30pC5mzo3jWmukjKn2IBa60c2B/gWUNcuFjOMjWoorQICCqBVj5wpw=="
	librarySHA256 = "36ad4e999882821ef13cf2d0f52c93f48e6ee1b4498b35a201c23ce4b8d15bf5"
	librarySize   = 593_000_000 // about, for the progress line
)

// ErrChecksum tells that what was fetched or found is not what was released.
var ErrChecksum = errors.New("checksum is wrong")

// ErrPlatform tells that the embedded engine does not exist for this machine.
var ErrPlatform = errors.New("the embedded ClickHouse runs on linux/amd64 only; pass --clickhouse with the address of a server")

// CacheDir is where the library is kept: TACHO_CACHE, or tachograph in the
// user's cache directory.
func CacheDir() (string, error) {
	if dir := os.Getenv("TACHO_CACHE"); dir != "" {
		return dir, nil
	}
	dir, err := os.UserCacheDir()
	if err != nil {
		return "", fmt.Errorf("find a cache directory (set TACHO_CACHE): %w", err)
	}
	return filepath.Join(dir, "tachograph"), nil
}

// Fetch returns the path of the library in dir, fetching it with npm when it
// is not there. Processes that fetch at once wait for each other. Progress, a
// line a step, goes to progress, which may be nil.
//
// Errors: ErrPlatform, ErrChecksum.
func Fetch(ctx context.Context, dir string, progress io.Writer) (string, error) {
	if runtime.GOOS != "linux" || runtime.GOARCH != "amd64" {
		return "", ErrPlatform
	}
	if progress == nil {
		progress = io.Discard
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
	library := filepath.Join(dir, "libchdb-"+PackageVersion+".so")
	if _, err := os.Stat(library); err == nil {
		return library, verify(library)
	}
	if err := fetch(ctx, dir, library, progress); err != nil {
		return fail(err)
	}
	return library, nil
}

// verify holds a library from the cache to its checksum, once per file: a
// stamp with its size and time spares the two seconds afterwards.
func verify(library string) error {
	info, err := os.Stat(library)
	if err != nil {
		return err
	}
	stamp := fmt.Sprintf("%s %d %d\n", librarySHA256, info.Size(), info.ModTime().UnixNano())
	if b, err := os.ReadFile(library + ".verified"); err == nil && string(b) == stamp {
		return nil
	}
	f, err := os.Open(library)
	if err != nil {
		return err
	}
	defer f.Close()
	sum := sha256.New()
	if _, err := io.Copy(sum, f); err != nil {
		return err
	}
	if got := hex.EncodeToString(sum.Sum(nil)); got != librarySHA256 {
		return fmt.Errorf("%s: sha256 is %s, released was %s: %w; delete the file to have it fetched again", library, got, librarySHA256, ErrChecksum)
	}
	return os.WriteFile(library+".verified", []byte(stamp), 0o644)
}

func fetch(ctx context.Context, dir, library string, progress io.Writer) error {
	tmp, err := os.MkdirTemp(dir, "fetch-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(tmp)
	fmt.Fprintf(progress, "fetching ClickHouse 26.7 (%s %s, 178 MB), once\n", Package, PackageVersion)
	if _, err := exec.LookPath("npm"); err != nil {
		return fmt.Errorf("npm is needed to fetch the library: install Node.js, or pass --clickhouse with the address of a server: %w", err)
	}
	cmd := exec.CommandContext(ctx, "npm", "pack", "--silent", "--pack-destination", tmp, Package+"@"+PackageVersion)
	cmd.Dir = tmp
	done := make(chan struct{})
	go watch(done, tmp, progress)
	out, err := cmd.CombinedOutput()
	close(done)
	if err != nil {
		return fmt.Errorf("npm pack: %w: %s", err, out)
	}
	archives, err := filepath.Glob(filepath.Join(tmp, "*.tgz"))
	if err != nil || len(archives) != 1 {
		return fmt.Errorf("npm pack left %d archives", len(archives))
	}
	fmt.Fprintln(progress, "unpacking and verifying")
	unpacked := filepath.Join(tmp, "libchdb.so")
	if err := unpack(archives[0], unpacked); err != nil {
		return err
	}
	if err := os.Rename(unpacked, library); err != nil {
		return err
	}
	info, err := os.Stat(library)
	if err != nil {
		return err
	}
	stamp := fmt.Sprintf("%s %d %d\n", librarySHA256, info.Size(), info.ModTime().UnixNano())
	return os.WriteFile(library+".verified", []byte(stamp), 0o644)
}

// watch reports how much npm has brought so far. npm downloads into its own
// cache first, so until the archive appears there is only the time to tell.
func watch(done <-chan struct{}, dir string, progress io.Writer) {
	tick := time.NewTicker(2 * time.Second)
	defer tick.Stop()
	start := time.Now()
	for {
		select {
		case <-done:
			return
		case <-tick.C:
			var size int64
			if archives, _ := filepath.Glob(filepath.Join(dir, "*.tgz")); len(archives) == 1 {
				if info, err := os.Stat(archives[0]); err == nil {
					size = info.Size()
				}
			}
			fmt.Fprintf(progress, "  %3.0f s, %d of 178 MB written\n", time.Since(start).Seconds(), size/1_000_000)
		}
	}
}

// unpack takes the library out of the package, verifying both on the way.
func unpack(archive, to string) error {
	f, err := os.Open(archive)
	if err != nil {
		return err
	}
	defer f.Close()
	packed := sha512.New()
	in := io.TeeReader(bufio.NewReaderSize(f, 1<<20), packed)
	zipped, err := gzip.NewReader(in)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrChecksum, err)
	}
	files := tar.NewReader(zipped)
	for {
		h, err := files.Next()
		if err == io.EOF {
			return fmt.Errorf("the package holds no libchdb.so: %w", ErrChecksum)
		}
		if err != nil {
			return fmt.Errorf("%w: %w", ErrChecksum, err)
		}
		if h.Name == "package/libchdb.so" {
			break
		}
	}
	out, err := os.OpenFile(to, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	defer out.Close()
	unpacked := sha256.New()
	if _, err := io.Copy(io.MultiWriter(out, unpacked), files); err != nil {
		return fmt.Errorf("unpack: %w", err)
	}
	if _, err := io.Copy(io.Discard, in); err != nil { // the rest counts for the package's sum
		return err
	}
	if err := equalSum("package", packed, base64.StdEncoding.EncodeToString, packageSHA512); err != nil {
		return err
	}
	if err := equalSum("library", unpacked, hex.EncodeToString, librarySHA256); err != nil {
		return err
	}
	if err := out.Sync(); err != nil {
		return err
	}
	return out.Close()
}

func equalSum(what string, sum hash.Hash, encode func([]byte) string, want string) error {
	if got := encode(sum.Sum(nil)); got != want {
		return fmt.Errorf("%s is %s, released was %s: %w", what, got, want, ErrChecksum)
	}
	return nil
}

// lock holds a file's lock until the function it returns is called.
func lock(ctx context.Context, path string) (func(), error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return nil, err
	}
	for {
		err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
		if err == nil {
			return func() { f.Close() }, nil
		}
		if err != syscall.EWOULDBLOCK {
			f.Close()
			return nil, fmt.Errorf("lock %s: %w", path, err)
		}
		select {
		case <-ctx.Done():
			f.Close()
			return nil, fmt.Errorf("wait for another process that fetches: %w", ctx.Err())
		case <-time.After(200 * time.Millisecond):
		}
	}
}
