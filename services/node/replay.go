package node

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"github.com/tachograph/tachograph/projections"
	"github.com/tachograph/tachograph/services/replays"
)

// pauseAll stops projections where they can go on.
func pauseAll(runners []*projections.Restartable) func(context.Context) (resume func(), err error) {
	return func(ctx context.Context) (resume func(), err error) {
		var all []func()
		resume = sync.OnceFunc(func() {
			for _, r := range all {
				r()
			}
		})
		for _, runner := range runners {
			r, err := runner.Pause(ctx)
			if err != nil {
				resume()
				return nil, err
			}
			all = append(all, r)
		}
		return resume, nil
	}
}

// replayable lets the projection of a name be replayed.
func (n *Node) replayable(name string, work replays.Rebuilder) {
	if n.replays == nil {
		n.replays = map[string]*replays.Replays{}
	}
	if n.disk != nil {
		work = roomy{work, n.disk}
	}
	n.replays[name] = replays.New(name, work, n.logger)
	n.onStop("replay of "+name, n.replays[name].Stop)
}

// A roomy rebuilder ends while there is still room on the disk: what it builds is
// beside what serves, and devices come first. It goes on where it was once there is
// room again.
type roomy struct {
	replays.Rebuilder
	disk *diskGuard
}

// Build implements replays.Rebuilder.
func (r roomy) Build(ctx context.Context, order projections.Order, progress func(projections.Progress)) ([]projections.TableReport, error) {
	if err := r.room(); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	reports, err := r.Rebuilder.Build(ctx, order, func(p projections.Progress) {
		if p.Phase == "building" { // what comes then takes no room to speak of
			if err := r.room(); err != nil {
				cancel(err)
			}
		}
		progress(p)
	})
	var full *noRoomError
	if err != nil && errors.As(context.Cause(ctx), &full) {
		err = full
	}
	return reports, err
}

// room is an error unless twice of what telemetry needs is free.
func (r roomy) room() error {
	if free, need := r.disk.free.Load(), 2*r.disk.reserve; free < need {
		return &noRoomError{fmt.Sprintf("the disk of %s has %d MiB free, and a replay leaves %d to devices, twice --log-reserve (remedy: make room or lower the reserve, then start it again: it goes on where it was)",
			r.disk.dir, free>>20, need>>20)}
	}
	return nil
}

type noRoomError struct{ text string }

func (e *noRoomError) Error() string { return e.text }
