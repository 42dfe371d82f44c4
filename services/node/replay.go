package node

import (
	"context"
	"sync"
	"time"

	"github.com/tachograph/tachograph/projections"
	"github.com/tachograph/tachograph/projections/columnar"
	"github.com/tachograph/tachograph/services/replays"
)

// makeReplays lets the writers of ClickHouse be replayed and audited: cfg is one's
// configuration, writers are all.
func (n *Node) makeReplays(cfg columnar.Config, partitions []uint16, writers []*projections.Restartable) {
	pause := func(ctx context.Context) (resume func(), err error) {
		var all []func()
		resume = sync.OnceFunc(func() {
			for _, r := range all {
				r()
			}
		})
		for _, w := range writers {
			r, err := w.Pause(ctx)
			if err != nil {
				resume()
				return nil, err
			}
			all = append(all, r)
		}
		return resume, nil
	}
	n.audit = &columnar.Audit{Writer: cfg, Log: n.log}
	n.replays = replays.New(columnar.Replay{Writer: cfg, Partitions: partitions, Pause: pause}, n.logger)
	n.onStop("replay", n.replays.Stop)
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
