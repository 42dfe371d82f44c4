package commands

import (
	"context"
	"iter"
)

// A watcher is closed when its command has a new fact.
type watcher struct {
	changed chan struct{}
	waiting int
}

// notify wakes who waits for a command. The caller holds s.mu.
func (s *Commands) notify(k key) {
	if w := s.watchers[k]; w != nil {
		close(w.changed)
		delete(s.watchers, k)
	}
}

// watch returns a channel that is closed when the command has a new fact, and
// what gives it up.
func (s *Commands) watch(k key) (changed <-chan struct{}, leave func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	w := s.watchers[k]
	if w == nil {
		w = &watcher{changed: make(chan struct{})}
		s.watchers[k] = w
	}
	w.waiting++
	return w.changed, func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		if w.waiting--; w.waiting == 0 && s.watchers[k] == w {
			delete(s.watchers, k)
		}
	}
}

// Watch yields a command as it is, then again after each change, until it has
// its final state or ctx ends (then the sequence just ends). Changes that come
// fast are yielded together; the history has them all.
//
// Errors: those of Get.
func (s *Commands) Watch(ctx context.Context, device, id string) iter.Seq2[View, error] {
	return func(yield func(View, error) bool) {
		var last uint64
		for ctx.Err() == nil {
			changed, leave := s.watch(key{device, id})
			v, err := s.Get(ctx, device, id)
			if err != nil {
				leave()
				if ctx.Err() == nil {
					yield(View{}, err)
				}
				return
			}
			if v.Position.Seq != last {
				if last = v.Position.Seq; !yield(v, nil) || v.State.Final() {
					leave()
					return
				}
			}
			select {
			case <-changed:
			case <-ctx.Done():
			case <-s.stopping:
				leave()
				return
			}
			leave()
		}
	}
}
