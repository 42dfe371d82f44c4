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
	Tacho  string `help:"The tacho program." default:"bin/tacho" type:"path"`
	Dir    string `help:"Where the clusters keep their data; a temporary folder by default. What the judge is not content with stays." type:"path" placeholder:"DIR"`
	Seeds  int    `help:"How many trials." default:"20"`
	From   uint64 `help:"The first trial's seed; the others follow." default:"1"`
	Renew  int    `help:"Trials of one cluster, before a new one takes its place. Its first seed says how many partitions and how many ClickHouse shards it has." default:"10"`
	Shards int    `help:"How many ClickHouse shards each cluster has, instead of the seed's choice." placeholder:"N"`
}

// What bounds one call.
const (
	mostTrials = 100_000
	mostShards = 4
)

func (c *trialsCommand) Run(ctx context.Context) error {
	if c.Seeds < 1 || c.Seeds > mostTrials || c.Renew < 1 || c.Shards < 0 || c.Shards > mostShards {
		return fmt.Errorf("trials: %d seeds, %d to a cluster of %d shards", c.Seeds, c.Renew, c.Shards)
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
		if err := c.cluster(ctx, dir, c.From+uint64(done), min(c.Renew, c.Seeds-done), &sum); err != nil {
			return fmt.Errorf("trials: %w (its data is in %s)", err, dir)
		}
		if err := os.RemoveAll(dir); err != nil {
			return err
		}
	}
	fmt.Printf("%d trials in %s, %d faults: %d messages acknowledged, 0 lost, 0 doubled, 0 altered; %d samples and %d buckets of roll-ups as the log has them; %d of %d shortened logs noticed; %d splits\n",
		c.Seeds, time.Since(began).Round(time.Second), sum.faults, sum.acknowledged, sum.samples, sum.buckets, sum.shortened, sum.shortened, sum.splits)
	return nil
}

// A tally adds up the clusters' last reports, which are on all they were sent.
type tally struct{ faults, acknowledged, samples, buckets, shortened, splits int }

func (c *trialsCommand) cluster(ctx context.Context, dir string, from uint64, n int, sum *tally) error {
	cluster := &fault.Cluster{Tacho: c.Tacho, Dir: dir}
	cluster.Partitions, cluster.Shards = fault.Shape(from, c.Shards)
	fmt.Printf("%s a cluster of seed %d: telemetry partitions %d, ClickHouse shards %d\n", time.Now().Format(time.TimeOnly), from, cluster.Partitions, cluster.Shards)
	defer cluster.Stop()
	starting, cancel := context.WithTimeout(ctx, 10*time.Minute) // the first start fetches ClickHouse
	defer cancel()
	if err := cluster.Start(starting, from); err != nil {
		return err
	}
	senders, err := fault.NewSenders(starting, cluster, cluster.Widest())
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
		sum.splits += trial.Splits
	}
	done = true
	sum.acknowledged += report.Acknowledged
	sum.samples += report.Samples
	sum.buckets += report.Buckets
	return nil
}
