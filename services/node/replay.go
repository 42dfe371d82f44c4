package node

import (
	"context"
	"sync"
	"time"

	"github.com/tachograph/tachograph/projections"
	"github.com/tachograph/tachograph/projections/columnar"
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
	n.replays[name] = replays.New(name, work, n.logger)
	n.onStop("replay of "+name, n.replays[name].Stop)
}

// afterSwap lets the writers start once a swap of tables that a crash has
// interrupted is finished.
func (n *Node) afterSwap(run func(context.Context) error) func(context.Context) error {
	return n.afterEngine(func(ctx context.Context) error {
		n.recovering.Do(func() {
			for pause := 100 * time.Millisecond; ctx.Err() == nil; pause = min(2*pause, 5*time.Second) {
				err := columnar.Recover(ctx, n.server)
				if err == nil {
					return
				}
				n.logger.Warn("ClickHouse cannot be asked for an unfinished swap yet", "error", err)
				select {
				case <-time.After(pause):
				case <-ctx.Done():
				}
			}
		})
		return run(ctx)
	})
}
