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

// loop serves all devices from one thread, so that what the client costs
// depends on its messages and not on how the scheduler likes a thousand
// goroutines. DESIGN.md, L2, has what was measured.
type loop struct {
	devices []*device
	byFD    map[int32]*device
	left    int // messages that nobody has taken yet
	flying  int // published and not acknowledged
	epoll   int
}

func newLoop(devices []*device, messages int) (*loop, error) {
	epoll, err := syscall.EpollCreate1(syscall.EPOLL_CLOEXEC)
	if err != nil {
		return nil, os.NewSyscallError("epoll_create1", err)
	}
	l := &loop{devices: devices, byFD: map[int32]*device{}, left: messages, epoll: epoll}
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
	for _, d := range l.devices {
		if err := l.publish(d); err != nil {
			return time.Since(began), err
		}
	}
	ready := make([]syscall.EpollEvent, 256)
	for l.flying > 0 {
		n, err := syscall.EpollWait(l.epoll, ready, int(turn.Milliseconds()))
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
			if !stopped {
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
		}
	}
	return time.Since(began), ctx.Err()
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
