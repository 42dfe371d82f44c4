package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/tachograph/tachograph/loadtest/fault"
)

type trialsCommand struct {
	Tacho string `help:"The tacho program." default:"bin/tacho" type:"path"`
	Dir   string `help:"Where the clusters keep their data; a temporary folder by default. What the judge is not content with stays." type:"path" placeholder:"DIR"`
	Seeds int    `help:"How many trials." default:"20"`
	From  uint64 `help:"The first trial's seed; the others follow." default:"1"`
	Renew int    `help:"Trials of one cluster, before a new one takes its place; every other one has two partitions." default:"10"`
}

// mostTrials bounds one call.
const mostTrials = 100_000

func (c *trialsCommand) Run(ctx context.Context) error {
	if c.Seeds < 1 || c.Seeds > mostTrials || c.Renew < 1 {
		return fmt.Errorf("trials: %d seeds, %d to a cluster", c.Seeds, c.Renew)
	}
	var err error
	if c.Dir == "" {
		if c.Dir, err = os.MkdirTemp("", "fleet-trials-"); err != nil {
			return fmt.Errorf("trials: %w", err)
		}
	}
	var sum tally
	began := time.Now()
	for done := 0; done < c.Seeds; done += c.Renew {
		dir := filepath.Join(c.Dir, fmt.Sprintf("cluster-%d", done/c.Renew))
		if err := c.cluster(ctx, dir, 1+done/c.Renew%2, c.From+uint64(done), min(c.Renew, c.Seeds-done), &sum); err != nil {
			return fmt.Errorf("trials: %w (its data is in %s)", err, dir)
		}
		if err := os.RemoveAll(dir); err != nil {
			return err
		}
	}
	fmt.Printf("%d trials in %s, %d faults: %d messages acknowledged, 0 lost, 0 doubled, 0 altered; %d samples and %d buckets of roll-ups as the log has them; %d of %d shortened logs noticed\n",
		c.Seeds, time.Since(began).Round(time.Second), sum.faults, sum.acknowledged, sum.samples, sum.buckets, sum.shortened, sum.shortened)
	return nil
}

// A tally adds up the clusters' last reports, which are on all they were sent.
type tally struct{ faults, acknowledged, samples, buckets, shortened int }

func (c *trialsCommand) cluster(ctx context.Context, dir string, partitions int, from uint64, n int, sum *tally) error {
	cluster := &fault.Cluster{Tacho: c.Tacho, Dir: dir, Partitions: partitions}
	defer cluster.Stop()
	starting, cancel := context.WithTimeout(ctx, 10*time.Minute) // the first start fetches ClickHouse
	defer cancel()
	if err := cluster.Start(starting, from); err != nil {
		return err
	}
	senders, err := fault.NewSenders(starting, cluster)
	if err != nil {
		return err
	}
	done := false
	defer func() {
		if !done {
			cluster.Autopsy(context.WithoutCancel(ctx))
		}
	}()
	var report fault.Report
	for seed := from; seed < from+uint64(n); seed++ {
		trial := fault.Trial{Cluster: cluster, Senders: senders, Seed: seed, Say: func(format string, args ...any) {
			fmt.Printf(time.Now().Format(time.TimeOnly)+" "+format+"\n", args...)
		}}
		if report, err = trial.Run(ctx); err != nil {
			return err
		}
		if !report.Good() {
			return errors.New("not as promised")
		}
		sum.faults += len(trial.Plan())
		sum.shortened += trial.Shortened
	}
	done = true
	sum.acknowledged += report.Acknowledged
	sum.samples += report.Samples
	sum.buckets += report.Buckets
	return nil
}
