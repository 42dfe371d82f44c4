package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/tachograph/tachograph/loadtest/fault"
	"github.com/tachograph/tachograph/loadtest/fleet"
	"github.com/tachograph/tachograph/loadtest/testdata"
)

type faultCommand struct {
	Tacho    string `help:"The tacho program." default:"bin/tacho" type:"path"`
	Dir      string `help:"Where the node keeps its data; a temporary folder by default, which stays if the judge is not content." type:"path" placeholder:"DIR"`
	Runs     int    `help:"How often something is killed." default:"10"`
	Seed     uint64 `help:"The same seed kills the same at the same moments." default:"1"`
	Messages int    `help:"How many messages of the recorded day are played." default:"5000"`
}

func (c *faultCommand) Run(ctx context.Context) error {
	fixes, err := fleet.ReadDrives(bytes.NewReader(testdata.CapMetro))
	if err != nil {
		return err
	}
	if c.Messages < 2 || c.Messages > len(fixes) {
		return fmt.Errorf("fault: %d messages, want 2 to %d", c.Messages, len(fixes))
	}
	temporary := c.Dir == ""
	if temporary {
		if c.Dir, err = os.MkdirTemp("", "fleet-fault-"); err != nil {
			return fmt.Errorf("fault: %w", err)
		}
	}
	fmt.Printf("seed %d, data in %s\n", c.Seed, c.Dir)
	campaign := fault.Campaign{Tacho: c.Tacho, Dir: filepath.Join(c.Dir, "data"), Fixes: fixes[:c.Messages], Runs: c.Runs, Seed: c.Seed,
		Say: func(format string, args ...any) { fmt.Printf(format+"\n", args...) }}
	v, err := campaign.Run(ctx)
	if err != nil {
		return err
	}
	fmt.Println(v)
	if !v.Good() {
		return errors.New("fault: not as promised")
	}
	if temporary {
		return os.RemoveAll(c.Dir)
	}
	return nil
}
