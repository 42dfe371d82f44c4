package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"text/tabwriter"
	"time"

	"github.com/tachograph/tachograph/loadtest/peers"
)

type benchCommand struct {
	Tacho    string   `help:"The tacho program." default:"bin/tacho" type:"path"`
	Dir      string   `help:"Where the servers keep their data meanwhile; its disk is what is measured. The system's folder for temporary files by default." type:"existingdir" placeholder:"DIR"`
	Count    int      `help:"Runs, for medians." default:"3"`
	Messages int      `help:"Most messages of a run." default:"200000"`
	Seconds  float64  `help:"Longest publishing of a run." default:"4"`
	Rows     int      `help:"Messages for ClickHouse; 0 leaves it out." default:"1000000"`
	Log      int      `help:"Messages in the log for the ways from there into ClickHouse; 0 leaves them out." default:"500000"`
	Telegraf string   `help:"The telegraf program, for one of these ways; make telegraf builds it." type:"existingfile" placeholder:"FILE"`
	Only     []string `help:"Leave out the rest: ${enum}." enum:"disk,os,fast,nats,bare,columnar,json,protobuf,layouts,decode" placeholder:"WHAT"`
	JSON     bool     `name:"json" help:"Print JSON instead of the table."`
}

// A shape is how many connections publish, and how.
type shape struct {
	name                string
	connections, window int
}

var shapes = []shape{
	{"100 connections, window 20", 100, 20},
	{"1,000 connections, window 1", 1000, 1},
}

// The servers and paths that are measured, in the order of the table.
var targets = []string{"disk", "os", "fast", "nats", "bare"}

var targetNames = map[string]string{
	"disk": "tacho --durability disk", "os": "tacho --durability os", "fast": "tacho --durability fast",
	"nats": "nats-server's MQTT", "bare": "bare JetStream async, 4,000 pending",
}

// A measure is one run of one target in one shape.
type measure struct {
	rate, server, client float64 // messages a second; microseconds of CPU a message
	missing              float64 // acknowledged and not stored
	syncs                float64 // fsyncs for 1,000 messages; below 0 if the node doesn't say
}

// A line is the medians of a target in a shape.
type line struct {
	Shape                 string   `json:"shape"`
	Target                string   `json:"target"`
	Runs                  int      `json:"runs"`
	Rate                  float64  `json:"messages_per_second"`
	Lowest                float64  `json:"lowest"`
	Highest               float64  `json:"highest"`
	NATS                  float64  `json:"of_nats_mqtt,omitempty"`
	Bare                  float64  `json:"of_bare_async,omitempty"`
	ServerCPU             float64  `json:"server_cpu_us"`
	ClientCPU             float64  `json:"client_cpu_us"`
	CPU                   float64  `json:"cpu_of_nats_mqtt,omitempty"` // server and client together
	Syncs                 *float64 `json:"fsyncs_per_1000,omitempty"`
	AcknowledgedNotStored float64  `json:"acknowledged_not_stored"`
}

type benchReport struct {
	Machine  string                `json:"machine"`
	Accept   []line                `json:"accept"`
	Columnar *peers.ColumnarResult `json:"columnar,omitempty"`
	Ways     []peers.Way           `json:"ways,omitempty"`
	Layouts  []peers.Layout        `json:"layouts,omitempty"`
	Decoding []peers.Decoding      `json:"decoding,omitempty"`
}

func (c *benchCommand) Run(ctx context.Context) error {
	peers.MaybeChild()
	if c.Count < 1 || c.Messages < 1 || c.Seconds <= 0 || c.Rows < 0 || c.Log < 0 {
		return fmt.Errorf("bench: count %d, messages %d, seconds %v, rows %d, log %d", c.Count, c.Messages, c.Seconds, c.Rows, c.Log)
	}
	dir, err := os.MkdirTemp(c.Dir, "fleet-bench-")
	if err != nil {
		return fmt.Errorf("bench: %w", err)
	}
	defer os.RemoveAll(dir)
	report := benchReport{Machine: fmt.Sprintf("%d cores, %s/%s, %s", runtime.NumCPU(), runtime.GOOS, runtime.GOARCH, runtime.Version())}
	got := map[shape]map[string][]measure{}
	for _, s := range shapes {
		got[s] = map[string][]measure{}
	}
	for round := range c.Count {
		// The order turns, so that no target always follows the same one.
		for i := range targets {
			target := targets[(i+round)%len(targets)]
			if !c.wants(target) {
				continue
			}
			if err := c.accept(ctx, filepath.Join(dir, "server"), target, got); err != nil {
				return fmt.Errorf("bench: %s: %w", targetNames[target], err)
			}
			fmt.Fprintf(os.Stderr, "round %d of %d: %s: %s\n", round+1, c.Count, targetNames[target], newest(target, got))
		}
	}
	for _, s := range shapes {
		report.Accept = append(report.Accept, lines(s, got[s])...)
	}
	if c.wants("columnar") && c.Rows > 0 {
		fmt.Fprintf(os.Stderr, "columnar: %d messages, %d runs\n", c.Rows, c.Count)
		r, err := peers.Columnar(ctx, c.Tacho, filepath.Join(dir, "columnar"), c.Rows, c.Count)
		if err != nil {
			return fmt.Errorf("bench: columnar: %w", err)
		}
		report.Columnar = &r
	}
	if err := c.log(ctx, dir, &report); err != nil {
		return fmt.Errorf("bench: %w", err)
	}
	if c.JSON {
		out := json.NewEncoder(os.Stdout)
		out.SetIndent("", "  ")
		return out.Encode(report)
	}
	return report.print(os.Stdout)
}

