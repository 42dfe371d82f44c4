package archive

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
)

// save writes a file whole or not at all, synced, and returns its size and
// checksum.
func save(dir, name string, write func(io.Writer) error) (size int64, sum string, err error) {
	f, err := os.CreateTemp(dir, "."+name+"-*")
	if err != nil {
		return 0, "", fmt.Errorf("write %s: %w", name, err)
	}
	defer func() {
		if err != nil {
			err = fmt.Errorf("write %s: %w", name, err)
			_ = os.Remove(f.Name()) // it is the error that counts
		}
	}()
	hash := sha256.New()
	counted := &counter{w: io.MultiWriter(f, hash)}
	err = write(counted)
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return 0, "", err
	}
	if err = errors.Join(os.Chmod(f.Name(), 0o600), os.Rename(f.Name(), filepath.Join(dir, name)), syncDir(dir)); err != nil {
		return 0, "", err
	}
	return counted.n, hex.EncodeToString(hash.Sum(nil)), nil
}

type counter struct {
	w io.Writer
	n int64
}

func (c *counter) Write(b []byte) (int, error) {
	n, err := c.w.Write(b)
	c.n += int64(n)
	return n, err
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}

// sumOf reads a file to its end.
func sumOf(path string) (size int64, sum string, err error) {
	f, err := os.Open(path)
	if err != nil {
		return 0, "", err
	}
	defer f.Close()
	hash := sha256.New()
	if size, err = io.Copy(hash, f); err != nil {
		return 0, "", err
	}
	return size, hex.EncodeToString(hash.Sum(nil)), nil
}
