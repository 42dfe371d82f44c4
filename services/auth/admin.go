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

// AdminFile is the file in the data folder that holds the admin token.
const AdminFile = "admin.token"

// An Admin recognizes the administrator.
type Admin struct{ digest digest }

// AdminToken reads the admin token of a data folder, and on the first start
// creates it, readable by the owner alone. A file that others could read is
// refused: what it holds may be known.
func AdminToken(dataDir string) (*Admin, error) {
	path := filepath.Join(dataDir, AdminFile)
	token, err := readAdmin(path)
	if errors.Is(err, fs.ErrNotExist) {
		if err = createAdmin(path); err == nil {
			token, err = readAdmin(path)
		}
	}
	if err != nil {
		return nil, fmt.Errorf("admin token: %w", err)
	}
	d, ok := digestOf(token)
	if !ok || len(token) < len(tokenPrefix)+32 {
		return nil, fmt.Errorf("admin token: %s holds no token of ours; remove the file and start again for a new one", path)
	}
	return &Admin{d}, nil
}

// Check tells in constant time whether token is the administrator's.
func (a *Admin) Check(token string) bool {
	d, ok := digestOf(token)
	return subtle.ConstantTimeCompare(d[:], a.digest[:]) == 1 && ok
}

func readAdmin(path string) (string, error) {
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

// createAdmin puts a whole, synced file in place or leaves what another
// process put there first.
func createAdmin(path string) error {
	f, err := os.CreateTemp(filepath.Dir(path), "."+AdminFile+"-*") // mode 0600
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
