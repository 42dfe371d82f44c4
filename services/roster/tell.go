package roster

import (
	"context"
	"sync"
	"time"

	"github.com/tachograph/tachograph/events"
	"github.com/tachograph/tachograph/projections/presence"
	"github.com/tachograph/tachograph/services/gateway"
)

// A shard is the queue of some devices' changes, in order.
type shard struct {
	mu    sync.Mutex
	queue []change
	kick  chan struct{}
}

type change struct {
	device string
	decide decision
}

// queueMost bounds what waits of one shard. What is left out is found by the
// sweep.
const queueMost = 1 << 14

func (r *Roster) put(device string, decide decision) {
	s := &r.shards[events.Slot(device)%uint8(len(r.shards))]
	s.mu.Lock()
	if len(s.queue) < queueMost {
		s.queue = append(s.queue, change{device, decide})
	}
	s.mu.Unlock()
	select {
	case s.kick <- struct{}{}:
	default:
	}
}

func (s *shard) take() []change {
	s.mu.Lock()
	defer s.mu.Unlock()
	taken := s.queue
	s.queue = nil
	return taken
}

// Connected implements gateway.Watcher.
func (r *Roster) Connected(c gateway.Connection) {
	r.mu.Lock()
	r.local[c.ID] = c
	r.mu.Unlock()
	r.put(c.Device, r.connect(c))
}

func (r *Roster) connect(c gateway.Connection) decision {
	return func(d *presence.Device, at int64) (presence.Fact, bool) { return d.Connect(c.ID, c.Client, r.me, at) }
}

// Disconnected implements gateway.Watcher.
func (r *Roster) Disconnected(c gateway.Connection, reason string) {
	r.mu.Lock()
	delete(r.local, c.ID)
	r.mu.Unlock()
	r.put(c.Device, disconnect(c.ID, reason))
}

func disconnect(session, reason string) decision {
	return func(d *presence.Device, at int64) (presence.Fact, bool) { return d.Disconnect(session, reason, at) }
}

// Bounds of the appends: of one, and of all that is left when the process stops.
const (
	appendTime = 10 * time.Second
	drainTime  = 5 * time.Second
)

// serve appends a shard's changes until ctx ends, then those that are left. What
// the log does not take is found by the sweep.
func (r *Roster) serve(ctx context.Context, s *shard) {
	one := func(parent context.Context, c change) {
		limited, cancel := context.WithTimeout(parent, appendTime)
		defer cancel()
		if err := r.append(limited, c.device, c.decide); err != nil {
			r.logger.Warn("presence is not in the log yet", "device", c.device, "error", err)
		}
	}
	last, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	stop := context.AfterFunc(ctx, func() { time.AfterFunc(drainTime, cancel) })
	defer stop()
	for {
		for _, c := range s.take() {
			one(last, c)
		}
		select {
		case <-s.kick:
		case <-ctx.Done():
			for _, c := range s.take() {
				one(last, c)
			}
			return
		}
	}
}
