package fault

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"
)

// An engine is a ClickHouse, the child of a process of its own, and the proxies
// through which it is reached; their addresses stay when its own changes.
type engine struct {
	cluster *Cluster
	name    string
	flags   []string // of its host
	host    *Process

	user     string // who writes, by HTTP
	password func() (string, error)
	writers  *Proxy // between it and the writers
	shards   *Proxy // between it and who asks all shards, by the native protocol; nil of one alone
}

// clusterDatabase is where the writers write.
const clusterDatabase = "tacho"

// newEngines makes the cluster's engines, which are not started yet.
//
// The host of one alone is a writer of the cluster. Shards have idle hosts, with a log and
// a database of their own: for the writers they are servers that were there before.
func (c *Cluster) newEngines(seed uint64) error {
	if c.Shards < 2 {
		e := &engine{cluster: c, name: "engine", user: "tacho", password: func() (string, error) {
			b, err := os.ReadFile(filepath.Join(c.Dir, "engine", "clickhouse.writer.password"))
			return strings.TrimSpace(string(b)), err
		}}
		c.engines = []*engine{e}
		return e.stand(seed)
	}
	for i := range c.Shards {
		e := &engine{cluster: c, name: fmt.Sprintf("engine-%d", i+1), flags: []string{"--database", "idle"}, user: shardUser, password: func() (string, error) { return shardPassword, nil }}
		c.engines = append(c.engines, e) // what has proxies is closed by Stop
		if err := e.stand(seed + uint64(i)<<32); err != nil {
			return err
		}
		var err error
		if e.shards, err = NewProxy(seed + uint64(i)<<32 + 1<<31); err != nil {
			return err
		}
	}
	for _, e := range c.engines {
		if err := e.settle(); err != nil {
			return err
		}
	}
	return nil
}

// stand opens what the writers connect to.
func (e *engine) stand(seed uint64) (err error) {
	e.writers, err = NewProxy(seed)
	return err
}

// What the shards call themselves, and who writes there: users and servers of
// existing ClickHouses are their operator's to name.
const (
	shardCluster  = "trial"
	shardUser     = "trial"
	shardPassword = "trial"
)

// settle tells ClickHouse, in files beside those that its host writes, of the other
// shards and of the user.
func (e *engine) settle() error {
	var others strings.Builder
	for _, o := range e.cluster.engines {
		host, port, err := net.SplitHostPort(o.shards.Addr())
		if err != nil {
			return err
		}
		fmt.Fprintf(&others, "<shard><replica><host>%s</host><port>%s</port></replica></shard>", host, port)
	}
	for file, text := range map[string]string{
		"config.d": fmt.Sprintf("<remote_servers><%[1]s><secret>%[2]s</secret>%[3]s</%[1]s></remote_servers>", shardCluster, shardPassword, others.String()),
		"users.d":  fmt.Sprintf("<users><%[1]s><password>%[2]s</password><networks><ip>127.0.0.1</ip></networks><profile>writer</profile><quota>default</quota></%[1]s></users>", shardUser, shardPassword),
	} {
		dir := filepath.Join(e.cluster.Dir, e.name, "clickhouse", file)
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(dir, "trial.xml"), []byte("<clickhouse>"+text+"</clickhouse>\n"), 0o600); err != nil {
			return err
		}
	}
	return nil
}

// start starts ClickHouse and waits until it answers. The host of one alone takes
// the partitions from whoever has them, until the next writer is started.
func (e *engine) start(ctx context.Context) error {
	if err := e.launch(); err != nil {
		return err
	}
	return e.await(ctx)
}

func (e *engine) launch() (err error) {
	flags := e.flags
	if len(flags) == 0 {
		flags = append(e.cluster.shared(), writing("project")...)
	}
	e.host, err = Launch(e.cluster.Tacho, filepath.Join(e.cluster.Dir, e.name), nil, flags...)
	return err
}

// await waits until it answers. A host that has ended is started again; see
// awaitGateway.
func (e *engine) await(ctx context.Context) (err error) {
	for {
		if e.host.hasEnded() {
			if err := e.launch(); err != nil {
				return err
			}
		}
		if e.host.Node, err = e.host.find(); err == nil {
			err = e.lines(ctx, "SELECT 1", nil)
		}
		if err == nil {
			e.writers.Target(e.host.Node.ClickHouseHTTP)
			if e.shards != nil {
				e.shards.Target(e.host.Node.ClickHouseNative)
			}
			return nil
		}
		if pause(ctx, 50*time.Millisecond) != nil {
			return fmt.Errorf("ClickHouse, %s: %w: %w", e.name, context.Cause(ctx), err)
		}
	}
}

// become says what happens on the ways to it.
func (e *engine) become(a ailment) {
	for _, p := range []*Proxy{e.writers, e.shards} {
		if p != nil {
			p.Become(a)
		}
	}
}

// pid is that of the ClickHouse process.
func (e *engine) pid() (int, error) {
	for _, pid := range descendants(e.host.cmd.Process.Pid) {
		return pid, nil
	}
	return 0, errors.New("there is no ClickHouse")
}

// stop kills what is left.
func (e *engine) stop() {
	if e.host != nil {
		e.host.Kill()
	}
	for _, p := range []*Proxy{e.writers, e.shards} {
		if p != nil {
			p.Close()
		}
	}
}

// anyEngine draws one. One alone costs no number.
func (c *Cluster) anyEngine(r *rand.Rand) *engine {
	if len(c.engines) == 1 {
		return c.engines[0]
	}
	return c.engines[r.IntN(len(c.engines))]
}

// eachEngine does the same to all at once.
func (c *Cluster) eachEngine(do func(e *engine) error) error {
	errs := make([]error, len(c.engines))
	var all sync.WaitGroup
	for i, e := range c.engines {
		all.Go(func() { errs[i] = do(e) })
	}
	all.Wait()
	return errors.Join(errs...)
}

// startEngines starts all.
func (c *Cluster) startEngines(ctx context.Context) error {
	return c.eachEngine(func(e *engine) error { return e.start(ctx) })
}

// writerFlags say where the writers write.
func (c *Cluster) writerFlags() ([]string, error) {
	var urls []string
	for _, e := range c.engines {
		password, err := e.password()
		if err != nil {
			return nil, err
		}
		urls = append(urls, fmt.Sprintf("http://%s:%s@%s", e.user, password, e.writers.Addr()))
	}
	flags := []string{"--clickhouse", strings.Join(urls, ",")}
	if len(urls) > 1 {
		flags = append(flags, "--clickhouse-cluster", shardCluster)
	}
	return flags, nil
}
