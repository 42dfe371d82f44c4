package engine

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"regexp"
)

// Config of an engine.
type Config struct {
	Dir     string // everything the engine keeps
	Library string // from Fetch

	Host                 string // to listen on; "" is 127.0.0.1
	NativePort, HTTPPort int    // 0: a free one

	Database                        string // the one the users may see; "" is tacho
	WriterPassword, AnalystPassword string
	Memory                          int64 // bytes the server may use; 0 is DefaultMemory
	DiskReserve                     int64 // bytes of the disk that inserts leave free
	Sync                            bool  // sync every part before its insert is acknowledged

	Logger *slog.Logger
}

var databaseName = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]*$`)

func (c *Config) complete() error {
	if c.Host == "" {
		c.Host = "127.0.0.1"
	}
	if c.Database == "" {
		c.Database = "tacho"
	}
	if c.Memory == 0 {
		c.Memory = DefaultMemory()
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	if !databaseName.MatchString(c.Database) {
		return fmt.Errorf("database %q: letters, digits and _ are possible", c.Database)
	}
	if c.WriterPassword == "" || c.AnalystPassword == "" {
		return errors.New("both users need a password")
	}
	var err error
	if c.Dir, err = filepath.Abs(c.Dir); err != nil {
		return err
	}
	return os.MkdirAll(c.Dir, 0o700)
}
