package fault

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/tachograph/tachograph/loadtest/fleet"
)

// A Cluster is Tachograph by roles, each a process that can be killed alone: a
// nats-server, a gateway, ClickHouse or several shards of it, and one writer or
// more, which reach ClickHouse through a Proxy.
type Cluster struct {
	Tacho, Dir string // the program, and a folder of the cluster's own
	Partitions int    // of telemetry; a split makes more
	Shards     int    // of ClickHouse; 0 and 1 are one server

	nats    *natsProcess
	engines []*engine // one, or the shards in their order

	mu      sync.Mutex
	gateway *Process
	writers []*Process // the newest is last
	started int        // writers, ever
}

// Start starts everything and waits until it serves.
func (c *Cluster) Start(ctx context.Context, seed uint64) (err error) {
	if err := c.newEngines(seed); err != nil {
		return err
	}
	if c.nats, err = newNATS(filepath.Join(c.Dir, "nats")); err != nil {
		return err
	}
	if err := c.nats.start(); err != nil {
		return err
	}
	if err := c.startEngines(ctx); err != nil {
		return err
	}
	if err := c.StartGateway(); err != nil {
		return err
	}
	if err := c.Gateway().Await(ctx); err != nil {
		return err
	}
	if err := c.StartWriter(); err != nil {
		return err
	}
	return c.awaitWriter(ctx)
}

// awaitWriter waits until one writer is there, the newest, and writes. One that
// another has taken the partitions from in the end makes room for a new one, and so
// does one that has ended; see awaitGateway.
func (c *Cluster) awaitWriter(ctx context.Context) error {
	for {
		w := c.Writer()
		if w == nil {
			return errors.New("no writer was started")
		}
		c.KillWriters(w)
		said := ""
		node, err := w.find()
		if err == nil {
			err = call(ctx, node, http.MethodGet, "/readyz", nil, func(line []byte) error { said += string(line); return nil })
		}
		if err == nil {
			w.Node = node
			return nil
		}
		if strings.Contains(err.Error(), "another writer has taken over") || w.hasEnded() {
			if err := c.StartWriter(); err != nil {
				return err
			}
		}
		if pause(ctx, 50*time.Millisecond) != nil {
			return fmt.Errorf("writer: %w: %w", context.Cause(ctx), err)
		}
	}
}

// Stop kills what is left.
func (c *Cluster) Stop() {
	c.KillWriters()
	c.KillGateway()
	for _, e := range c.engines {
		e.stop()
	}
	if c.nats != nil {
		c.nats.kill()
	}
}

func (c *Cluster) shared() []string {
	return []string{"--nats", c.natsURL(), "--partitions", fmt.Sprint(c.Partitions)}
}

// StartGateway launches a gateway, which may not be ready yet.
func (c *Cluster) StartGateway() error {
	p, err := Launch(c.Tacho, filepath.Join(c.Dir, "gateway"), nil, append(c.shared(), "--role", "gateway,api")...)
	if err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.gateway = p
	return nil
}

// awaitGateway waits until the gateway is ready. One that has ended is started
// again, as whoever runs it would: a start from which NATS is taken away gives up.
func (c *Cluster) awaitGateway(ctx context.Context) error {
	for {
		p := c.Gateway()
		err := p.Await(ctx)
		if err == nil || ctx.Err() != nil || !p.hasEnded() {
			return err
		}
		if err := c.StartGateway(); err != nil {
			return err
		}
	}
}

// Gateway is the one that runs.
func (c *Cluster) Gateway() *Process {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.gateway
}

// gatewayNode is where the gateway listens now.
func (c *Cluster) gatewayNode() (*fleet.Node, error) {
	p := c.Gateway()
	if p == nil {
		return nil, errors.New("there is no gateway")
	}
	return p.find()
}

func (c *Cluster) natsURL() string { return "nats://" + c.nats.at }

// KillGateway ends it with -9.
func (c *Cluster) KillGateway() {
	c.mu.Lock()
	p := c.gateway
	c.gateway = nil
	c.mu.Unlock()
	if p != nil {
		p.Kill()
	}
}

// writing are the flags of a writer that does small things often.
func writing(roles string) []string {
	return []string{"--role", roles, "--database", clusterDatabase, "--batch-age", "30ms", "--roll-up-every", "200ms"}
}

// StartWriter launches a writer beside those that there are.
func (c *Cluster) StartWriter() error {
	clickhouse, err := c.writerFlags()
	if err != nil {
		return err
	}
	c.started++
	p, err := Launch(c.Tacho, filepath.Join(c.Dir, fmt.Sprintf("writer-%d", c.started)), nil,
		slices.Concat(c.shared(), writing("project,api"), clickhouse)...)
	if err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.writers = append(c.writers, p)
	return nil
}

// Writer is the newest.
func (c *Cluster) Writer() *Process {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.writers) == 0 {
		return nil
	}
	return c.writers[len(c.writers)-1]
}

// KillWriters ends all writers but the newest ones.
func (c *Cluster) KillWriters(but ...*Process) {
	c.mu.Lock()
	var ended, left []*Process
	for _, p := range c.writers {
		if len(but) > 0 && p == but[0] {
			left = append(left, p)
		} else {
			ended = append(ended, p)
		}
	}
	c.writers = left
	c.mu.Unlock()
	for _, p := range ended {
		p.Kill()
		_ = os.RemoveAll(p.Dir) // nothing of a writer has to last
		_ = os.Remove(p.Dir + ".log")
	}
}

// KillNATS ends the nats-server with -9, StartNATS starts it at the same address.
func (c *Cluster) KillNATS() { c.nats.kill() }

// StartNATS starts the nats-server again.
func (c *Cluster) StartNATS() error { return c.nats.start() }

// freeze stops a process for a while as a paused machine does.
func freeze(ctx context.Context, pid int, d time.Duration) error {
	if err := syscall.Kill(pid, syscall.SIGSTOP); err != nil {
		return err
	}
	err := pause(ctx, d)
	return errors.Join(err, syscall.Kill(pid, syscall.SIGCONT))
}
