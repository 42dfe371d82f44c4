package node

import (
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
)

// lockFolder makes the data folder this process's own until it ends.
func lockFolder(dir string) (*os.File, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("data folder: %w", err)
	}
	f, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("data folder: %w", err)
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		who := "another process"
		if b, _ := os.ReadFile(f.Name()); len(b) > 0 {
			who = "process " + strings.TrimSpace(string(b))
		}
		f.Close()
		if errors.Is(err, syscall.EWOULDBLOCK) {
			return nil, fmt.Errorf("data folder %s is in use by %s: stop it, or choose another folder with --data", dir, who)
		}
		return nil, fmt.Errorf("lock data folder %s: %w", dir, err)
	}
	err = f.Truncate(0)
	if err == nil {
		_, err = f.WriteAt(fmt.Appendf(nil, "%d\n", os.Getpid()), 0)
	}
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("lock data folder %s: %w", dir, err)
	}
	return f, nil
}

// secret reads a password of the data folder, making it, mode 0600, when there
// is none. An empty file is none: a full disk leaves such.
func secret(path string) (string, error) {
	b, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) || err == nil && strings.TrimSpace(string(b)) == "" {
		b = []byte(newSecret() + "\n")
		err = os.WriteFile(path, b, 0o600)
	}
	if err != nil {
		return "", fmt.Errorf("password file: %w", err)
	}
	return strings.TrimSpace(string(b)), nil
}

func newSecret() string {
	var random [24]byte
	_, _ = rand.Read(random[:]) // never fails, see crypto/rand
	return base64.RawURLEncoding.EncodeToString(random[:])
}

// Addresses says where a node listens and where its secrets are. It is written
// to addresses.json in the data folder while the node runs.
type Addresses struct {
	MQTT                   string `json:"mqtt,omitempty"`
	HTTP                   string `json:"http,omitempty"`
	NATS                   string `json:"nats,omitempty"`
	ClickHouseNative       string `json:"clickhouse_native,omitempty"`
	ClickHouseHTTP         string `json:"clickhouse_http,omitempty"`
	ClickHouseUser         string `json:"clickhouse_user,omitempty"`
	ClickHousePasswordFile string `json:"clickhouse_password_file,omitempty"`
	NATSUser               string `json:"nats_user,omitempty"`
	NATSPasswordFile       string `json:"nats_password_file,omitempty"`
	AdminTokenFile         string `json:"admin_token_file,omitempty"`
	PID                    int    `json:"pid"`
}

const addressesFile = "addresses.json"

func (a Addresses) write(dir string) error {
	b, err := json.MarshalIndent(a, "", "  ")
	if err != nil {
		return err
	}
	tmp := filepath.Join(dir, addressesFile+".new")
	if err := os.WriteFile(tmp, append(b, '\n'), 0o600); err != nil {
		return fmt.Errorf("write addresses: %w", err)
	}
	return os.Rename(tmp, filepath.Join(dir, addressesFile))
}
