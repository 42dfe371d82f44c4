package commands

import (
	"container/heap"
	"context"
	"time"

	"github.com/tachograph/tachograph/projections/command"
)

// timers is a heap of moments at which something may be due for a command. An
// entry may stand in it several times; only its own wake counts.
type timers []moment

type moment struct {
	at int64 // epoch milliseconds
	e  *entry
}

func (t timers) Len() int           { return len(t) }
func (t timers) Less(i, j int) bool { return t[i].at < t[j].at }
func (t timers) Swap(i, j int)      { t[i], t[j] = t[j], t[i] }
func (t *timers) Push(m any)        { *t = append(*t, m.(moment)) }
func (t *timers) Pop() any {
	old := *t
	m := old[len(old)-1]
	old[len(old)-1] = moment{}
	*t = old[:len(old)-1]
	return m
}

// setTimer has the entry looked at when it is due. The caller holds s.mu.
func (s *Commands) setTimer(e *entry) {
	next := e.c.Due()
	if a := e.sendable(); a > s.clock.ms() && a < next {
		next = a
	}
	if next == 0 || e.wake != 0 && e.wake <= next {
		return
	}
	s.setTimerAt(e, next)
}

func (s *Commands) setTimerAt(e *entry, at int64) {
	e.wake = at
	heap.Push(&s.timers, moment{at, e})
	if s.timers[0].e == e {
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
		for len(s.timers) > 0 && s.timers[0].at <= now {
			m := heap.Pop(&s.timers).(moment)
			if m.e.wake == m.at {
				m.e.wake = 0
				s.due(m.e, now)
			}
		}
		sleep := longSleep
		if len(s.timers) > 0 {
			sleep = min(sleep, time.Duration(s.timers[0].at-now)*time.Millisecond)
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
