package main

import (
	"bytes"
	"context"
	"fmt"

	"github.com/tachograph/tachograph/loadtest/fleet"
	"github.com/tachograph/tachograph/loadtest/testdata"
)

type demoCommand struct {
	Data  string  `help:"Data folder of the node." default:"data" type:"path"`
	Speed float64 `help:"How many times faster than the recorded day." default:"60"`
}

func (c *demoCommand) Run(ctx context.Context) error {
	n, err := fleet.Find(c.Data)
	if err != nil {
		return err
	}
	if err := n.AwaitReady(ctx); err != nil {
		return err
	}
	return play(ctx, n, c.Speed)
}

// play runs the demo under its status line.
func play(ctx context.Context, n *fleet.Node, speed float64) error {
	if speed <= 0 {
		return fmt.Errorf("demo: speed %v is not above 0", speed)
	}
	fixes, err := fleet.ReadDrives(bytes.NewReader(testdata.CapMetro))
	if err != nil {
		return err
	}
	// Before the status line, which shows a token: whoever registers a device
	// that exists gives it a new one.
	if _, err := n.Tokens(ctx, fleet.Devices(fixes)); err != nil {
		return err
	}
	d := &fleet.Demo{Node: n, Fixes: fixes, Speed: speed}
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
