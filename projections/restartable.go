package projections

import (
	"context"
	"fmt"
	"sync"
)

// A Restartable is a runner that can be stopped where it stands and started
// anew, as often as need be: what runs is made by make each time.
type Restartable struct {
	make func() (Runner, error)

	mu     sync.Mutex
	inner  Runner
	stop   func()        // of inner; nil while it does not run
	ended  chan struct{} // closed when inner has ended
	paused int
	wake   chan struct{}
}

var _ Runner = (*Restartable)(nil)

// NewRestartable makes the first runner.
func NewRestartable(make func() (Runner, error)) (*Restartable, error) {
	inner, err := make()
	if err != nil {
		return nil, err
	}
	return &Restartable{make: make, inner: inner, wake: newWake()}, nil
}

func newWake() chan struct{} { return make(chan struct{}, 1) }

// Name implements Runner.
func (r *Restartable) Name() string { return r.current().Name() }

// Status implements Runner. One that stands is not caught up: what it says is of
// before.
func (r *Restartable) Status() Status {
	r.mu.Lock()
	inner, stands := r.inner, r.stop == nil
	r.mu.Unlock()
	s := inner.Status()
	s.CaughtUp = s.CaughtUp && !stands
	return s
}

func (r *Restartable) current() Runner {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.inner
}

// Run implements Runner.
func (r *Restartable) Run(ctx context.Context) error {
	fresh := true
	for ctx.Err() == nil {
		r.mu.Lock()
		if r.paused > 0 {
			r.mu.Unlock()
			select {
			case <-r.wake:
			case <-ctx.Done():
			}
			continue
		}
		if !fresh {
			inner, err := r.make()
			if err != nil {
				r.mu.Unlock()
				return fmt.Errorf("start projection anew: %w", err)
			}
			r.inner = inner
		}
		fresh = false
		running, stop := context.WithCancel(ctx)
		inner, ended := r.inner, make(chan struct{})
		r.stop, r.ended = stop, ended
		r.mu.Unlock()

		err := inner.Run(running)
		r.mu.Lock()
		asked := r.paused > 0
		r.stop = nil
		r.mu.Unlock()
		stop()
		close(ended)
		if err != nil || !asked {
			return err
		}
	}
	return nil
}

// Pause stops the runner at a place from which it can go on, and returns how to
// let it. While several have paused it, it stands.
func (r *Restartable) Pause(ctx context.Context) (resume func(), err error) {
	r.mu.Lock()
	r.paused++
	stop, ended := r.stop, r.ended
	r.mu.Unlock()
	resume = sync.OnceFunc(func() {
		r.mu.Lock()
		r.paused--
		r.mu.Unlock()
		select {
		case r.wake <- struct{}{}:
		default:
		}
	})
	if stop == nil {
		return resume, nil
	}
	stop()
	select {
	case <-ended:
		return resume, nil
	case <-ctx.Done():
		resume()
		return nil, fmt.Errorf("pause projection %s: %w", r.Name(), ctx.Err())
	}
}
