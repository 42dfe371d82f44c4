package projections

import (
	"context"
	"iter"
	"sync"
	"time"

	"github.com/tachograph/tachograph/events"
)

// Throttle returns a log that is followed at most at rate events a second over
// all partitions; 0 is no limit.
func Throttle(log events.Log, rate float64) events.Log {
	if rate <= 0 {
		return log
	}
	return &throttled{Log: log, pause: time.Duration(float64(time.Second) / rate)}
}

// A throttled log is followed no faster than an event in each pause.
type throttled struct {
	events.Log
	pause time.Duration

	mu   sync.Mutex
	next time.Time
}

// Follow implements events.Log.
func (t *throttled) Follow(ctx context.Context, partition uint16, after events.Cursor) iter.Seq2[events.Event, error] {
	return func(yield func(events.Event, error) bool) {
		for e, err := range t.Log.Follow(ctx, partition, after) {
			t.mu.Lock()
			now := time.Now()
			if t.next.Before(now.Add(-10 * time.Millisecond)) {
				t.next = now.Add(-10 * time.Millisecond) // what was not used is not saved up
			}
			t.next = t.next.Add(t.pause)
			wait := t.next.Sub(now)
			t.mu.Unlock()
			if wait > 10*time.Millisecond { // shorter pauses come together
				select {
				case <-time.After(wait):
				case <-ctx.Done():
					return
				}
			}
			if !yield(e, err) {
				return
			}
		}
	}
}
