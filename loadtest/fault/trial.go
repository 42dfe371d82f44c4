package fault

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
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
	if r.IntN(shortLogEvery) == 0 {
		plan = append(plan, shortLog)
	}
	return plan
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
		if name == shortLog {
			err = t.shorten(ctx, own)
		} else {
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
	t.Cluster.proxy.Become(healthy)
	ctx, cancel := context.WithTimeoutCause(ctx, healing, fmt.Errorf("%s are over", healing))
	defer cancel()
	if err := errors.Join(t.Cluster.awaitEngine(ctx), t.Cluster.awaitGateway(ctx), t.Cluster.awaitWriter(ctx)); err != nil {
		return fmt.Errorf("heal: %w", err)
	}
	return nil
}
