package columnar

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// persist tries a step until it succeeds or ctx ends, with a growing pause.
func (w *Writer) persist(ctx context.Context, step string, try func() error) error {
	pause := 50 * time.Millisecond
	for failed := false; ; failed = true {
		err := w.cfg.Fault(step)
		if err == nil {
			if err = try(); err == nil {
				if failed {
					w.mended()
				}
				return w.cfg.Fault(step + " done")
			}
		}
		if ctx.Err() != nil || errors.Is(err, ErrFenced) || errors.Is(err, ErrOtherShards) {
			return fmt.Errorf("%s: %w", step, err)
		}
		w.failed(step, err)
		select {
		case <-ctx.Done():
			return fmt.Errorf("%s: %w", step, err)
		case <-time.After(pause):
		}
		pause = min(2*pause, 5*time.Second)
	}
}

// mended takes back what failed said: on a quiet partition no batch would.
func (w *Writer) mended() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.status.LastError, w.status.CaughtUp = "", true // as far as what it does next shows
}

// The steps that ClickHouse has no part in: the log cannot be read, or an event's schema is
// not known.
const (
	readStep   = "read the log"
	decodeStep = "decode"
)

func (w *Writer) failed(step string, err error) {
	w.mu.Lock()
	w.status.Errors++
	w.status.CaughtUp = false
	w.status.LastError = step + ": " + err.Error()
	w.unread = step == readStep
	n := w.status.Errors
	w.mu.Unlock()
	if step == decodeStep {
		w.cfg.Logger.Error("an event cannot be read yet; the log keeps what is to come", "step", step, "error", err)
	} else if hopeless(err) {
		w.cfg.Logger.Error("ClickHouse refuses; the log keeps what is to come", "step", step, "error", err)
	} else if n&(n-1) == 0 { // the 1st, 2nd, 4th, 8th ...
		w.cfg.Logger.Warn("ClickHouse is not available; trying again", "step", step, "error", err, "failures", n)
	}
}
