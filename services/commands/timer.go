package commands

import (
	"container/heap"
	"context"
	"time"

	"github.com/tachograph/tachograph/projections/command"
)

// timers is a heap of entries by the moment at which something may be due for
// them. An entry stands in it at most once, and not after its end.
type timers []*entry

func (t timers) Len() int           { return len(t) }
func (t timers) Less(i, j int) bool { return t[i].wake < t[j].wake }
func (t timers) Swap(i, j int) {
	t[i], t[j] = t[j], t[i]
	t[i].slot, t[j].slot = i, j
}

// Push implements heap.Interface.
func (t *timers) Push(e any) {
	e.(*entry).slot = len(*t)
	*t = append(*t, e.(*entry))
}

// Pop implements heap.Interface.
func (t *timers) Pop() any {
	old := *t
	e := old[len(old)-1]
	old[len(old)-1], *t = nil, old[:len(old)-1]
	return e
}

// setTimer has the entry looked at when it is next due. The caller holds s.mu.
func (s *Commands) setTimer(e *entry) {
	next := e.c.Due()
	if a := e.sendable(); next != 0 && a > s.clock.ms() && a < next {
		next = a
	}
	s.setTimerAt(e, next)
}

// setTimerAt has the entry looked at then; never when at is 0.
func (s *Commands) setTimerAt(e *entry, at int64) {
	switch was := e.wake; {
	case at == was:
		return
	case at == 0:
		heap.Remove(&s.timers, e.slot)
		e.wake = 0
		return
	case was == 0:
		e.wake = at
		heap.Push(&s.timers, e)
	default:
		e.wake = at
		heap.Fix(&s.timers, e.slot)
	}
	if s.timers[0] == e {
		select {
		case s.rearm <- struct{}{}:
		default:
		}
	}
}

// Bounds of keepTime: the pause before a deadline's fact is tried again that
// the log did not take, and the longest sleep, as wall clocks are set.
const (
	passAgain = time.Second
	longSleep = time.Second
)

// keepTime has deadlines pass and attempts be made again, until ctx ends.
func (s *Commands) keepTime(ctx context.Context) {
	t := time.NewTimer(0)
	defer t.Stop()
	for {
		select {
		case <-t.C:
		case <-s.rearm:
		case <-ctx.Done():
			return
		}
		s.mu.Lock()
		now := s.clock.ms()
		for len(s.timers) > 0 && s.timers[0].wake <= now {
			e := heap.Pop(&s.timers).(*entry)
			e.wake = 0
			s.due(e, now)
		}
		sleep := longSleep
		if len(s.timers) > 0 {
			sleep = min(sleep, time.Duration(s.timers[0].wake-now)*time.Millisecond)
		}
		s.mu.Unlock()
		t.Reset(max(sleep, time.Millisecond))
	}
}

// due does what the time has come for. The caller holds s.mu.
func (s *Commands) due(e *entry, now int64) {
	if at := e.c.Due(); at == 0 {
		return
	} else if now < at {
		if d := s.devices[e.device]; d != nil {
			s.pump(d)
		}
		s.setTimer(e)
		return
	}
	s.setTimerAt(e, now+passAgain.Milliseconds()) // until the fact is there
	e.queue = append(e.queue, &task{decide: func(c *command.Command, at int64) (command.Fact, error) {
		f, _ := c.Pass(at)
		return f, nil
	}})
	if !e.working {
		e.working = true
		s.spawn(func() { s.serve(e) })
	}
}
