package peers

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// Ways compares ways from the log into ClickHouse on one stream: the node with
// its two tables; its parts, each alone and bare; a plain consumer and Telegraf
// with one table each.
type Ways struct {
	Program, Dir    string
	Telegraf        string // the program; "" leaves it out
	Messages, Count int    // of the log; rounds
	Forms           []Form
	Say             func(string)
}

// A Way is the medians of one way, CPU in microseconds a message.
type Way struct {
	Form     string  `json:"form"`
	Name     string  `json:"name"`
	Settings string  `json:"settings,omitempty"`
	Rate     float64 `json:"messages_per_second"`
	Client   float64 `json:"client_us"`
	NATS     float64 `json:"nats_us"`
	Engine   float64 `json:"clickhouse_us"`
	Sum      float64 `json:"sum_us"`
	Lowest   float64 `json:"lowest_sum_us"`
	Highest  float64 `json:"highest_sum_us"`
	OfParts  float64 `json:"of_bare_parts,omitempty"` // the node's sum by that of the drain and the insert, median of the rounds
	OfNode   float64 `json:"of_node,omitempty"`       // a peer's sum by the node's
	Lost     int     `json:"lost"`
	Doubled  int     `json:"doubled"`
	Measured bool    `json:"measured"`
}

// The names of the ways, in the order of the table.
const (
	wayDrain    = "bare ordered drain"
	wayInsert   = "bare insert of the same rows, both tables"
	wayNode     = "tachograph, both tables"
	wayPlain    = "plain clickhouse-go consumer, one table"
	wayTelegraf = "Telegraf, one table"
)

// Run measures all ways in every round, with an empty ClickHouse each time.
func (w Ways) Run(ctx context.Context, args ...string) (all []Way, err error) {
	if w.Messages < smallest || w.Count < 1 {
		return nil, fmt.Errorf("ways: %d messages, %d rounds; at least %d messages", w.Messages, w.Count, smallest)
	}
	for _, form := range w.Forms {
		ways, err := w.form(ctx, form, args)
		if err != nil {
			return nil, fmt.Errorf("ways: %s: %w", form, err)
		}
		all = append(all, ways...)
	}
	return all, nil
}

func (w Ways) form(ctx context.Context, form Form, args []string) (_ []Way, err error) {
	r, err := newRig(ctx, w, form, args...)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, r.stop(), r.close()) }()
	got := map[string][]cost{}
	for round := range w.Count {
		if err := r.round(ctx, round, got); err != nil {
			return nil, err
		}
		if w.Say != nil {
			n := got[wayNode][round]
			w.Say(fmt.Sprintf("%s, round %d of %d: %.2f us a message, %.2f of its bare parts", form, round+1, w.Count,
				micros(n.sum(), r.messages), float64(n.sum())/float64(got[wayDrain][round].sum()+got[wayInsert][round].sum())))
		}
	}
	return r.table(got), nil
}

func (r *Rig) round(ctx context.Context, round int, got map[string][]cost) error {
	node, err := r.runNode(ctx)
	if err != nil {
		return err
	}
	got[wayNode] = append(got[wayNode], node)
	var rows []readyMade
	for _, table := range []string{"position", "events"} {
		m, err := r.takeRows(ctx, table, "*")
		if err != nil {
			return err
		}
		rows = append(rows, m)
	}
	legs := []struct {
		name string
		run  func(context.Context) (cost, error)
	}{
		{wayDrain, r.bareDrain},
		{wayInsert, func(ctx context.Context) (cost, error) { return r.bareInsert(ctx, rows) }},
		{wayPlain, r.runPlain},
		{wayTelegraf, func(ctx context.Context) (cost, error) { return r.runTelegraf(ctx, r.messages) }},
	}
	for i := range legs {
		leg := legs[(i+round)%len(legs)] // by turns, so that none always follows the same one
		if leg.name == wayTelegraf && r.telegraf == "" {
			continue
		}
		c, err := leg.run(ctx)
		if err != nil {
			return fmt.Errorf("%s: %w", leg.name, err)
		}
		got[leg.name] = append(got[leg.name], c)
	}
	return nil
}

func (r *Rig) table(got map[string][]cost) (ways []Way) {
	each := func(name string, of func(cost) float64) (all []float64) {
		for _, c := range got[name] {
			all = append(all, of(c))
		}
		return all
	}
	per := func(of func(cost) time.Duration) func(cost) float64 {
		return func(c cost) float64 { return micros(of(c), r.messages) }
	}
	sum := per(cost.sum)
	node := each(wayNode, sum)
	parts := each(wayDrain, sum)
	for i, insert := range each(wayInsert, sum) {
		parts[i] += insert
	}
	for _, name := range []string{wayDrain, wayInsert, wayNode, wayPlain, wayTelegraf} {
		s := summary(each(name, sum))
		way := Way{Form: r.form.String(), Name: name, Measured: len(got[name]) > 0, Sum: s.median, Lowest: s.lowest, Highest: s.highest,
			Rate:   Median(each(name, func(c cost) float64 { return c.rate })),
			Client: Median(each(name, per(func(c cost) time.Duration { return c.client }))),
			NATS:   Median(each(name, per(func(c cost) time.Duration { return c.nats }))),
			Engine: Median(each(name, per(func(c cost) time.Duration { return c.engine }))),
		}
		for _, c := range got[name] {
			way.Lost, way.Doubled = way.Lost+c.lost, way.Doubled+c.doubled
		}
		switch name {
		case wayNode:
			way.OfParts = Median(ratios(node, parts))
		case wayPlain:
			way.Settings, way.OfNode = plainSettings, Median(ratios(each(name, sum), node))
		case wayTelegraf:
			way.Settings, way.OfNode = telegrafSettings, Median(ratios(each(name, sum), node))
		}
		ways = append(ways, way)
	}
	return ways
}

func micros(d time.Duration, messages int) float64 {
	return float64(d.Microseconds()) / float64(messages)
}
