package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/tachograph/tachograph/loadtest/fault"
)

type commandsCommand struct {
	Tacho    string  `help:"The tacho program." default:"bin/tacho" type:"path"`
	Dir      string  `help:"Where the node keeps its data; a temporary folder by default, which stays if the judge is not content." type:"path" placeholder:"DIR"`
	Apart    bool    `help:"A gateway and a projector in processes of their own, on a nats-server, killed by turns."`
	Cars     int     `help:"Cars that come and go." default:"1000"`
	Commands int     `help:"Commands to them." default:"100000"`
	Rate     float64 `help:"Commands a second." default:"200"`
	Kills    int     `help:"How often something is killed: the node or its ClickHouse, or with --apart gateway and projector by turns." default:"100"`
	Seed     uint64  `help:"The same seed kills the same at the same moments." default:"1"`
}

func (c *commandsCommand) Run(ctx context.Context) (err error) {
	if c.Cars < 1 || c.Commands < 1 || c.Rate <= 0 || c.Kills < 0 {
		return errors.New("commands: cars, commands and rate must be positive")
	}
	temporary := c.Dir == ""
	if temporary {
		if c.Dir, err = os.MkdirTemp("", "fleet-commands-"); err != nil {
			return fmt.Errorf("commands: %w", err)
		}
	}
	fmt.Printf("seed %d, data in %s\n", c.Seed, c.Dir)
	campaign := fault.CommandCampaign{Tacho: c.Tacho, Dir: filepath.Join(c.Dir, "data"), Cars: c.Cars, Commands: c.Commands, Rate: c.Rate, Kills: c.Kills, Seed: c.Seed, Apart: c.Apart,
		Say: func(format string, args ...any) { fmt.Printf(format+"\n", args...) }}
	v, err := campaign.Run(ctx)
	if err != nil {
		return err
	}
	fmt.Println(v)
	if !v.Good() {
		return errors.New("commands: not as promised")
	}
	if temporary {
		return os.RemoveAll(c.Dir)
	}
	return nil
}
