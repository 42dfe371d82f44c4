package auth

import (
	"bytes"
	"crypto/subtle"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// The files in the data folder that hold the tokens of people.
const (
	AdminFile   = "admin.token"   // may do everything
	AnalystFile = "analyst.token" // may ask /v1/query, and nothing else
)

// A Key recognizes who holds the token of a file.
type Key struct{ digest digest }

// AdminToken reads the admin token of a data folder, and on the first start
// creates it, readable by the owner alone. A file that others could read is
// refused: what it holds may be known.
func AdminToken(dataDir string) (*Key, error) { return fileToken("admin", dataDir, AdminFile) }

// AnalystToken is AdminToken for those who only ask ClickHouse.
func AnalystToken(dataDir string) (*Key, error) { return fileToken("analyst", dataDir, AnalystFile) }

func fileToken(who, dataDir, file string) (*Key, error) {
	path := filepath.Join(dataDir, file)
	token, err := readToken(path)
	if errors.Is(err, fs.ErrNotExist) {
		if err = createToken(path); err == nil {
			token, err = readToken(path)
		}
	}
	if err != nil {
		return nil, fmt.Errorf("%s token: %w", who, err)
	}
	d, ok := digestOf(token)
	if !ok || len(token) < len(tokenPrefix)+32 {
		return nil, fmt.Errorf("%s token: %s holds no token of ours; remove the file and start again for a new one", who, path)
	}
	return &Key{d}, nil
}

// Check tells in constant time whether token is the key's. No key has any.
func (a *Key) Check(token string) bool {
	if a == nil {
		return false
	}
	d, ok := digestOf(token)
	return subtle.ConstantTimeCompare(d[:], a.digest[:]) == 1 && ok
}

func readToken(path string) (string, error) {
	info, err := os.Stat(path)
	if err != nil {
		return "", err
	}
	if mode := info.Mode().Perm(); mode&0o077 != 0 {
		return "", fmt.Errorf("%s has mode %04o and others may have read it; remove the file for a new token, or chmod 600 it to trust the old one", path, mode)
	}
	text, err := os.ReadFile(path)
	return string(bytes.TrimSpace(text)), err
}

// createToken puts a whole, synced file in place or leaves what another
// process put there first.
func createToken(path string) error {
	f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+"-*") // mode 0600
	if err != nil {
		return err
	}
	defer func() { _ = os.Remove(f.Name()) }()
	token, _ := newToken()
	_, err = f.WriteString(token + "\n")
	if err := errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	if err := os.Link(f.Name(), path); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	dir, err := os.Open(filepath.Dir(path))
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}
