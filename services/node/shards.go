package node

import (
	"context"
	"fmt"
	"net/url"

	"github.com/tachograph/tachograph/projections/columnar"
)

// embedsClickHouse tells whether ClickHouse is a child of this process.
func (c Config) embedsClickHouse() bool { return c.Has("project") && len(c.ClickHouse) == 0 }

func (c Config) validateShards(checkURL func(flag, text string, schemes ...string), bad func(flag, format string, args ...any)) {
	named := map[string]bool{}
	for _, text := range c.ClickHouse {
		if text == "" {
			bad("clickhouse", "one of the URLs is empty")
			continue
		}
		checkURL("clickhouse", text, "http", "https")
		u, err := url.Parse(text)
		if err != nil {
			continue
		}
		if named[u.Host] {
			bad("clickhouse", "%s is named twice", u.Host)
		}
		named[u.Host] = true
	}
	shards := len(c.ClickHouse)
	if shards > 1 && !databaseName.MatchString(c.ClickHouseCluster) {
		bad("clickhouse-cluster", "%q; several shards ask one another: what is the cluster of them called in their remote_servers?", c.ClickHouseCluster)
	}
	if shards < 2 && c.ClickHouseCluster != "" {
		bad("clickhouse-cluster", "goes with several --clickhouse")
	}
	if shards > c.Partitions {
		bad("clickhouse", "%d shards for %d partitions: some would have nothing; see --partitions", shards, c.Partitions)
	}
}

// existingShards are the servers that --clickhouse names.
func (c Config) existingShards() (columnar.Shards, error) {
	var servers []columnar.Server
	for _, text := range c.ClickHouse {
		u, err := url.Parse(text)
		if err != nil {
			return columnar.Shards{}, fmt.Errorf("--clickhouse: %w", err)
		}
		password, _ := u.User.Password()
		servers = append(servers, columnar.Server{URL: u.Scheme + "://" + u.Host, User: u.User.Username(), Password: password, Database: c.Database})
	}
	return columnar.NewShards(c.ClickHouseCluster, servers...), nil
}

// startFront lets the shards be asked as one.
func (n *Node) startFront(base columnar.Config) {
	if !n.shards.Several() {
		return
	}
	const name = "tables over all shards"
	n.setWaiting(name, "not there yet")
	said := ""
	front := &columnar.Front{Writer: base, Shards: n.shards, Tell: func(err error) {
		why := ""
		if err != nil {
			why = err.Error()
		}
		if n.setWaiting(name, why); why != said && why != "" {
			n.logger.Warn("what is new cannot be queried over all shards yet", "error", why)
		}
		said = why
	}}
	n.run(name, func(ctx context.Context) error { return front.Run(ctx) })
}
