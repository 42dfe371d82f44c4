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
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"
)

// download brings the library into dir. Until it is whole and verified it has
// another name.
func (r release) download(ctx context.Context, dir string, w io.Writer) error {
	npm, err := exec.LookPath("npm")
	if err != nil {
		return fmt.Errorf("%w (%w)", ErrNPM, err)
	}
	// What a killed predecessor left: we have the lock, nobody works there.
	if left, err := filepath.Glob(filepath.Join(dir, "fetch-*")); err == nil {
		for _, old := range left {
			if err := os.RemoveAll(old); err != nil {
				return err
			}
		}
	}
	tmp, err := os.MkdirTemp(dir, "fetch-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(tmp)
	archive, err := r.pack(ctx, npm, tmp, w)
	if err != nil {
		return err
	}
	unpacked := filepath.Join(tmp, "libchdb.so")
	if err := r.unpack(ctx, archive, unpacked, newMeter(w, "unpacking ClickHouse", r.libraryBytes)); err != nil {
		return err
	}
	if err := os.Rename(unpacked, r.path(dir)); err != nil {
		return err
	}
	info, err := os.Stat(r.path(dir))
	if err != nil {
		return err
	}
	return r.approve(r.path(dir), info)
}

// pack lets npm bring the package. npm's own cache is put beside it: there the
// bytes can be seen coming, and nothing of them stays.
func (r release) pack(ctx context.Context, npm, tmp string, w io.Writer) (archive string, err error) {
	cache := filepath.Join(tmp, "npm")
	cmd := exec.CommandContext(ctx, npm, "pack", "--silent", "--ignore-scripts", "--cache", cache, "--pack-destination", tmp, r.name+"@"+r.version)
	cmd.Dir = tmp
	// npm has children, which would go on without it.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	m := newMeter(w, "fetching ClickHouse "+r.version, r.packageBytes)
	watching, stop := context.WithCancel(ctx)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for watching.Err() == nil {
			m.at(folderBytes(cache))
			wait(watching, 200*time.Millisecond)
		}
	}()
	out, err := cmd.CombinedOutput()
	stop()
	<-ended
	m.end(err == nil)
	if ctx.Err() != nil {
		return "", ctx.Err()
	}
	if err != nil {
		return "", fmt.Errorf("npm pack %s@%s: %w: %s", r.name, r.version, err, out)
	}
	archives, err := filepath.Glob(filepath.Join(tmp, "*.tgz"))
	if err != nil || len(archives) != 1 {
		return "", fmt.Errorf("npm pack %s@%s left %d archives", r.name, r.version, len(archives))
	}
	return archives[0], nil
}

// folderBytes is what the files of a folder take; 0 for one that is not there.
func folderBytes(dir string) int64 {
	var n int64
	_ = filepath.WalkDir(dir, func(_ string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return nil // npm moves its files about
		}
		if info, err := d.Info(); err == nil {
			n += info.Size()
		}
		return nil
	})
	return n
}

// unpack takes the library out of the package, verifying both on the way. What
// it has written is to be thrown away when it fails.
func (r release) unpack(ctx context.Context, archive, to string, m *meter) error {
	f, err := os.Open(archive)
	if err != nil {
		return err
	}
	defer f.Close()
	packed := sha512.New()
	in := io.TeeReader(bufio.NewReaderSize(f, 1<<20), packed)
	library, err := findInPackage(in)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrChecksum, err)
	}
	out, err := os.OpenFile(to, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	defer out.Close()
	unpacked := sha256.New()
	// No more than it should be: a package that is not ours may be anything.
	for n := int64(0); n <= r.libraryBytes; m.at(n) {
		some, err := io.CopyN(io.MultiWriter(out, unpacked), library, 4<<20)
		n += some
		if errors.Is(err, io.EOF) {
			break
		}
		if ctx.Err() != nil {
			m.end(false)
			return ctx.Err()
		}
		if err != nil {
			m.end(false)
			var disk *fs.PathError
			if !errors.As(err, &disk) {
				err = fmt.Errorf("%w: %w", ErrChecksum, err)
			}
			return fmt.Errorf("unpack: %w", err)
		}
	}
	if _, err := io.Copy(io.Discard, in); err != nil { // the rest counts for the package's sum
		return err
	}
	err = errors.Join(equal("package", packed, base64.StdEncoding.EncodeToString, r.packageSHA512),
		equal("library", unpacked, hex.EncodeToString, r.librarySHA256))
	m.end(err == nil)
	if err != nil {
		return err
	}
	if err := out.Sync(); err != nil {
		return err
	}
	return out.Close()
}

// findInPackage reads up to the library's first byte.
func findInPackage(in io.Reader) (io.Reader, error) {
	zipped, err := gzip.NewReader(in)
	if err != nil {
		return nil, err
	}
	files := tar.NewReader(zipped)
	for {
		h, err := files.Next()
		if err != nil {
			return nil, fmt.Errorf("look for libchdb.so: %w", err)
		}
		if h.Name == "package/libchdb.so" {
			return files, nil
		}
	}
}

func equal(what string, sum hash.Hash, encode func([]byte) string, want string) error {
	if got := encode(sum.Sum(nil)); got != want {
		return fmt.Errorf("%s is %s, released was %s: %w: what the registry sent is not used; try again, or ask whoever runs the registry", what, got, want, ErrChecksum)
	}
	return nil
}
