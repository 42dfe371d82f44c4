package node

import (
	"context"
	"fmt"
	"math"
	"net/url"
	"time"

	"github.com/tachograph/tachograph/projections/columnar/engine"
	"github.com/tachograph/tachograph/services/query"
)

// QueryConfig is whom GET /v1/query asks and what it holds each statement to.
type QueryConfig struct {
	ClickHouseQuery string        `name:"clickhouse-query" help:"URL of an existing ClickHouse that /v1/query asks, http://user:password@host:8123, as a user that can only read." placeholder:"URL"`
	QueryTime       time.Duration `name:"query-time" help:"Longest time of one statement of /v1/query, to its answer's last byte." default:"5m" placeholder:"TIME"`
	QueryBytes      int64         `name:"query-bytes" help:"Largest answer, bytes." default:"4294967296" placeholder:"BYTES"`
	QueryRows       int64         `name:"query-rows" help:"Most rows of an answer, in the embedded ClickHouse. 0: no limit." default:"0" placeholder:"N"`
	QueryMemory     int64         `name:"query-memory" help:"Most memory of one statement in the embedded ClickHouse, bytes. 0: a quarter of what that has." default:"0" placeholder:"BYTES"`
	QueryLength     int           `name:"query-length" help:"Longest statement, bytes." default:"262144" placeholder:"BYTES"`
	QueryAtOnce     int           `name:"query-at-once" help:"Statements at work side by side; more are refused." default:"8" placeholder:"N"`
}

func (c QueryConfig) validate(embedded bool, bad func(flag, format string, args ...any)) {
	if c.QueryTime < time.Second || c.QueryTime > 24*time.Hour {
		bad("query-time", "%s; 1s to 24h are possible", c.QueryTime)
	}
	if c.QueryBytes < 1<<10 {
		bad("query-bytes", "%d; at least 1 KiB", c.QueryBytes)
	}
	if c.QueryRows < 0 {
		bad("query-rows", "%d is negative", c.QueryRows)
	}
	if c.QueryMemory != 0 && c.QueryMemory < 16<<20 {
		bad("query-memory", "%d; 0, or at least 16 MiB", c.QueryMemory)
	}
	if c.QueryLength < 1<<10 || c.QueryLength > 16<<20 {
		bad("query-length", "%d; 1 KiB to 16 MiB are possible", c.QueryLength)
	}
	if c.QueryAtOnce < 1 || c.QueryAtOnce > 40 {
		bad("query-at-once", "%d; 1 to 40 are possible", c.QueryAtOnce)
	}
	if !embedded && (c.QueryRows != 0 || c.QueryMemory != 0) {
		bad("query-rows", "rows and memory are limited by the profile of the user of --clickhouse-query, where ClickHouse is not embedded")
	}
}

// engineLimits are what the embedded ClickHouse holds the user query to. Each
// statement that is abandoned takes a second place while it is ended.
func (c QueryConfig) engineLimits() engine.QueryLimits {
	return engine.QueryLimits{
		Seconds: int(math.Ceil(c.QueryTime.Seconds())), Rows: c.QueryRows, Memory: c.QueryMemory, Length: c.QueryLength, AtOnce: 2*c.QueryAtOnce + 4,
	}
}

// startQueries makes what /v1/query asks through. Without a ClickHouse of this
// process's or a user for an existing one there is nothing, and the API says so.
func (n *Node) startQueries(context.Context) error {
	cfg := query.Config{
		Database: n.cfg.Database, Metrics: n.metrics, Logger: n.logger,
		Limits: query.Limits{Time: n.cfg.QueryTime, Bytes: n.cfg.QueryBytes, Length: n.cfg.QueryLength, AtOnce: n.cfg.QueryAtOnce},
	}
	switch {
	case !n.cfg.Has("api"):
		return nil
	case n.cfg.ClickHouseQuery != "":
		u, err := url.Parse(n.cfg.ClickHouseQuery)
		if err != nil {
			return fmt.Errorf("--clickhouse-query: %w", err)
		}
		cfg.URL, cfg.User = u.Scheme+"://"+u.Host, u.User.Username()
		cfg.Password, _ = u.User.Password()
	case n.cfg.embedsClickHouse():
		password, err := secret(n.cfg.file("clickhouse.query.password"))
		if err != nil {
			return err
		}
		cfg.URL, cfg.User, cfg.Password = "http://"+n.addrs.ClickHouseHTTP, engine.QueryUser, password
	default:
		return nil
	}
	var err error
	n.queries, err = query.New(cfg)
	return err
}
