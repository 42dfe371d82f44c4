package main

import (
	"context"

	"github.com/tachograph/tachograph/loadtest/fleet"
)

// A target is the node that a command is about.
type target struct {
	Data        string `help:"Data folder of the node." default:"data" type:"path" placeholder:"DIR"`
	AllowRemote bool   `help:"The node may be on another machine."`
}

// find returns the node once it is ready.
func (t *target) find(ctx context.Context) (n *fleet.Node, err error) {
	if t.AllowRemote {
		n, err = fleet.FindAnywhere(t.Data)
	} else {
		n, err = fleet.Find(t.Data)
	}
	if err != nil {
		return nil, err
	}
	return n, n.AwaitReady(ctx)
}
