package latest

import (
	"context"

	"github.com/tachograph/tachograph/events"
	"github.com/tachograph/tachograph/projections"
)

// fold applies the events that were read to the states in memory.
func (p *Projection) fold(ctx context.Context) error {
	p.mu.Lock()
	evs := p.pending
	p.pending, p.spare, p.pendingBytes = p.spare[:0], nil, 0
	p.mu.Unlock()
	signal(p.taken)

	if err := p.load(ctx, evs); err != nil {
		return err
	}
	last := evs[len(evs)-1].Position.Seq
	err := projections.Guard(nil, func() error { return p.foldAll(evs) })
	if broken, ok := projections.Broken(err); ok && broken.ID == "" && p.suspect < last {
		return &suspectError{last, err}
	}
	if err != nil {
		return err
	}
	f := p.folder
	p.mu.Lock()
	p.status.Events += uint64(len(evs))
	p.status.Rows += f.rows
	p.status.Parked += f.bad
	clear(evs)
	p.spare = evs[:0]
	p.mu.Unlock()
	return nil
}

// foldAll is fold without its bookkeeping.
func (p *Projection) foldAll(evs []event) error {
	f := p.folder
	f.rows, f.bad = 0, 0
	for i := range evs {
		e := &evs[i]
		if err := p.check(&e.Event); err != nil {
			return err
		}
		p.cursor, p.newest = events.Cursor{Position: e.Position, ID: e.ID}, e.Received
		if e.Stream.Kind != events.Telemetry {
			continue
		}
		if in, _ := p.store.touch(e.Stream.ID); before(in.state.Position, e.Position) {
			if e.Position.Seq <= p.suspect {
				if err := p.foldAlone(in.state, e); err != nil {
					return err
				}
				f = p.folder
			} else {
				p.add(in.state, e)
			}
			p.store.mark(in)
			if p.cfg.Snapshots != nil && in.state.Events%snapshotEvery == 0 {
				f.evolve()
				p.kept = append(p.kept, in.state.clone())
			}
		}
	}
	f.evolve()
	return nil
}

func (p *Projection) add(s *State, e *event) {
	if p.cfg.Trip != nil {
		p.cfg.Trip(&e.Event)
	}
	p.folder.add(s, &e.Event, e.schema)
}

// foldAlone folds one event. Where the code breaks at it, the state is as if the
// event could not be decoded, or the projection ends.
func (p *Projection) foldAlone(s *State, e *event) error {
	before := s.clone()
	err := projections.Guard(&e.Event, func() error {
		p.add(s, e)
		p.folder.evolve()
		return nil
	})
	broken, ok := projections.Broken(err)
	if !ok {
		return err
	}
	p.cfg.Logger.Error("the code of the projection broke at an event", "projection", "latest", "device", broken.Device, "position", broken.Position.String(),
		"parked", p.cfg.OnPanic.Park, "panic", broken.Panic, "stack", string(broken.Stack))
	if !p.cfg.OnPanic.Park {
		return err
	}
	rows, bad := p.folder.rows, p.folder.bad
	p.folder = newFolder(Rules{Tolerance: p.cfg.Tolerance, Oldest: p.cfg.Oldest})
	p.folder.rows, p.folder.bad = rows, bad+1
	*s = before
	s.arrive(&e.Event)
	p.cfg.OnPanic.Parked(broken.Breakdown)
	return nil
}
