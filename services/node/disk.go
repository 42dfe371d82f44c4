package node

import (
	"context"
	"fmt"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/tachograph/tachograph/events"
)

// A diskGuard is a log that refuses before the disk is full: a full disk would
// stop the server, and with it everything that could make room.
//
// It refuses in steps, so that the rest can still go: with less than the reserve
// free, telemetry; with less than half of it, control facts too. (The embedded
// ClickHouse takes nothing in with less than a quarter.)
type diskGuard struct {
	events.Log
	dir     string
	reserve int64
	look    func(dir string) (free int64, err error)
	free    atomic.Int64

	broken <-chan struct{} // closed when a write to the log has failed
	lost   atomic.Bool     // it has: all is refused until the log is opened anew
	anew   func()          // asks for that, once there is room
}

const diskLook = 250 * time.Millisecond

func newDiskGuard(log events.Log, dir string, reserve int64) *diskGuard {
	g := &diskGuard{Log: log, dir: dir, reserve: reserve, look: diskFree}
	g.measure()
	return g
}

func (g *diskGuard) measure() int64 {
	free, err := g.look(g.dir)
	if err != nil {
		free = g.reserve // cannot be known: the log says itself when it is full
	}
	g.free.Store(free)
	return free
}

// watch looks at the disk until ctx ends and tells of every change: why it is
// refused, or "" when there is room again.
func (g *diskGuard) watch(ctx context.Context, tell func(why string)) error {
	refusing, broken := false, g.broken
	tick := time.NewTicker(diskLook)
	defer tick.Stop()
	for {
		free := g.measure()
		if g.lost.Load() && free >= g.reserve {
			g.anew()
			return nil
		}
		if low := free < g.reserve || g.lost.Load(); low != refusing {
			refusing = low
			if low {
				tell(g.full().Error())
			} else {
				tell("")
			}
		}
		select {
		case <-tick.C:
		case <-broken:
			g.lost.Store(true)
			broken = nil
		case <-ctx.Done():
			return nil
		}
	}
}

func (g *diskGuard) full() error {
	if g.lost.Load() {
		return fmt.Errorf("%w: a write to %s has failed and the log is opened anew when %d MiB of its disk are free, now %d are: make room or lower --log-reserve",
			events.ErrFull, g.dir, g.reserve>>20, g.free.Load()>>20)
	}
	return fmt.Errorf("%w: the disk of %s has %d MiB free and --log-reserve keeps %d: make room or lower the reserve",
		events.ErrFull, g.dir, g.free.Load()>>20, g.reserve>>20)
}

// Append implements events.Log.
func (g *diskGuard) Append(ctx context.Context, expect events.Expect, evs ...events.Event) (events.Position, error) {
	if g.free.Load() < g.reserve/2 || g.lost.Load() {
		return events.Position{}, g.full()
	}
	return g.Log.Append(ctx, expect, evs...)
}

// Enqueue implements events.Log.
func (g *diskGuard) Enqueue(ctx context.Context, e events.Event, done func(error)) error {
	if g.free.Load() < g.reserve || g.lost.Load() {
		return g.full()
	}
	return g.Log.Enqueue(ctx, e, done)
}

var diskFreeBytes = prometheus.NewDesc("tacho_disk_free_bytes", "Free on the disk of the data folder.", nil, nil)

// Describe implements prometheus.Collector.
func (g *diskGuard) Describe(ch chan<- *prometheus.Desc) { ch <- diskFreeBytes }

// Collect implements prometheus.Collector.
func (g *diskGuard) Collect(ch chan<- prometheus.Metric) {
	ch <- prometheus.MustNewConstMetric(diskFreeBytes, prometheus.GaugeValue, float64(g.free.Load()))
}

func diskFree(dir string) (int64, error) {
	var fs syscall.Statfs_t
	if err := syscall.Statfs(dir, &fs); err != nil {
		return 0, fmt.Errorf("look at the disk of %s: %w", dir, err)
	}
	return int64(fs.Bavail) * int64(fs.Bsize), nil
}

func diskSize(dir string) (int64, error) {
	var fs syscall.Statfs_t
	if err := syscall.Statfs(dir, &fs); err != nil {
		return 0, fmt.Errorf("look at the disk of %s: %w", dir, err)
	}
	return int64(fs.Blocks) * int64(fs.Bsize), nil
}
