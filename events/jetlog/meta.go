package jetlog

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/minio/highwayhash"
)

// MendMeta mends what a server that was killed in the middle of writing down a
// stream's configuration has left: it writes the file, then the file's checksum, and
// one that finds no checksum, or that of the file before, starts without the stream.
// A checksum that is no older than its file is left alone: the file is damaged then.
// The server must not run.
func MendMeta(storeDir string) error {
	files, err := filepath.Glob(filepath.Join(storeDir, "jetstream", "*", "streams", "*", "meta.inf"))
	if err != nil {
		return fmt.Errorf("mend %s: %w", storeDir, err)
	}
	for _, file := range files {
		if err := mendMeta(file); err != nil {
			return fmt.Errorf("mend %s: %w", file, err)
		}
	}
	return nil
}

func mendMeta(file string) error {
	dir := filepath.Dir(file)
	checksum := filepath.Join(dir, "meta.sum")
	written, err := os.Stat(file)
	if err != nil {
		return err
	}
	summed, err := os.Stat(checksum)
	if err != nil && !errors.Is(err, fs.ErrNotExist) || err == nil && !summed.ModTime().Before(written.ModTime()) {
		return err
	}
	meta, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	var stream struct{ Name string }
	if json.Unmarshal(meta, &stream) != nil || stream.Name != filepath.Base(dir) {
		return nil // not what the server writes in one piece: it says what it thinks of it
	}
	key := sha256.Sum256([]byte(stream.Name))
	hash, err := highwayhash.New64(key[:])
	if err != nil {
		return err
	}
	_, _ = hash.Write(meta) // never fails
	if err := os.WriteFile(checksum+".tmp", []byte(hex.EncodeToString(hash.Sum(nil))), 0o600); err != nil {
		return err
	}
	if err := syncPath(checksum + ".tmp"); err != nil {
		return err
	}
	if err := os.Rename(checksum+".tmp", checksum); err != nil {
		return err
	}
	return syncPath(dir)
}
