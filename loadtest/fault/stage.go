package fault

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/tachograph/tachograph/loadtest/fleet"
)

// A stage is the processes that a campaign of commands plays on. Its addresses
// change as they are killed and started again.
type stage interface {
	start(ctx context.Context) error
	// kill ends something with -9 and starts it again; dice is 0, 1 or 2.
	kill(ctx context.Context, turn, dice int) (what string, err error)
	mqtt() string         // where cars connect
	nodes() []*fleet.Node // which take orders, unless they are down
	tables() *fleet.Node  // which has ClickHouse
	stop() error
	abandon() // kills what is left
}

func (c *CommandCampaign) set() (stage, error) {
	if !c.Apart {
		return &oneNode{tacho: c.Tacho, dir: c.Dir}, nil
	}
	if err := os.MkdirAll(c.Dir, 0o700); err != nil {
		return nil, err
	}
	nats, err := newNATS(filepath.Join(c.Dir, "nats"))
	if err != nil {
		return nil, err
	}
	s := &twoProcesses{nats: nats}
	for i, role := range []string{"gateway", "project"} {
		s.parts[i] = part{tacho: c.Tacho, dir: filepath.Join(c.Dir, role), flags: []string{"--nats", "nats://" + nats.at, "--role", role + ",api"}}
	}
	return s, nil
}

// A part is one process that may be started again and again.
type part struct {
	tacho, dir string
	flags      []string

	mu      sync.Mutex
	process *Process
	node    *fleet.Node // where it listens, or has listened
}

func (p *part) start(ctx context.Context) error {
	process, err := Start(ctx, p.tacho, p.dir, nil, p.flags...)
	if err != nil {
		return err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.process, p.node = process, process.Node
	return nil
}

func (p *part) running() (*Process, *fleet.Node) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.process, p.node
}

// take returns the process, which is the caller's to end; nil without one.
func (p *part) take() *Process {
	p.mu.Lock()
	defer p.mu.Unlock()
	process := p.process
	p.process = nil
	return process
}

func (p *part) kill() {
	if process := p.take(); process != nil {
		process.Kill()
	}
}

func (p *part) stop() error {
	if process := p.take(); process != nil {
		return process.Stop()
	}
	return nil
}

// oneNode is all in one process, and ClickHouse its child.
type oneNode struct {
	tacho, dir string
	all        part
}

func (s *oneNode) start(ctx context.Context) error {
	s.all.tacho, s.all.dir = s.tacho, s.dir
	return s.all.start(ctx)
}

func (s *oneNode) kill(ctx context.Context, _, dice int) (string, error) {
	if dice == 0 {
		p, _ := s.all.running()
		return fmt.Sprint("ClickHouse, ", p.KillEngine()), nil
	}
	s.all.kill()
	return "the node", s.all.start(ctx)
}

func (s *oneNode) mqtt() string         { return s.tables().MQTT }
func (s *oneNode) nodes() []*fleet.Node { return []*fleet.Node{s.tables()} }
func (s *oneNode) tables() *fleet.Node  { _, n := s.all.running(); return n }
func (s *oneNode) stop() error          { return s.all.stop() }
func (s *oneNode) abandon()             { s.all.kill() }

// twoProcesses are a gateway and a projector with its ClickHouse, which share
// nothing but a nats-server. Both take orders.
type twoProcesses struct {
	nats  *natsProcess
	parts [2]part
}

func (s *twoProcesses) start(ctx context.Context) error {
	if err := s.nats.start(); err != nil {
		return err
	}
	for i := range s.parts {
		if err := s.parts[i].start(ctx); err != nil {
			return err
		}
	}
	return nil
}

// longAway is how long a gateway stays away at times: longer than others need to
// notice by its heartbeats that it is dead.
const longAway = 15 * time.Second

func (s *twoProcesses) kill(ctx context.Context, turn, dice int) (string, error) {
	who, away := turn%2, time.Duration(0)
	if who == 0 && dice == 0 && turn%8 == 0 {
		away = longAway
	}
	s.parts[who].kill()
	what := []string{"the gateway", "the projector and its ClickHouse"}[who]
	if away > 0 {
		what += ", for a while"
		if err := pause(ctx, away); err != nil {
			return what, err
		}
	}
	return what, s.parts[who].start(ctx)
}

func (s *twoProcesses) mqtt() string { _, n := s.parts[0].running(); return n.MQTT }

func (s *twoProcesses) nodes() (all []*fleet.Node) {
	for i := range s.parts {
		_, n := s.parts[i].running()
		all = append(all, n)
	}
	return all
}

func (s *twoProcesses) tables() *fleet.Node { _, n := s.parts[1].running(); return n }

func (s *twoProcesses) stop() error {
	err := errors.Join(s.parts[0].stop(), s.parts[1].stop())
	s.nats.kill()
	return err
}

func (s *twoProcesses) abandon() {
	for i := range s.parts {
		s.parts[i].kill()
	}
	s.nats.kill()
}
