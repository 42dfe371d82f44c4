package fault

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"time"
)

// A Trial lets devices send to a cluster, does to its parts what a seed says, has
// all parts healthy again and judges. A cluster can be tried again and again; each
// verdict is on all that it was ever sent.
type Trial struct {
	Cluster *Cluster
	Senders *Senders
	Seed    uint64
	Faults  []string // instead of the seed's choice, for tests
	Say     func(format string, args ...any)

	Shortened int // how often the log came back shorter, and it was noticed
	Splits    int // how often it was split
}

// Plan is what will happen, by name; all that is random is drawn from the seed.
func (t *Trial) Plan() []string {
	if t.Faults != nil {
		return t.Faults
	}
	r := rand.New(rand.NewPCG(t.Seed, 10))
	var plan []string
	for range 2 + r.IntN(3) {
		plan = append(plan, faults[r.IntN(len(faults))].name)
	}
	short := r.IntN(shortLogEvery) == 0
	if r.IntN(splitEvery) == 0 {
		plan = slices.Insert(plan, r.IntN(len(plan)+1), splitLog)
	}
	if short {
		plan = append(plan, shortLog)
	}
	return plan
}

// Shape draws what a cluster is like: its partitions and shards. shards is how many
// shards it must have, or 0.
func Shape(seed uint64, shards int) (partitions, of int) {
	r := rand.New(rand.NewPCG(seed, 13))
	of, more := 1+r.IntN(2), r.IntN(2)
	if shards > 0 {
		of = shards
	}
	return of + more, of
}

// How long the cluster may take until it is whole again, on a busy machine.
const (
	healing  = 4 * time.Minute
	catching = 4 * time.Minute
)

// Run returns the verdict; an error is what kept it from judging.
func (t *Trial) Run(ctx context.Context) (report Report, err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("trial: seed %d: %w", t.Seed, err)
		}
	}()
	r := rand.New(rand.NewPCG(t.Seed, 11))
	plan := t.Plan()
	t.Senders.Begin(ctx, t.Seed)
	for _, name := range plan {
		// A fault's own numbers do not depend on what became of the one before.
		own := rand.New(rand.NewPCG(r.Uint64(), 12))
		if err := pause(ctx, ms(own, 100, 900)); err != nil {
			return report, err
		}
		switch name {
		case shortLog:
			err = t.shorten(ctx, own)
		case splitLog:
			err = t.split(ctx, own)
		default:
			err = t.inject(ctx, name, own)
		}
		if err != nil {
			return report, fmt.Errorf("%s: %w", name, err)
		}
	}
	if err := t.heal(ctx); err != nil {
		return report, err
	}
	if err := t.Senders.End(healing); err != nil {
		return report, err
	}
	report, err = t.Cluster.Judge(ctx, t.Senders.Acknowledged(), catching)
	t.Say("seed %d: %s: %s", t.Seed, strings.Join(plan, ", "), report)
	return report, err
}

func (t *Trial) inject(ctx context.Context, name string, r *rand.Rand) error {
	for _, f := range faults {
		if f.name == name {
			return f.do(ctx, t, r)
		}
	}
	return errors.New("there is no such fault")
}

// heal leaves one writer, the newest, and waits until all are ready.
func (t *Trial) heal(ctx context.Context) error {
	for _, e := range t.Cluster.engines {
		e.become(healthy)
	}
	ctx, cancel := context.WithTimeoutCause(ctx, healing, fmt.Errorf("%s are over", healing))
	defer cancel()
	if err := errors.Join(t.Cluster.eachEngine(func(e *engine) error { return e.await(ctx) }), t.Cluster.awaitGateway(ctx), t.Cluster.awaitWriter(ctx)); err != nil {
		return fmt.Errorf("heal: %w", err)
	}
	return nil
}
