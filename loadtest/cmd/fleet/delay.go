package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/tachograph/tachograph/loadtest/peers"
)

type delayCommand struct {
	Tacho      string        `help:"The tacho program." default:"bin/tacho" type:"path"`
	Dir        string        `help:"Where the node keeps its data meanwhile; the system's folder for temporary files by default." type:"existingdir" placeholder:"DIR"`
	Durability string        `help:"Of the node." enum:"disk,os,fast" default:"disk"`
	Messages   int           `help:"The flood by which the sustained rate is found." default:"500000"`
	Shares     []float64     `help:"Loads, in percent of it." default:"10,50,90"`
	For        time.Duration `help:"How long each lasts." default:"30s"`
	JSON       bool          `name:"json" help:"Print JSON."`
}

func (c *delayCommand) Run(ctx context.Context) error {
	dir, err := os.MkdirTemp(c.Dir, "fleet-delay-")
	if err != nil {
		return fmt.Errorf("delay: %w", err)
	}
	defer os.RemoveAll(dir)
	d := peers.Delay{Program: c.Tacho, Dir: filepath.Join(dir, "node"), Flags: []string{"--durability", c.Durability}, Messages: c.Messages, For: c.For}
	for _, percent := range c.Shares {
		if percent <= 0 || percent > 100 {
			return fmt.Errorf("delay: %v %% of the sustained rate", percent)
		}
		d.Shares = append(d.Shares, percent/100)
	}
	sustained, shares, err := d.Run(ctx)
	if err != nil {
		return err
	}
	if c.JSON {
		return json.NewEncoder(os.Stdout).Encode(map[string]any{"sustained_per_second": sustained, "shares": shares})
	}
	fmt.Printf("sustained: %.0f messages/s from a device's publish to both tables, durability %s\n", sustained, c.Durability)
	fmt.Println("share  offered/s  acknowledged/s  probes  p50       p99       longest   looked every  behind at the end")
	for _, s := range shares {
		fmt.Printf("%3.0f %%  %9.0f  %14.0f  %6d  %-8s  %-8s  %-8s  %-12s  %s\n", 100*s.Share, s.Offered, s.Got, s.Probes,
			s.P50.Round(time.Millisecond), s.P99.Round(time.Millisecond), s.Max.Round(time.Millisecond), s.Resolution.Round(time.Millisecond), s.Behind.Round(100*time.Millisecond))
	}
	return nil
}
