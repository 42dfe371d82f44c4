package peers

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"
)

// Parts is a steady load of several message types on one node, to see what its
// tables are made of after a while.
type Parts struct {
	Program, Dir string
	Types        int     // message types, each with a table and its roll-ups
	Rate         float64 // messages a second of all types together
	For, Every   time.Duration
	Say          func(PartsSample)
}

// A PartsSample is how the tables are at one moment. Rates are since the
// sample before it.
type PartsSample struct {
	Types    int           `json:"types"`
	At       time.Duration `json:"at_ns"`
	Messages int           `json:"messages"`        // rows of tacho.events
	Parts    float64       `json:"parts_per_table"` // active, mean over the message types' tables
	Most     int           `json:"most_parts"`      // of one of them
	Events   int           `json:"events_parts"`
	RollUps  float64       `json:"roll_up_parts_per_table"`
	Inserts  float64       `json:"inserts_per_second"`       // into all tables, roll-ups and checkpoints too
	PerTable float64       `json:"inserts_per_table_second"` // into a message type's table
	Merges   float64       `json:"merges_per_second"`
	Node     float64       `json:"node_cpu_us"` // a message
	Engine   float64       `json:"engine_cpu_us"`

	inserts, merges, blocks int
	node, engine            time.Duration
}

// partsSchema is what each of the types consists of.
const partsSchema = `syntax = "proto3";
import "google/protobuf/timestamp.proto";
message Load {
  google.protobuf.Timestamp time = 1;
  optional double latitude = 2;
  optional double longitude = 3;
  optional double altitude = 4;
  optional double heading = 5;
  optional float speed = 6;
  optional string fix = 7;
}`

// partsDevices send by turns; each sends one type.
const partsDevices = 100

// Run returns the samples; the last one is of the end. Every message must be in its table by then.
func (p Parts) Run(ctx context.Context) (samples []PartsSample, err error) {
	if p.Types < 1 || p.Types > 1000 || p.Rate <= 0 || p.For <= 0 || p.Every <= 0 {
		return nil, fmt.Errorf("parts: %d types, rate %v, %s by %s", p.Types, p.Rate, p.For, p.Every)
	}
	t, err := StartTacho(ctx, p.Program, p.Dir)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, t.Stop()) }()
	e, err := t.Engine()
	if err != nil {
		return nil, err
	}
	for i := range p.Types {
		if err := t.Node.AddSchema(ctx, typeName(i), partsSchema); err != nil {
			return nil, fmt.Errorf("parts: %w", err)
		}
	}
	devices := make([]string, max(partsDevices, p.Types))
	for i := range devices {
		devices[i] = "parts-" + strconv.Itoa(i)
	}
	if err := t.Register(ctx, devices); err != nil {
		return nil, err
	}
	topic := func(device string) string {
		i, _ := strconv.Atoi(strings.TrimPrefix(device, "parts-")) // made above
		return "telemetry/" + typeName(i%p.Types)
	}
	flood := Flood{Addr: t.Node.MQTT, Devices: devices, Login: t.Login, Topic: topic, Window: 20, Rate: p.Rate, Messages: int(p.Rate * p.For.Seconds()), Limit: p.For + time.Minute}
	crowd, err := flood.Connect(ctx)
	if err != nil {
		return nil, err
	}
	defer crowd.Close()
	began := time.Now()
	last, err := p.sample(ctx, t, e, PartsSample{}, 0)
	if err != nil {
		return nil, err
	}
	type outcome struct {
		Result
		err error
	}
	ended := make(chan outcome, 1)
	running, cancel := context.WithCancel(ctx)
	defer cancel()
	go func() {
		r, err := crowd.Run(running)
		ended <- outcome{r, err}
	}()
	for {
		next := time.After(time.Until(began.Add(last.At + p.Every)))
		over := false
		var sent outcome
		select {
		case sent = <-ended:
			over = true
			if sent.err != nil {
				return samples, sent.err
			}
			if err := p.await(ctx, e, sent.Acknowledged); err != nil {
				return samples, err
			}
		case <-next:
		}
		if last, err = p.sample(ctx, t, e, last, time.Since(began)); err != nil {
			cancel()
			return samples, err
		}
		samples = append(samples, last)
		if p.Say != nil {
			p.Say(last)
		}
		if over {
			return samples, nil
		}
	}
}

func typeName(i int) string { return fmt.Sprintf("load%03d", i) }

// await waits until all messages are rows of their type's table and of events.
func (p Parts) await(ctx context.Context, e *Engine, messages int) error {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Minute)
	defer cancel()
	for {
		n, err := e.Count(ctx, `SELECT least((SELECT sum(total_rows) FROM system.tables WHERE database = 'tacho' AND name LIKE 'load%'),
			(SELECT count() FROM events WHERE kind = 'telemetry'))`)
		if err == nil && n == messages {
			return nil
		}
		if n > messages {
			return fmt.Errorf("parts: %d rows of %d messages", n, messages)
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("parts: %d rows of %d messages: %w (%v)", n, messages, ctx.Err(), err)
		case <-time.After(200 * time.Millisecond):
		}
	}
}

// sample asks the engine how its tables are. A block number is taken by each
// insert into a partition, so the highest one counts the inserts into a table.
func (p Parts) sample(ctx context.Context, t *Tacho, e *Engine, last PartsSample, at time.Duration) (s PartsSample, err error) {
	s.Types, s.At = p.Types, at
	rows, err := e.Rows(ctx, `SELECT table, sum(parts), sum(blocks), sum(n) FROM (
		SELECT table, partition, count() AS parts, max(max_block_number) AS blocks, sum(rows) AS n FROM system.parts
		WHERE active AND database = 'tacho' GROUP BY table, partition) GROUP BY table`)
	if err != nil {
		return s, fmt.Errorf("parts: %w", err)
	}
	rollUps, rollUpTables := 0, 0
	for _, r := range rows {
		var n [3]int
		for i := range n {
			if n[i], err = strconv.Atoi(r[1+i]); err != nil {
				return s, fmt.Errorf("parts: %w", err)
			}
		}
		switch parts, blocks, count := n[0], n[1], n[2]; {
		case r[0] == "events":
			s.Events, s.Messages = parts, count
		case strings.HasPrefix(r[0], "load"):
			s.Parts += float64(parts) / float64(p.Types)
			s.Most, s.blocks = max(s.Most, parts), s.blocks+blocks
		case strings.HasPrefix(r[0], "_load"):
			rollUps, rollUpTables = rollUps+parts, rollUpTables+1
		}
	}
	s.RollUps = float64(rollUps) / float64(max(1, rollUpTables))
	if s.inserts, err = e.Count(ctx, "SELECT sum(value) FROM system.events WHERE event = 'InsertQuery'"); err != nil {
		return s, err
	}
	if s.merges, err = e.Count(ctx, "SELECT sum(value) FROM system.events WHERE event = 'Merge'"); err != nil {
		return s, err
	}
	if s.node, err = CPU(t.PID()); err != nil {
		return s, err
	}
	if s.engine, err = CPU(e.PID()); err != nil {
		return s, err
	}
	if passed := (s.At - last.At).Seconds(); passed > 0 {
		s.Inserts, s.Merges = float64(s.inserts-last.inserts)/passed, float64(s.merges-last.merges)/passed
		s.PerTable = float64(s.blocks-last.blocks) / passed / float64(p.Types)
	}
	if n := float64(s.Messages - last.Messages); n > 0 && last.node > 0 {
		s.Node, s.Engine = float64((s.node-last.node).Microseconds())/n, float64((s.engine-last.engine).Microseconds())/n
	}
	return s, nil
}
