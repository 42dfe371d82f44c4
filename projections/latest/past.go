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
// Stretches of its history in which everything was measured later are passed over.
func (p *Past) ByDevice(ctx context.Context, device string, at time.Time) (State, error) {
	w := walk{past: p, rules: p.Rules.complete(), until: at.UnixMicro(), state: State{Device: device}}
	w.rules.Until = at
	if p.Snapshots != nil {
		if err := w.snapshots(ctx); err != nil {
			if ctx.Err() != nil {
				return State{}, err
			}
			p.warn(err)
			w.state, w.have, w.owed = State{Device: device}, State{}, nil
		}
	}
	if err := w.fold(ctx); err != nil {
		return State{}, err
	}
	return w.state, nil
}

// A walk goes through a device's history for a look by its clock: first by the
// snapshots alone, which tell what there is to fold, then it folds that.
type walk struct {
	past  *Past
	rules Rules
	until int64
	state State // from where it begins
	have  State // the snapshot that it has come to
	owed  []piece
}

// A piece of a device's history that may have brought something: the events after
// a sequence up to another.
type piece struct{ after, upTo uint64 }

// owe adds what comes after all that is owed already.
func (w *walk) owe(after, upTo uint64) {
	if n := len(w.owed); n > 0 && w.owed[n-1].upTo == after {
		w.owed[n-1].upTo = upTo
		return
	}
	w.owed = append(w.owed, piece{after, upTo})
}

// snapshots goes as far as they lead.
func (w *walk) snapshots(ctx context.Context) error {
	shelf, err := w.past.Snapshots.of(ctx, w.state.Device)
	if err != nil || len(shelf.numbers) == 0 {
		return err
	}
	state, number, err := shelf.last(ctx, func(s *State) bool { return s.newest() <= w.until })
	if err != nil {
		return err
	}
	w.state, w.have = state, state
	for end := shelf.numbers[len(shelf.numbers)-1]; number < end; {
		step, err := w.step(ctx, shelf, number)
		if err != nil || step == 0 {
			return err
		}
		number += step
	}
	return nil
}

// step passes over the longest stretch that begins at a snapshot and brings nothing
// but what few events have, or owes the one up to the next snapshot. It returns how
// many snapshots further it leads; 0 when there is no way.
func (w *walk) step(ctx context.Context, shelf *shelf, number uint64) (uint64, error) {
	for level := stretchLevels - 1; level >= 0; level-- {
		length := uint64(1)
		for range level {
			length *= stretchFactor
		}
		if number%length != 0 || !shelf.holds(number+length) {
			continue
		}
		next, ok, err := shelf.get(ctx, number+length)
		if err != nil {
			return 0, err
		}
		if !ok || !before(w.have.Position, next.Position) {
			continue
		}
		but, passes := next.passes(level, &w.have, w.until)
		switch {
		case passes:
			for _, seq := range but {
				w.owe(seq-1, seq)
			}
		case level == 0 && w.sameEpoch(&next):
			w.owe(w.have.Position.Seq, next.Position.Seq)
		default:
			continue
		}
		w.have = next
		return length, nil
	}
	return 0, nil
}

// sameEpoch tells whether a snapshot is of the epoch of where the walk has come to.
// The first one may be, where that is the beginning.
func (w *walk) sameEpoch(next *State) bool {
	return w.have.Position.Seq == 0 || w.have.Position.Epoch == next.Position.Epoch
}

// fold folds what is owed, then what follows upon the last snapshot.
func (w *walk) fold(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	var ahead reading
	defer ahead.Wait()
	defer cancel()
	for _, p := range w.owed {
		after, upTo := w.have.Position, w.have.Position
		after.Seq, upTo.Seq = p.after, p.upTo
		if p.after == 0 {
			after = events.Position{} // the device's beginning, which may be in another partition
		}
		ahead.of(w.read, after, upTo)
	}
	ahead.of(w.read, w.have.Position, events.Latest)
	ahead.begin(ctx)
	if len(w.owed) > 0 {
		if err := foldInto(&w.state, ahead.take(ctx, len(w.owed)), w.past.Catalog.Schemas(), w.rules); err != nil {
			return err
		}
	}
	if w.have.Position.Seq > 0 {
		w.state.pass(&w.have)
	}
	return foldInto(&w.state, ahead.take(ctx, 1), w.past.Catalog.Schemas(), w.rules)
}

func (w *walk) read(ctx context.Context, after, upTo events.Position) iter.Seq2[events.Event, error] {
	return w.past.Log.ReadAfter(ctx, events.Stream{Kind: events.Telemetry, ID: w.state.Device}, after, upTo)
}

func (p *Past) warn(err error) {
	if p.Logger != nil {
		p.Logger.Warn("no snapshot; folding from the beginning", "error", err)
	}
}

// start returns a state to fold on from. A snapshot that cannot be had makes
// the look longer, not wrong.
func (p *Past) start(ctx context.Context, device string, at time.Time) State {
	if p.Snapshots != nil {
		shelf, err := p.Snapshots.of(ctx, device)
		if err == nil {
			var state State
			if state, _, err = shelf.last(ctx, func(s *State) bool { return !s.Received.After(at) }); err == nil {
				return state
			}
		}
		if ctx.Err() == nil {
			p.warn(err)
		}
	}
	return State{Device: device}
}

// arrivedBy ends a sequence at the first event that arrived later, in whole
// microseconds: an archive keeps no more of an arrival.
func arrivedBy(evs iter.Seq2[events.Event, error], at time.Time) iter.Seq2[events.Event, error] {
	return func(yield func(events.Event, error) bool) {
		for e, err := range evs {
			if err == nil && e.Received.Truncate(time.Microsecond).After(at) || !yield(e, err) {
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
