package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/tachograph/tachograph/loadtest/fleet"
	"github.com/tachograph/tachograph/loadtest/ledger"
)

type verifyCommand struct {
	Data     string        `help:"Data folder of the node." default:"data" type:"path"`
	Ledger   string        `help:"File of what was acknowledged; the demo's by default." type:"path"`
	Patience time.Duration `help:"How long ClickHouse may take to catch up." default:"1m"`
}

func (c *verifyCommand) Run(ctx context.Context) error {
	n, err := fleet.Find(c.Data)
	if err != nil {
		return err
	}
	if c.Ledger == "" {
		c.Ledger = fleet.LedgerPath(c.Data)
	}
	acknowledged, err := ledger.Read(c.Ledger)
	if err != nil {
		return err
	}
	if len(acknowledged) == 0 {
		return fmt.Errorf("verify: nothing is in %s", c.Ledger)
	}
	v, err := n.Verify(ctx, acknowledged, c.Patience)
	if err != nil {
		return err
	}
	fmt.Println(v)
	for i, e := range append(v.Lost, v.Doubled...) {
		if i == 10 {
			break
		}
		fmt.Println("  ", e)
	}
	if !v.Good() {
		return errors.New("verify: not as promised")
	}
	return nil
}
