package latest

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/tachograph/tachograph/events"
)

// persist tries a step until it succeeds, fails for good or ctx ends, with a
// growing pause.
func (p *Projection) persist(ctx context.Context, step string, try func() error) error {
	pause := 50 * time.Millisecond
	for {
		err := p.cfg.Fault(step)
		if err == nil {
			if err = try(); err == nil {
				err = p.cfg.Fault(step + " done")
			}
		}
		switch {
		case err == nil:
			return nil
		case permanent(err), errors.Is(err, events.ErrDiverged), ctx.Err() != nil:
			return fmt.Errorf("%s: %w", step, err)
		}
		p.failed(step, err)
		select {
		case <-ctx.Done():
			return fmt.Errorf("%s: %w", step, err)
		case <-time.After(pause):
		}
		pause = min(2*pause, 5*time.Second)
	}
}

func (p *Projection) failed(step string, err error) {
	p.mu.Lock()
	p.status.Errors++
	p.status.CaughtUp = false
	p.status.LastError = step + ": " + err.Error()
	n := p.status.Errors
	p.mu.Unlock()
	if n&(n-1) == 0 { // the 1st, 2nd, 4th, 8th ...
		p.cfg.Logger.Warn("cannot go on yet; trying again", "projection", "latest", "step", step, "error", err, "failures", n)
	}
}
