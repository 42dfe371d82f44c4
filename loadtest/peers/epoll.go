package peers

import (
	"context"
	"errors"
	"fmt"
	"os"
	"syscall"
	"time"
)

// turn is how long the loop sleeps at most before it looks at the clock.
const turn = 20 * time.Millisecond

// beat is how often a paced loop looks what has fallen due.
const beat = 2 * time.Millisecond

// loop serves all devices from one thread, so that what the client costs
// depends on its messages and not on how the scheduler likes a thousand
// goroutines. DESIGN.md, L2, has what was measured.
type loop struct {
	devices []*device
	byFD    map[int32]*device
	left    int // messages that nobody has taken yet
	flying  int // published and not acknowledged
	epoll   int

	rate  float64 // messages a second that fall due; 0: no such thing
	taken int     // of those due
	next  int     // the device whose turn it is
}

func newLoop(devices []*device, messages int, rate float64) (*loop, error) {
	epoll, err := syscall.EpollCreate1(syscall.EPOLL_CLOEXEC)
	if err != nil {
		return nil, os.NewSyscallError("epoll_create1", err)
	}
	l := &loop{devices: devices, byFD: map[int32]*device{}, left: messages, epoll: epoll, rate: rate}
	for _, d := range devices {
		l.byFD[int32(d.fd)] = d
		e := syscall.EpollEvent{Events: syscall.EPOLLIN, Fd: int32(d.fd)}
		if err := syscall.EpollCtl(epoll, syscall.EPOLL_CTL_ADD, d.fd, &e); err != nil {
			l.close()
			return nil, os.NewSyscallError("epoll_ctl", err)
		}
	}
	return l, nil
}

func (l *loop) close() { _ = syscall.Close(l.epoll) } // it has nothing that could be lost

// run publishes until the messages are out, the limit is over or the context
// ends, and then waits for what is in flight. The first failure of a device
// ends it.
func (l *loop) run(ctx context.Context, limit time.Duration) (elapsed time.Duration, err error) {
	began := time.Now()
	stopped, drained := false, time.Time{}
	stop := func() { stopped, drained = true, time.Now().Add(drain) }
	wait := beat
	if l.rate == 0 {
		wait = turn
		for _, d := range l.devices {
			if err := l.publish(d); err != nil {
				return time.Since(began), err
			}
		}
	}
	ready := make([]syscall.EpollEvent, 256)
	for l.flying > 0 || l.rate > 0 && !stopped {
		n, err := syscall.EpollWait(l.epoll, ready, int(wait.Milliseconds()))
		if err != nil && !errors.Is(err, syscall.EINTR) {
			return time.Since(began), os.NewSyscallError("epoll_wait", err)
		}
		for i := range max(0, n) {
			d := l.byFD[ready[i].Fd]
			had := d.inFlight
			err := d.acknowledgements()
			l.flying -= had - d.inFlight
			if err != nil {
				return time.Since(began), err
			}
			if !stopped && l.rate == 0 {
				if err := l.publish(d); err != nil {
					return time.Since(began), err
				}
			}
		}
		switch now := time.Now(); {
		case stopped && now.After(drained):
			return now.Sub(began), fmt.Errorf("acknowledgements are missing %s after the last publish", drain)
		case !stopped && (l.left == 0 || ctx.Err() != nil || now.Sub(began) >= limit):
			stop()
		case !stopped && l.rate > 0:
			if err := l.pace(now.Sub(began)); err != nil {
				return now.Sub(began), err
			}
		}
	}
	return time.Since(began), ctx.Err()
}

// pace publishes what has fallen due, by turns half a window of a device. What
// finds no room stays due.
func (l *loop) pace(elapsed time.Duration) error {
	due := min(int(l.rate*elapsed.Seconds())-l.taken, l.left)
	for range l.devices {
		if due <= 0 {
			break
		}
		d := l.devices[l.next]
		l.next = (l.next + 1) % len(l.devices)
		n := min(due, d.window-d.inFlight, (d.window+1)/2)
		if n == 0 {
			continue
		}
		due -= n
		l.taken += n
		l.left -= n
		l.flying += n
		if err := d.publish(n); err != nil {
			return err
		}
	}
	return nil
}

// publish lets a device fill its window once half of it is free, so that
// neither end pays a system call for each message.
func (l *loop) publish(d *device) error {
	free := d.window - d.inFlight
	if free*2 < d.window {
		return nil
	}
	n := min(free, l.left)
	if n == 0 {
		return nil
	}
	l.left -= n
	l.flying += n
	return d.publish(n)
}
