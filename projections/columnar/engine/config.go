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
	Reserved             bool   // the ports are kept by Reserve

	Database                                       string // the one the users may see; "" is tacho
	WriterPassword, AnalystPassword, QueryPassword string

	Cluster Cluster

	Query       QueryLimits
	Memory      int64 // bytes the server may use; 0 is DefaultMemory
	DiskReserve int64 // bytes of the disk that inserts leave free
	Sync        bool  // sync every part before its insert is acknowledged

	Logger *slog.Logger
}

// A Cluster is the engines, this one among them, that ask one another through
// Distributed tables. The zero value is none. It is for tests: whoever may query an
// engine can read the secret in its folder, and ask the others as anybody.
type Cluster struct {
	Name   string
	Shards []string // the native address of each, host:port
	Secret string   // by which they know each other; a query is everywhere that of the user who asks
}

// QueryLimits bound each statement of the user query; no statement can lift them.
type QueryLimits struct {
	Seconds int   // from its start to its last row taken; 0 is 300
	Rows    int64 // of its result; 0 is no limit
	Memory  int64 // bytes; 0 is a quarter of the server's
	Length  int   // of its text, bytes; 0 is 256 KiB
	AtOnce  int   // at work side by side; 0 is 20
}

func (l *QueryLimits) complete(memory int64) {
	if l.Seconds == 0 {
		l.Seconds = 300
	}
	if l.Memory == 0 {
		l.Memory = memory / 4
	}
	if l.Length == 0 {
		l.Length = 256 << 10
	}
	if l.AtOnce == 0 {
		l.AtOnce = 20
	}
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
	if c.Cluster.Name != "" && !databaseName.MatchString(c.Cluster.Name) {
		return fmt.Errorf("cluster %q: letters, digits and _ are possible", c.Cluster.Name)
	}
	c.Query.complete(c.Memory)
	if c.WriterPassword == "" || c.AnalystPassword == "" || c.QueryPassword == "" {
		return errors.New("each user needs a password")
	}
	var err error
	if c.Dir, err = filepath.Abs(c.Dir); err != nil {
		return err
	}
	return os.MkdirAll(c.Dir, 0o700)
}