func (c *benchCommand) wants(what string) bool {
	return len(c.Only) == 0 || slices.Contains(c.Only, what)
}

// A target under measurement.
type benched interface {
	PID() int
	Stored(context.Context) (int, error)
	Stop() error
}

// accept measures one target in all shapes, on a fresh server.
func (c *benchCommand) accept(ctx context.Context, dir, target string, got map[shape]map[string][]measure) (err error) {
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	limit := time.Duration(c.Seconds * float64(time.Second))
	most := slices.MaxFunc(shapes, func(a, b shape) int { return a.connections - b.connections }).connections
	all := devices(most)
	var server benched
	// prepare returns a run that is about to begin, and what ends it.
	var prepare func(shape) (run func(context.Context) (peers.Result, error), end func(), err error)
	flood := peers.Flood{Messages: c.Messages, Limit: limit}
	switch target {
	case "nats", "bare":
		n, err := peers.StartNATS(ctx, dir, "bench")
		if err != nil {
			return err
		}
		server = n
		if err := n.CreateStream(ctx); err != nil {
			return errors.Join(err, n.Stop())
		}
		flood.Addr, flood.Login, flood.Topic = n.MQTT, n.Login, n.Topic
		if target == "bare" {
			prepare = func(s shape) (func(context.Context) (peers.Result, error), func(), error) {
				return func(ctx context.Context) (peers.Result, error) {
					return n.Publish(ctx, all[:s.connections], c.Messages, limit)
				}, func() {}, nil
			}
		}
	default:
		// Without projections: nats-server has none either.
		t, err := peers.StartTacho(ctx, c.Tacho, dir, "--role", "gateway,api", "--durability", target)
		if err != nil {
			return err
		}
		server = t
		if err := t.Register(ctx, all); err != nil {
			return errors.Join(err, t.Stop())
		}
		flood.Addr, flood.Login, flood.Topic = t.Node.MQTT, t.Login, t.Topic
	}
	defer func() { err = errors.Join(err, server.Stop()) }()
	if prepare == nil {
		prepare = func(s shape) (func(context.Context) (peers.Result, error), func(), error) {
			flood.Devices, flood.Window = all[:s.connections], s.window
			crowd, err := flood.Connect(ctx)
			if err != nil {
				return nil, nil, err
			}
			return crowd.Run, crowd.Close, nil
		}
	}
	for _, s := range shapes {
		run, end, err := prepare(s)
		if err != nil {
			return fmt.Errorf("%s: %w", s.name, err)
		}
		m, err := observe(ctx, server, run)
		end()
		if err != nil {
			return fmt.Errorf("%s: %w", s.name, err)
		}
		got[s][target] = append(got[s][target], m)
	}
	return nil
}

// observe measures a run: its rate, what it cost, and what of it is stored.
func observe(ctx context.Context, server benched, run func(context.Context) (peers.Result, error)) (m measure, err error) {
	type reading struct {
		server, client time.Duration
		syncs, stored  int
		syncsKnown     bool
	}
	read := func() (r reading, err error) {
		if r.server, err = peers.CPU(server.PID()); err != nil {
			return r, err
		}
		if r.client, err = peers.CPU(os.Getpid()); err != nil {
			return r, err
		}
		if t, ok := server.(*peers.Tacho); ok {
			if r.syncs, r.syncsKnown, err = t.Syncs(ctx); err != nil {
				return r, err
			}
		}
		r.stored, err = server.Stored(ctx)
		return r, err
	}
	before, err := read()
	if err != nil {
		return m, err
	}
	result, err := run(ctx)
	if err != nil {
		return m, err
	}
	after, err := read()
	if err != nil {
		return m, err
	}
	// nats-server's PUBACK does not wait for the stream, so it gets a while.
	for range 40 {
		if after.stored-before.stored >= result.Acknowledged {
			break
		}
		time.Sleep(50 * time.Millisecond)
		if after.stored, err = server.Stored(ctx); err != nil {
			return m, err
		}
	}
	n := float64(max(1, result.Acknowledged))
	m = measure{
		rate: result.Rate(), server: float64((after.server - before.server).Microseconds()) / n,
		client: float64((after.client - before.client).Microseconds()) / n, syncs: -1,
		missing: n - min(n, float64(after.stored-before.stored)),
	}
	if after.syncsKnown {
		m.syncs = float64(after.syncs-before.syncs) * 1000 / n
	}
	return m, nil
}

