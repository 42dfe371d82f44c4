package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/tachograph/tachograph/loadtest/fault"
	"github.com/tachograph/tachograph/loadtest/fleet"
	"github.com/tachograph/tachograph/loadtest/testdata"
)

type replaysCommand struct {
	Tacho    string        `help:"The tacho program." default:"bin/tacho" type:"path"`
	Dir      string        `help:"Where the nodes keep their data; a temporary folder by default. What differs stays." type:"path" placeholder:"DIR"`
	Seeds    int           `help:"How many random histories." default:"10"`
	From     uint64        `help:"The first one's seed; the others follow." default:"1"`
	Lasts    time.Duration `help:"How long a random history is made." default:"3s"`
	Messages int           `help:"How many messages of the recorded day are one more history; 0: none." default:"5000"`
	Kills    int           `help:"How often each replay that is killed is killed." default:"1"`
}

func (c *replaysCommand) Run(ctx context.Context) error {
	fixes, err := fleet.ReadDrives(bytes.NewReader(testdata.CapMetro))
	if err != nil {
		return err
	}
	if c.Seeds < 0 || c.Seeds > mostTrials || c.Kills < 1 || c.Lasts < 0 || c.Messages < 0 || c.Messages > len(fixes) {
		return fmt.Errorf("replays: %d seeds, %d kills, %s, %d messages", c.Seeds, c.Kills, c.Lasts, c.Messages)
	}
	if c.Dir == "" {
		if c.Dir, err = os.MkdirTemp("", "fleet-replays-"); err != nil {
			return fmt.Errorf("replays: %w", err)
		}
	}
	began, ways, places, kills := time.Now(), 0, 0, 0
	aimed := map[string]int{}
	histories := c.Seeds
	if c.Messages > 0 {
		histories++
	}
	for i := range histories {
		campaign := fault.Rebuilds{Tacho: c.Tacho, Seed: c.From + uint64(i), Random: c.Lasts, Kills: c.Kills, Say: func(format string, args ...any) {
			fmt.Printf(time.Now().Format(time.TimeOnly)+" "+format+"\n", args...)
		}}
		if i == c.Seeds { // the recorded day comes last
			campaign.Fixes = fixes[:c.Messages]
		}
		campaign.Dir = filepath.Join(c.Dir, fmt.Sprint("history-", campaign.Seed))
		report, err := campaign.Run(ctx)
		fmt.Println(report)
		if err != nil {
			return fmt.Errorf("replays: %w (its data is in %s)", err, campaign.Dir)
		}
		if !report.Good() {
			return errors.New("replays: not the same")
		}
		ways, places, kills = ways+len(report.Ways), places+len(report.Ways)*report.Places, kills+report.Kills
		for at, n := range report.Aimed {
			aimed[at] += n
		}
		if err := os.RemoveAll(campaign.Dir); err != nil {
			return err
		}
	}
	fmt.Printf("%d histories in %s: made anew %d times, %d places compared, 0 differ; %d kills in replays: %v\n", histories, time.Since(began).Round(time.Second), ways, places, kills, aimed)
	return nil
}
