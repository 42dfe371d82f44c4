package latest

import (
	"context"
	"fmt"
	"iter"
	"log/slog"
	"time"

	"github.com/tachograph/tachograph/events"
	"github.com/tachograph/tachograph/projections/catalog"
)

// A Past answers with states as they were.
type Past struct {
	Log       events.Log
	Catalog   *catalog.Catalog
	Snapshots *Snapshots // nil: every look folds from the beginning
	Rules     Rules
	Logger    *slog.Logger // nil: none
}

// At returns a device's state as the log knew it at a time of arrival: what had
// arrived later is not in it. A device of which nothing had arrived has Events 0.
func (p *Past) At(ctx context.Context, device string, at time.Time) (State, error) {
	at = time.UnixMicro(at.UnixMicro()) // as exact as a state's own time
	state := p.start(ctx, device, at)
	evs := p.Log.ReadAfter(ctx, events.Stream{Kind: events.Telemetry, ID: device}, state.Position, events.Latest)
	if err := foldInto(&state, arrivedBy(evs, at), p.Catalog.Schemas(), p.Rules); err != nil {
		return State{}, err
	}
	return state, nil
}

// ByDevice returns a device's state by its own clock: what it had measured by
// then, whenever that arrived. Times that are not believed count by their arrival.
func (p *Past) ByDevice(ctx context.Context, device string, at time.Time) (State, error) {
	rules := p.Rules.complete()
	// Nothing in a state is ordered later than its newest arrival plus the
	// tolerance, so such a snapshot holds nothing that was measured later.
	state := p.start(ctx, device, at.Add(-rules.Tolerance))
	rules.Until = at
	evs := p.Log.ReadAfter(ctx, events.Stream{Kind: events.Telemetry, ID: device}, state.Position, events.Latest)
	if err := foldInto(&state, evs, p.Catalog.Schemas(), rules); err != nil {
		return State{}, err
	}
	return state, nil
}

// start returns a state to fold on from. A snapshot that cannot be had makes
// the look longer, not wrong.
func (p *Past) start(ctx context.Context, device string, at time.Time) State {
	if p.Snapshots != nil {
		state, ok, err := p.Snapshots.before(ctx, device, at)
		switch {
		case err != nil && p.Logger != nil && ctx.Err() == nil:
			p.Logger.Warn("no snapshot; folding from the beginning", "error", err)
		case ok && err == nil:
			return state
		}
	}
	return State{Device: device}
}

// arrivedBy ends a sequence at the first event that arrived later.
func arrivedBy(evs iter.Seq2[events.Event, error], at time.Time) iter.Seq2[events.Event, error] {
	return func(yield func(events.Event, error) bool) {
		for e, err := range evs {
			if err == nil && e.Received.After(at) || !yield(e, err) {
				return
			}
		}
	}
}

// Verify folds a device's history from the beginning and holds it against what
// a snapshot leads to; the error tells where they differ.
func (p *Past) Verify(ctx context.Context, device string, at time.Time) error {
	short, err := p.At(ctx, device, at)
	if err != nil {
		return err
	}
	whole := *p
	whole.Snapshots = nil
	long, err := whole.At(ctx, device, at)
	if err != nil {
		return err
	}
	if a, b := short.AppendJSON(nil), long.AppendJSON(nil); string(a) != string(b) {
		return fmt.Errorf("state of %s at %s: by snapshot %s, by the whole fold %s (remedy: delete the stream %s)", device, at.Format(time.RFC3339Nano), a, b, SnapshotStream)
	}
	return nil
}
