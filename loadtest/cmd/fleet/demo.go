package main

import (
	"bytes"
	"context"
	"fmt"

	"github.com/tachograph/tachograph/loadtest/fleet"
	"github.com/tachograph/tachograph/loadtest/testdata"
)

type demoCommand struct {
	target
	pace
}

// A pace is how the demo plays.
type pace struct {
	Speed float64 `help:"How many times faster than the recorded day." default:"60"`
	Loop  bool    `help:"Begin the day anew when it is over."`
}

func (c *demoCommand) Run(ctx context.Context) error {
	n, err := c.find(ctx)
	if err != nil {
		return err
	}
	return c.play(ctx, n)
}

// play runs the demo under its status line.
func (p pace) play(ctx context.Context, n *fleet.Node) error {
	if !(p.Speed > 0) {
		return fmt.Errorf("demo: speed %v is not above 0", p.Speed)
	}
	fixes, err := fleet.ReadDrives(bytes.NewReader(testdata.CapMetro))
	if err != nil {
		return err
	}
	if _, err := n.Tokens(ctx, fleet.Devices(fixes)); err != nil { // the lines to paste need one
		return err
	}
	d := &fleet.Demo{Node: n, Fixes: fixes, Speed: p.Speed, Loop: p.Loop}
	status := newStatus(n, d)
	ended := make(chan struct{})
	shown, stop := context.WithCancel(ctx)
	go func() {
		defer close(ended)
		status.run(shown)
	}()
	err = d.Run(ctx)
	stop()
	<-ended
	return err
}
