package columnar

import (
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"net/url"
	"time"

	"github.com/ClickHouse/clickhouse-go/v2"

	"github.com/tachograph/tachograph/events"
	"github.com/tachograph/tachograph/projections"
	"github.com/tachograph/tachograph/projections/catalog"
)

// Config of a writer, which serves one partition of the log.
type Config struct {
	Log       events.Log
	Catalog   *catalog.Catalog
	Partition uint16
	Server    Server

	MaxRows  int           // of a batch, over all tables; 0 is 200,000
	MaxBytes int64         // of a batch in memory; 0 is 64 MiB, 1 GiB the most. Two batches are in memory, and what they took is kept for the next.
	MaxAge   time.Duration // from a batch's first event to its insert, while the server keeps up; 0 is 400 ms
	Patience time.Duration // for one insert, before its outcome is called unknown; 0 is 2 minutes
	Stall    time.Duration // without an event while the log has more, before it is read anew; 0 is 15 s

	Keep        Keep          // for how long
	RollUpEvery time.Duration // between passes over the roll-ups; 0 is 5 s

	// Facts are tables made of control facts; only the writer of the control
	// partition needs them.
	Facts []FactTable

	// Views are made once the tables of Facts are there, in their order.
	Views []View

	// Tables is shared by the writers of one process; nil: this one has its own.
	Tables *Tables

	OnPanic projections.OnPanic

	Logger *slog.Logger

	// Trip, for tests, is called with each event before it is decoded; it may panic.
	Trip func(*events.Event)

	// Fault, for tests, is asked before and after each step that can fail
	// ("insert position", "inserted position", "checkpoint" ...); its error is
	// the step's.
	Fault func(step string) error
}

func (c *Config) complete() error {
	if c.MaxRows == 0 {
		c.MaxRows = 200_000
	}
	if c.MaxBytes == 0 {
		c.MaxBytes = 64 << 20
	}
	c.MaxBytes = min(c.MaxBytes, 1<<30) // Arrow counts a column's bytes with 31 bits
	if c.MaxAge == 0 {
		c.MaxAge = 400 * time.Millisecond
	}
	if c.Patience == 0 {
		c.Patience = 2 * time.Minute
	}
	if c.Stall == 0 {
		c.Stall = 15 * time.Second
	}
	if c.RollUpEvery == 0 {
		c.RollUpEvery = 5 * time.Second
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	if c.Fault == nil {
		c.Fault = func(string) error { return nil }
	}
	if c.Tables == nil {
		c.Tables = &Tables{}
	}
	if c.Log == nil || c.Catalog == nil {
		return errors.New("columnar writer: a log and a catalog are needed")
	}
	return nil
}

// Server is a ClickHouse server, reached over its HTTP interface.
type Server struct {
	URL      string // http://host:8123
	User     string
	Password string
	Database string // "" is tacho
	TLS      *tls.Config
	Shard    Shard // its place among several; see NewShards
}

// shardSuffix is what is added to the name of the database: that one has the
// tables of all shards as one.
const shardSuffix = "_shard"

// Name returns the name of the database that the server's own tables are in.
func (s Server) Name() string {
	name := s.Database
	if name == "" {
		name = "tacho"
	}
	if s.Shard.several() {
		name += shardSuffix
	}
	return name
}

// loopback tells whether the server is on this machine.
func (s Server) loopback() bool {
	u, err := url.Parse(s.URL)
	if err != nil {
		return false
	}
	addr, err := netip.ParseAddr(u.Hostname())
	return err == nil && addr.IsLoopback() || u.Hostname() == "localhost"
}

// Open returns a connection for statements and queries.
func (s Server) Open() (clickhouse.Conn, error) {
	u, err := url.Parse(s.URL)
	if err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
		return nil, fmt.Errorf("open ClickHouse: %q is not of the form http://host:8123", s.URL)
	}
	o := &clickhouse.Options{
		Protocol:    clickhouse.HTTP,
		Addr:        []string{u.Host},
		Auth:        clickhouse.Auth{Username: s.User, Password: s.Password},
		DialTimeout: 5 * time.Second,
		ReadTimeout: time.Minute,
		Compression: &clickhouse.Compression{Method: clickhouse.CompressionNone},
	}
	if u.Scheme == "https" {
		if o.TLS = s.TLS; o.TLS == nil {
			o.TLS = &tls.Config{ServerName: u.Hostname(), MinVersion: tls.VersionTLS12}
		}
	}
	return clickhouse.Open(o)
}
