package engine

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"os"
)

// verify holds a library from the cache to its checksum, once per file: a stamp
// with its size and time spares the seconds afterwards.
func (r release) verify(path string) error {
	info, err := os.Stat(path)
	if err != nil {
		return err
	}
	if b, err := os.ReadFile(stampOf(path)); err == nil && string(b) == r.stamp(info) {
		return nil
	}
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	sum := sha256.New()
	if _, err := io.Copy(sum, f); err != nil {
		return err
	}
	if got := hex.EncodeToString(sum.Sum(nil)); got != r.librarySHA256 {
		return fmt.Errorf("%s: sha256 is %s, released was %s: %w; delete the file to have it fetched again", path, got, r.librarySHA256, ErrChecksum)
	}
	return r.approve(path, info)
}

func (r release) approve(path string, info os.FileInfo) error {
	_ = os.WriteFile(stampOf(path), []byte(r.stamp(info)), 0o644) // a cache that is read-only is verified every time
	return nil
}

func stampOf(path string) string { return path + ".verified" }

func (r release) stamp(info os.FileInfo) string {
	return fmt.Sprintf("%s %d %d\n", r.librarySHA256, info.Size(), info.ModTime().UnixNano())
}
