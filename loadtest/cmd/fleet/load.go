package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/tachograph/tachograph/loadtest/fleet"
	"github.com/tachograph/tachograph/loadtest/ledger"
)

type loadCommand struct {
	target
	Protocol string        `help:"${enum}." enum:"mqtt,mqtt5,http,nats" default:"mqtt"`
	QoS      uint8         `name:"qos" help:"Of MQTT." enum:"0,1,2" default:"1"`
	Cars     int           `help:"Simulated cars, each on a connection of its own." default:"100"`
	Rate     float64       `help:"Messages a second of all cars together." default:"1000"`
	Duration time.Duration `help:"How long messages fall due." default:"10s"`
	Window   int           `help:"Unacknowledged messages of a car; further ones wait, and their latency counts." default:"20"`
	Bytes    int           `help:"Smallest payload." default:"125"`
	Seed     uint64        `help:"The same seed is the same load." default:"1"`
	Patience time.Duration `help:"How long after that answers, and ClickHouse with --verify, may take." default:"30s"`
	Verify   bool          `help:"Judge afterwards, as fleet verify does." default:"true" negatable:""`
	Ledger   string        `help:"Where to add what was acknowledged; in the data folder by default." type:"path" placeholder:"FILE"`
	JSON     bool          `name:"json" help:"Print JSON."`
}

func (c *loadCommand) Run(ctx context.Context) error {
	n, err := c.find(ctx)
	if err != nil {
		return err
	}
	if c.Ledger == "" {
		c.Ledger = filepath.Join(c.Data, "fleet", "load.tsv")
	}
	load := fleet.Load{
		Node: n, Protocol: c.Protocol, QoS: c.QoS, Cars: c.Cars, Rate: c.Rate, Duration: c.Duration,
		Window: c.Window, Bytes: c.Bytes, Seed: c.Seed, Patience: c.Patience,
	}
	report, err := load.Run(ctx)
	if err != nil {
		return err
	}
	if err := ledger.Append(c.Ledger, report.Entries); err != nil {
		return err
	}
	answer := struct {
		Verdict *ledger.Verdict `json:"verdict,omitempty"`
		*fleet.Report
		Latency map[string]float64 `json:"latency_ms"`
		Ledger  string             `json:"ledger"`
	}{Report: report, Latency: map[string]float64{}, Ledger: c.Ledger}
	for name, p := range map[string]float64{"p50": 50, "p90": 90, "p99": 99, "p99.9": 99.9, "p99.99": 99.99, "max": 100} {
		answer.Latency[name] = float64(report.Latency.At(p).Microseconds()) / 1000
	}
	if c.Verify && len(report.Entries) > 0 {
		v, err := n.Verify(ctx, report.Entries, c.Patience)
		if err != nil {
			return err
		}
		answer.Verdict = &v
	}
	if c.JSON {
		out := json.NewEncoder(os.Stdout)
		out.SetIndent("", "  ")
		if err := out.Encode(answer); err != nil {
			return err
		}
	} else {
		if answer.Verdict != nil {
			fmt.Println(answer.Verdict)
		}
		fmt.Println(report)
	}
	switch {
	case answer.Verdict != nil && !answer.Verdict.Good():
		return errors.New("load: not as promised")
	case report.Refused+report.Unanswered+report.Unsent > 0:
		return errors.New("load: not everything was acknowledged")
	}
	return nil
}
