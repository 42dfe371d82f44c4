package engine

import (
	"context"
	"errors"
	"net"
	"syscall"
	"time"
)

const (
	leastPause = 100 * time.Millisecond
	mostPause  = 10 * time.Second
	steady     = time.Minute     // a child that lived this long starts again at once
	look       = 2 * time.Second // between looks at the listeners
)

// errClosed tells that the child lives but nobody can reach it.
var errClosed = errors.New("its listeners were closed")

// supervise starts the child again whenever it ends, until ctx does.
func (e *Engine) supervise(ctx context.Context) {
	defer close(e.done)
	pause := leastPause
	for {
		e.mu.Lock()
		p := e.child
		e.mu.Unlock()
		why := e.attend(ctx, p)
		if ctx.Err() != nil {
			p.stop()
			return
		}
		if time.Since(p.started) > steady {
			pause = leastPause
		}
		for {
			e.cfg.Logger.Error("ClickHouse ended; starting it again", "error", why, "pause", pause)
			e.set(p, why)
			wait(ctx, pause)
			pause = min(2*pause, mostPause)
			if ctx.Err() != nil {
				return
			}
			next, err := e.spawn(ctx)
			if err == nil {
				e.cfg.Logger.Info("ClickHouse is back")
				e.set(next, nil)
				break
			}
			why = err
		}
	}
}

func (e *Engine) set(p *process, down error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.child, e.down = p, down
}

// attend returns when the child has ended, or must; it has then, unless ctx
// ended first. A child that is slow is left in peace: only one that refuses
// connections is of no use.
func (e *Engine) attend(ctx context.Context, p *process) error {
	tick := time.NewTicker(look)
	defer tick.Stop()
	refused := 0
	for {
		select {
		case <-p.exited:
			return p.why()
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		if refuses(ctx, e.http) || refuses(ctx, e.native) {
			refused++
		} else {
			refused = 0
		}
		if refused == 2 {
			p.kill()
			return errClosed
		}
	}
}

func refuses(ctx context.Context, address string) bool {
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	var d net.Dialer
	c, err := d.DialContext(ctx, "tcp", address)
	if err == nil {
		c.Close()
	}
	return errors.Is(err, syscall.ECONNREFUSED)
}

func wait(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}
