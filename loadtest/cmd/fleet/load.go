package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"github.com/tachograph/tachograph/events"
	"github.com/tachograph/tachograph/loadtest/fleet"
	"github.com/tachograph/tachograph/loadtest/ledger"
	"github.com/tachograph/tachograph/loadtest/peers/openloop"
)

type loadCommand struct {
	Data     string        `help:"Data folder of the node." default:"data" type:"path"`
	Rate     float64       `help:"Messages a second of all devices together." default:"1000"`
	Devices  int           `help:"Devices." default:"100"`
	Window   int           `help:"Messages of a device that wait for their acknowledgement; further ones wait too, and their latency counts." default:"20"`
	Duration time.Duration `help:"How long messages are due." default:"10s"`
	Patience time.Duration `help:"How long after that answers, and ClickHouse with --verify, may take." default:"30s"`
	Seed     uint64        `help:"The same seed is the same schedule." default:"1"`
	Protocol string        `help:"${enum}." enum:"mqtt,http" default:"mqtt"`
	Ledger   string        `help:"File of what was acknowledged; in the data folder by default." type:"path"`
	Verify   bool          `help:"Judge afterwards, as fleet verify does."`
	JSON     bool          `name:"json" help:"Print JSON."`
}

func (c *loadCommand) Run(ctx context.Context) error {
	n, err := fleet.Find(c.Data)
	if err != nil {
		return err
	}
	if err := n.AwaitReady(ctx); err != nil {
		return err
	}
	plan := openloop.Plan{Rate: c.Rate, Devices: c.Devices, Duration: c.Duration, Seed: c.Seed}
	if _, err := plan.Schedule(); err != nil { // before devices are registered for it
		return err
	}
	ids := make([]string, c.Devices)
	for i := range ids {
		ids[i] = "load-" + strconv.Itoa(i+1)
	}
	tokens, err := n.Tokens(ctx, ids)
	if err != nil {
		return err
	}
	if c.Ledger == "" {
		c.Ledger = filepath.Join(c.Data, "fleet", "load.ledger")
	}
	acked, err := ledger.Open(c.Ledger)
	if err != nil {
		return err
	}
	client := &http.Client{Transport: &http.Transport{MaxIdleConns: 1000, MaxIdleConnsPerHost: 1000, MaxConnsPerHost: 1000}, Timeout: c.Patience}
	load := openloop.Load{
		Plan: plan, Window: c.Window, Patience: c.Patience,
		Dial: func(i int) openloop.Link {
			if c.Protocol == "http" {
				return &openloop.HTTP{Client: client, Token: tokens[ids[i]],
					URL: "http://" + n.HTTP + "/v1/devices/" + url.PathEscape(ids[i]) + "/telemetry/position"}
			}
			return &openloop.MQTT{Addr: n.MQTT, Device: ids[i], Token: tokens[ids[i]], Topic: "telemetry/position"}
		},
		Acked: func(i int, payload []byte) error {
			return acked.Add(ledger.Entry{Device: ids[i], Type: "position", ID: events.DeriveID(ids[i], "position", payload)})
		},
	}
	report, err := load.Run(ctx)
	client.CloseIdleConnections()
	if err = errors.Join(err, acked.Close()); err != nil {
		return fmt.Errorf("load: %w", err)
	}
	var verdict *ledger.Verdict
	if c.Verify {
		entries, err := ledger.Read(c.Ledger)
		if err != nil {
			return err
		}
		v, err := n.Verify(ctx, entries, c.Patience)
		if err != nil {
			return err
		}
		verdict = &v
	}
	if err := c.print(report, verdict); err != nil {
		return err
	}
	if verdict != nil && !verdict.Good() {
		return errors.New("load: not as promised")
	}
	if report.Refused+report.Unanswered > 0 {
		return errors.New("load: not everything was acknowledged")
	}
	return nil
}

func (c *loadCommand) print(r *openloop.Report, v *ledger.Verdict) error {
	seconds := max(r.Elapsed, time.Millisecond).Seconds()
	percentiles := []float64{50, 90, 99, 99.9, 100}
	latency := map[string]float64{}
	for _, p := range percentiles {
		latency["p"+strconv.FormatFloat(p, 'f', -1, 64)] = float64(r.Latency.ValueAtPercentile(p)) / 1000
	}
	if c.JSON {
		out := json.NewEncoder(os.Stdout)
		out.SetIndent("", "  ")
		return out.Encode(map[string]any{
			"verdict": v, "refused": r.Refused, "unanswered": r.Unanswered, "sent_again": r.Again, "acknowledged": r.Acknowledged,
			"offered": r.Offered, "per_second": float64(r.Acknowledged) / seconds, "latency_ms": latency, "ledger": c.Ledger,
		})
	}
	if v != nil {
		fmt.Println(v)
	} else {
		fmt.Printf("judge with: fleet verify --data %s --ledger %s\n", c.Data, c.Ledger)
	}
	fmt.Printf("%d refused, %d unanswered, %d sent again; %d of %d acknowledged in %.1f s, %.0f/s\n",
		r.Refused, r.Unanswered, r.Again, r.Acknowledged, r.Offered, seconds, float64(r.Acknowledged)/seconds)
	if r.Example != nil {
		fmt.Println("for example:", r.Example)
	}
	fmt.Print("milliseconds from due to acknowledged:")
	for _, p := range percentiles[:len(percentiles)-1] {
		fmt.Printf("  %v%%: %.2f", p, float64(r.Latency.ValueAtPercentile(p))/1000)
	}
	fmt.Printf("  longest: %.2f\n", float64(r.Latency.Max())/1000)
	return nil
}
