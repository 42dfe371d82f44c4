package roster

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/tachograph/tachograph/events"
	"github.com/tachograph/tachograph/projections/presence"
	"github.com/tachograph/tachograph/services/gateway"
)

// A shard is the queue of some devices' changes, in order for each.
type shard struct {
	mu      sync.Mutex
	queue   map[string][]change // by device
	changes int
	kick    chan struct{}
}

type change struct {
	at     int64 // epoch milliseconds
	decide decision
}

func now(decide decision) change { return change{time.Now().UnixMilli(), decide} }

// queueMost bounds what waits of one shard. What is left out is found by the
// sweep.
const queueMost = 1 << 12

func (r *Roster) put(device string, decide decision) {
	s := &r.shards[events.Slot(device)%uint8(len(r.shards))]
	s.mu.Lock()
	if s.changes < queueMost {
		if s.queue == nil {
			s.queue = map[string][]change{}
		}
		s.queue[device] = append(s.queue[device], now(decide))
		s.changes++
	}
	s.mu.Unlock()
	select {
	case s.kick <- struct{}{}:
	default:
	}
}

func (s *shard) take() map[string][]change {
	s.mu.Lock()
	defer s.mu.Unlock()
	taken := s.queue
	s.queue, s.changes = nil, 0
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

// together is how many changes of a device are appended at once, at the most.
const together = 64

// serve appends a shard's changes until ctx ends, then those that are left: of
// each device all that have come meanwhile together, so that a fleet which comes
// and goes faster than the log takes one fact after the other does not have the
// roster fall behind. What the log does not take is found by the sweep.
func (r *Roster) serve(ctx context.Context, s *shard) {
	last, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	stop := context.AfterFunc(ctx, func() { time.AfterFunc(drainTime, cancel) })
	defer stop()
	for {
		r.appendAll(last, s.take())
		select {
		case <-s.kick:
		case <-ctx.Done():
			r.appendAll(last, s.take())
			return
		}
	}
}

func (r *Roster) appendAll(ctx context.Context, queue map[string][]change) {
	lost, why := 0, error(nil)
	for device, changes := range queue {
		for some := range slices.Chunk(changes, together) {
			limited, cancel := context.WithTimeout(ctx, appendTime)
			if err := r.append(limited, device, some...); err != nil {
				lost, why = lost+len(some), fmt.Errorf("device %s: %w", device, err)
			}
			cancel()
		}
	}
	if lost > 0 {
		r.logger.Warn("presence is not in the log yet", "changes", lost, "last", why)
	}
}