func devices(n int) []string {
	all := make([]string, n)
	for i := range all {
		all[i] = "bench-" + strconv.Itoa(i+1)
	}
	return all
}

func lines(s shape, runs map[string][]measure) []line {
	median := func(target string, of func(measure) float64) float64 {
		var all []float64
		for _, m := range runs[target] {
			all = append(all, of(m))
		}
		return peers.Median(all)
	}
	rate := func(m measure) float64 { return m.rate }
	cpu := func(m measure) float64 { return m.server + m.client }
	nats, bare, natsCPU := median("nats", rate), median("bare", rate), median("nats", cpu)
	var all []line
	for _, target := range targets {
		if len(runs[target]) == 0 {
			continue
		}
		slices.SortFunc(runs[target], func(a, b measure) int { return int(a.rate - b.rate) })
		l := line{
			Shape: s.name, Target: targetNames[target], Runs: len(runs[target]), Rate: median(target, rate),
			Lowest: runs[target][0].rate, Highest: runs[target][len(runs[target])-1].rate,
			ServerCPU: median(target, func(m measure) float64 { return m.server }),
			ClientCPU: median(target, func(m measure) float64 { return m.client }),
		}
		for _, m := range runs[target] {
			l.AcknowledgedNotStored += m.missing
		}
		if nats > 0 && natsCPU > 0 {
			l.NATS = l.Rate / nats
			l.CPU = median(target, cpu) / natsCPU
		}
		if bare > 0 {
			l.Bare = l.Rate / bare
		}
		if syncs := median(target, func(m measure) float64 { return m.syncs }); syncs >= 0 && target == "disk" {
			l.Syncs = &syncs
		}
		all = append(all, l)
	}
	return all
}

func newest(target string, got map[shape]map[string][]measure) string {
	text := ""
	for _, s := range shapes {
		if runs := got[s][target]; len(runs) > 0 {
			text += fmt.Sprintf("%s: %.0f/s  ", s.name, runs[len(runs)-1].rate)
		}
	}
	return text
}

func (r benchReport) print(w io.Writer) error {
	fmt.Fprintln(w, r.Machine)
	tab := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
	heading := ""
	for _, l := range r.Accept {
		if l.Shape != heading {
			heading = l.Shape
			fmt.Fprintf(tab, "\nMQTT QoS 1, %s\tmsg/s\t(lowest\thighest)\tof nats-server's MQTT\tof bare async\tserver us/msg\tclient us/msg\tCPU of nats-server's MQTT\tfsyncs/1,000\tacknowledged, not stored\t\n", heading)
		}
		syncs := "-"
		if l.Syncs != nil {
			syncs = fmt.Sprintf("%.2f", *l.Syncs)
		}
		fmt.Fprintf(tab, "%s\t%.0f\t%.0f\t%.0f\t%s\t%s\t%.1f\t%.1f\t%s\t%s\t%.0f\t\n", l.Target, l.Rate, l.Lowest, l.Highest,
			ratio(l.NATS), ratio(l.Bare), l.ServerCPU, l.ClientCPU, ratio(l.CPU), syncs, l.AcknowledgedNotStored)
	}
	if c := r.Columnar; c != nil {
		fmt.Fprintf(tab, "\nClickHouse, %d messages, tables events and position\tmsg/s\t(lowest\thighest)\tof bare insert\t\n", c.Messages)
		fmt.Fprintf(tab, "columnar draining the log\t%.0f\t%.0f\t%.0f\t%s\t\n", c.Drain, slices.Min(c.Drains), slices.Max(c.Drains), ratio(c.Drain/c.Insert))
		fmt.Fprintf(tab, "bare clickhouse-go insert, ready-made blocks of 100,000\t%.0f\t%.0f\t%.0f\t%s\t\n", c.Insert, slices.Min(c.Inserts), slices.Max(c.Inserts), ratio(1))
	}
	printWays(tab, r.Ways)
	printLayouts(tab, r.Layouts)
	printDecoding(tab, r.Decoding)
	return tab.Flush()
}

func ratio(x float64) string {
	if x == 0 {
		return "-"
	}
	return fmt.Sprintf("%.2f", x)
}
