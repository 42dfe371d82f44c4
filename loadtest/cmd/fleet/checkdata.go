package main

import (
	"bytes"
	"fmt"
	"time"

	"github.com/tachograph/tachograph/loadtest/fleet"
	"github.com/tachograph/tachograph/loadtest/testdata"
)

type checkDataCommand struct{}

func (checkDataCommand) Run() error {
	fixes, err := fleet.ReadDrives(bytes.NewReader(testdata.CapMetro))
	if err != nil {
		return err
	}
	f := fleet.FactsOf(fixes)
	fmt.Printf("%d rows, %d vehicles, %d routes, from %s to %s; speeds sum %.4f m/s, maximum %.4f; %s has most rows, %d; %d pairs share vehicle and time\n",
		f.Rows, f.Devices, f.Routes, f.First.Format(time.RFC3339), f.Last.Format(time.RFC3339), f.SpeedSum, f.SpeedMax, f.Busiest, f.BusiestRows, f.SameTime)
	return f.Check()
}
