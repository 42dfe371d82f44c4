package gatewaytest

import (
	"context"
	"sync"

	"github.com/tachograph/tachograph/events"
)

// A HeldLog keeps the log's answers back until the test lets them go, so that
// what happens before an event is durable can be looked at.
type HeldLog struct {
	events.Log

	mu     sync.Mutex
	holds  bool
	held   []func()
	refuse error // what further events get instead of being stored
}

// Hold keeps answers back from now on.
func (l *HeldLog) Hold() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.holds = true
}

// Held returns how many answers are kept back.
func (l *HeldLog) Held() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.held)
}

// Release lets the oldest n answers go, in order; all, and all to come, when n
// is negative.
func (l *HeldLog) Release(n int) {
	l.mu.Lock()
	if n < 0 {
		l.holds, n = false, len(l.held)
	}
	go1 := l.held[:n]
	l.held = l.held[n:]
	l.mu.Unlock()
	for _, f := range go1 {
		f()
	}
}

// Refuse makes the log answer err to further events; nil ends that.
func (l *HeldLog) Refuse(err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.refuse = err
}

// Enqueue implements events.Log.
func (l *HeldLog) Enqueue(ctx context.Context, e events.Event, done func(error)) error {
	l.mu.Lock()
	refuse := l.refuse
	l.mu.Unlock()
	answer := func(err error) {
		l.mu.Lock()
		if l.holds {
			l.held = append(l.held, func() { done(err) })
			l.mu.Unlock()
			return
		}
		l.mu.Unlock()
		done(err)
	}
	if refuse != nil {
		go answer(refuse)
		return nil
	}
	return l.Log.Enqueue(ctx, e, answer)
}
