package fault

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"time"
)

// A fault is something that can happen. It returns when what it did is over, or
// when heal is to mend it.
type fault struct {
	name string
	do   func(ctx context.Context, t *Trial, r *rand.Rand) error
}

// In one trial of so many the log comes back shorter in the end.
const shortLogEvery = 6

var faults = []fault{
	{"kill the writer", func(ctx context.Context, t *Trial, r *rand.Rand) error {
		t.Cluster.KillWriters()
		return errors.Join(pause(ctx, ms(r, 0, 300)), t.Cluster.StartWriter())
	}},
	{"kill the writer as it starts", func(ctx context.Context, t *Trial, r *rand.Rand) error {
		for range 2 {
			t.Cluster.KillWriters()
			if err := errors.Join(t.Cluster.StartWriter(), pause(ctx, ms(r, 50, 900))); err != nil {
				return err
			}
		}
		t.Cluster.KillWriters()
		return t.Cluster.StartWriter()
	}},
	{"kill ClickHouse", func(ctx context.Context, t *Trial, r *rand.Rand) error {
		t.Cluster.anyEngine(r).host.KillEngine() // it may be down from the last time
		return pause(ctx, ms(r, 0, 1500))
	}},
	{"kill the host of ClickHouse", func(ctx context.Context, t *Trial, r *rand.Rand) error {
		e := t.Cluster.anyEngine(r)
		e.host.Kill()
		return errors.Join(pause(ctx, ms(r, 0, 300)), e.start(ctx), t.Cluster.StartWriter())
	}},
	{"kill NATS", func(ctx context.Context, t *Trial, r *rand.Rand) error {
		t.Cluster.KillNATS()
		return errors.Join(pause(ctx, ms(r, 0, 700)), t.Cluster.StartNATS())
	}},
	{"kill the gateway", func(ctx context.Context, t *Trial, r *rand.Rand) error {
		t.Cluster.KillGateway()
		return errors.Join(pause(ctx, ms(r, 0, 300)), t.Cluster.StartGateway())
	}},
	{"kill all at once", func(ctx context.Context, t *Trial, r *rand.Rand) error {
		t.Cluster.KillNATS()
		for _, e := range t.Cluster.engines {
			e.host.KillEngine()
		}
		t.Cluster.KillWriters()
		t.Cluster.KillGateway()
		return errors.Join(pause(ctx, ms(r, 0, 300)), t.Cluster.StartNATS(), t.Cluster.StartGateway(), t.Cluster.StartWriter())
	}},
	{"a second writer", func(ctx context.Context, t *Trial, r *rand.Rand) error {
		return errors.Join(t.Cluster.StartWriter(), pause(ctx, ms(r, 300, 2500)))
	}},
	{"pause the writer, start another", func(ctx context.Context, t *Trial, r *rand.Rand) error {
		old := t.Cluster.Writer()
		if old == nil {
			return nil
		}
		if err := t.Cluster.StartWriter(); err != nil {
			return err
		}
		// Wherever the other one is by then, the first goes on where it was.
		return freeze(ctx, old.cmd.Process.Pid, ms(r, 300, 4000))
	}},
	{"pause ClickHouse", func(ctx context.Context, t *Trial, r *rand.Rand) error {
		pid, err := t.Cluster.anyEngine(r).pid()
		if err != nil {
			return nil // it is being started again
		}
		_ = freeze(ctx, pid, ms(r, 100, 2000)) // it may end meanwhile
		return nil
	}},
	{"pause NATS", func(ctx context.Context, t *Trial, r *rand.Rand) error {
		return freeze(ctx, t.Cluster.nats.cmd.Process.Pid, ms(r, 100, 3000))
	}},
	{"lose answers of ClickHouse", func(ctx context.Context, t *Trial, r *rand.Rand) error {
		return ail(ctx, t.Cluster.anyEngine(r), loseAnswers, ms(r, 100, 1500))
	}},
	{"cut requests to ClickHouse", func(ctx context.Context, t *Trial, r *rand.Rand) error {
		return ail(ctx, t.Cluster.anyEngine(r), cutRequests, ms(r, 100, 1500))
	}},
	{"hold requests, kill their writer, let them go", func(ctx context.Context, t *Trial, r *rand.Rand) error {
		e := t.Cluster.anyEngine(r)
		e.become(holdAll)
		defer e.become(healthy)
		if err := pause(ctx, ms(r, 50, 800)); err != nil {
			return err
		}
		t.Cluster.KillWriters()
		return errors.Join(t.Cluster.StartWriter(), pause(ctx, ms(r, 0, 1500)))
	}},
	{"a new version of a schema", func(ctx context.Context, t *Trial, r *rand.Rand) error { return t.Senders.Grow(ctx) }},
	{"replay, kill the writer in it", func(ctx context.Context, t *Trial, r *rand.Rand) error {
		for deadline := time.Now().Add(60 * time.Second); ; {
			w := t.Cluster.Writer()
			if w == nil {
				return nil
			}
			if w.hasEnded() { // see awaitGateway
				if err := t.Cluster.StartWriter(); err != nil {
					return err
				}
				w = t.Cluster.Writer()
			}
			node, err := w.find()
			if err == nil {
				err = call(ctx, node, http.MethodPost, "/v1/replays/columnar", nil, nil)
			}
			if err == nil {
				break
			}
			if time.Now().After(deadline) {
				return fmt.Errorf("start a replay: %w", err)
			}
			if err := pause(ctx, 50*time.Millisecond); err != nil {
				return err
			}
		}
		// A replay of so few messages takes a second or a few.
		if err := pause(ctx, ms(r, 0, 5000)); err != nil {
			return err
		}
		t.Cluster.KillWriters()
		return t.Cluster.StartWriter()
	}},
}

func ms(r *rand.Rand, from, to int) time.Duration {
	return time.Duration(from+r.IntN(to-from)) * time.Millisecond
}

func ail(ctx context.Context, e *engine, a ailment, d time.Duration) error {
	e.become(a)
	defer e.become(healthy)
	return pause(ctx, d)
}
