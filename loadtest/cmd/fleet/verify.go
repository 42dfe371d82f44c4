package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/tachograph/tachograph/loadtest/fleet"
	"github.com/tachograph/tachograph/loadtest/ledger"
)

type verifyCommand struct {
	target
	Ledger   string        `help:"File of what was acknowledged; the demo's by default." type:"path" placeholder:"FILE"`
	Patience time.Duration `help:"How long ClickHouse may take to catch up." default:"1m"`
	JSON     bool          `name:"json" help:"Print JSON."`
}

func (c *verifyCommand) Run(ctx context.Context) error {
	n, err := c.find(ctx)
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
	if c.JSON {
		if err := json.NewEncoder(os.Stdout).Encode(v); err != nil {
			return err
		}
	} else {
		fmt.Println(v)
	}
	if !v.Good() {
		return errors.New("verify: not as promised")
	}
	return nil
}
