package fault

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/tachograph/tachograph/loadtest/fleet"
	"github.com/tachograph/tachograph/loadtest/ledger"
)

// A Campaign plays drives against a node and kills it with -9 again and again,
// at moments that its seed chooses: the whole tree in mid-demo, the whole tree
// while it starts, ClickHouse alone while the rest goes on. In the end the
// demo is played to its end, the judge compares, and the node has to stop in
// order.
type Campaign struct {
	Tacho, Dir string // the program, and a data folder that may be empty
	Fixes      []fleet.Fix
	Runs       int // kills
	Seed       uint64
	Say        func(format string, args ...any)

	node    *Process
	demo    *fleet.Demo
	stop    context.CancelFunc // of the demo
	playing chan error
}

// The most that a campaign may be.
const mostRuns = 10_000

// Run returns the judge's verdict; an error is what kept it from judging.
func (c *Campaign) Run(ctx context.Context) (v ledger.Verdict, err error) {
	if c.Runs < 1 || c.Runs > mostRuns || len(c.Fixes) < 2 {
		return v, fmt.Errorf("fault: %d runs with %d fixes", c.Runs, len(c.Fixes))
	}
	ctx, cancel := context.WithTimeout(ctx, 10*time.Minute+time.Duration(c.Runs)*30*time.Second) // the first start fetches ClickHouse
	defer cancel()
	defer func() {
		if c.node != nil {
			c.kill()
		}
	}()
	r := rand.New(rand.NewPCG(c.Seed, 0))
	for run := range c.Runs {
		if err := c.once(ctx, run, r); err != nil {
			return v, fmt.Errorf("fault: seed %d, run %d: %w", c.Seed, run, err)
		}
	}
	if v, err = c.finish(ctx); err != nil {
		err = fmt.Errorf("fault: seed %d: %w", c.Seed, err)
	}
	return v, err
}

func (c *Campaign) once(ctx context.Context, run int, r *rand.Rand) error {
	// All that is random is drawn first, so that a run's fate does not depend
	// on what became of the one before.
	what, early, late := r.IntN(4), time.Duration(50+r.IntN(1500))*time.Millisecond, time.Duration(200+r.IntN(1800))*time.Millisecond
	if what == 0 {
		if c.node != nil {
			c.kill()
		}
		var err error
		if c.node, err = Launch(c.Tacho, c.Dir, nil); err != nil {
			return err
		}
		err = pause(ctx, early)
		c.kill()
		c.Say("run %d: killed %s after its start", run, early)
		return err
	}
	if err := c.play(ctx, c.span()/(time.Duration(c.Runs)*2*time.Second).Seconds()); err != nil {
		return err
	}
	if err := pause(ctx, late); err != nil {
		return err
	}
	_, accepted, total := c.demo.Counts()
	if what == 1 {
		if !c.node.KillEngine() {
			return errors.New("there is no ClickHouse to kill")
		}
		c.Say("run %d: killed ClickHouse; %d of %d accepted", run, accepted, total)
		return nil
	}
	c.kill()
	c.Say("run %d: killed all; %d of %d accepted", run, accepted, total)
	return nil
}

// span is how many seconds the drives took.
func (c *Campaign) span() float64 {
	return c.Fixes[len(c.Fixes)-1].Time.Sub(c.Fixes[0].Time).Seconds()
}

// play sees to it that a node runs, and the demo on it.
func (c *Campaign) play(ctx context.Context, speed float64) (err error) {
	if c.node != nil {
		return nil
	}
	if c.node, err = Start(ctx, c.Tacho, c.Dir, nil); err != nil {
		return err
	}
	c.demo = &fleet.Demo{Node: c.node.Node, Fixes: c.Fixes, Speed: speed}
	var life context.Context
	life, c.stop = context.WithCancel(ctx)
	c.playing = make(chan error, 1)
	go func() { c.playing <- c.demo.Run(life) }()
	return nil
}

// kill ends the node, then the demo that ran on it.
func (c *Campaign) kill() {
	c.node.Kill()
	c.node = nil
	_ = c.endDemo() // that it failed is the point
}

func (c *Campaign) endDemo() error {
	if c.stop == nil {
		return nil
	}
	c.stop()
	c.stop = nil
	return <-c.playing
}

// finish plays what is left without haste and judges.
func (c *Campaign) finish(ctx context.Context) (v ledger.Verdict, err error) {
	if err := c.endDemo(); err != nil {
		return v, err
	}
	if c.node == nil {
		if c.node, err = Start(ctx, c.Tacho, c.Dir, nil); err != nil {
			return v, err
		}
	}
	rest := &fleet.Demo{Node: c.node.Node, Fixes: c.Fixes, Speed: max(1, c.span()/5)}
	if err := rest.Run(ctx); err != nil {
		return v, err
	}
	acknowledged, err := ledger.Read(fleet.LedgerPath(c.Dir))
	if err != nil {
		return v, err
	}
	if len(acknowledged) < len(c.Fixes) {
		return v, fmt.Errorf("%d of %d messages are acknowledged", len(acknowledged), len(c.Fixes))
	}
	if v, err = c.node.Node.Verify(ctx, acknowledged, 2*time.Minute); err != nil {
		return v, err
	}
	node := c.node
	c.node = nil
	return v, node.Stop()
}

func pause(ctx context.Context, d time.Duration) error {
	select {
	case <-time.After(d):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
