package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/tachograph/tachograph/loadtest/peers"
)

type partsCommand struct {
	Tacho  string        `help:"The tacho program." default:"bin/tacho" type:"path"`
	Dir    string        `help:"Where the nodes keep their data meanwhile; the system's folder for temporary files by default." type:"existingdir" placeholder:"DIR"`
	Types  []int         `help:"Message types of each node, one node after the other." default:"1,10,100"`
	Rate   float64       `help:"Messages a second of a node, all types together." default:"2000"`
	For    time.Duration `help:"How long the load of a node lasts." default:"30m"`
	Every  time.Duration `help:"How often the tables are looked at." default:"1m"`
	AtOnce bool          `help:"All nodes beside each other."`
	JSON   bool          `name:"json" help:"Print JSON lines."`
}

func (c *partsCommand) Run(ctx context.Context) error {
	dir, err := os.MkdirTemp(c.Dir, "fleet-parts-")
	if err != nil {
		return fmt.Errorf("parts: %w", err)
	}
	defer os.RemoveAll(dir)
	if !c.JSON {
		fmt.Println("types     after   messages  parts of a table  (most)  of events  of a roll-up  inserts/s  into a table/s  merges/s  node us/msg  engine us/msg")
	}
	var mu sync.Mutex
	say := func(s peers.PartsSample) {
		mu.Lock()
		defer mu.Unlock()
		if c.JSON {
			_ = json.NewEncoder(os.Stdout).Encode(s) // numbers only
			return
		}
		fmt.Printf("%5d  %8s  %9d  %16.1f  %6d  %9d  %12.1f  %9.2f  %14.3f  %8.2f  %11.1f  %13.1f\n", s.Types, s.At.Round(time.Second), s.Messages,
			s.Parts, s.Most, s.Events, s.RollUps, s.Inserts, s.PerTable, s.Merges, s.Node, s.Engine)
	}
	run := func(types int) error {
		_, err := peers.Parts{Program: c.Tacho, Dir: filepath.Join(dir, fmt.Sprint(types)), Types: types, Rate: c.Rate, For: c.For, Every: c.Every, Say: say}.Run(ctx)
		return err
	}
	if !c.AtOnce {
		for _, types := range c.Types {
			if err := run(types); err != nil {
				return err
			}
		}
		return nil
	}
	var wg sync.WaitGroup
	errs := make([]error, len(c.Types))
	for i, types := range c.Types {
		wg.Go(func() { errs[i] = run(types) })
	}
	wg.Wait()
	return errors.Join(errs...)
}
