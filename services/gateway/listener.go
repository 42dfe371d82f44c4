package gateway

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"

	"github.com/tachograph/tachograph/services/gateway/packet"
)

// refusable is how many connections beyond the limit are told that there are too
// many; those beyond are closed without a word.
const refusable = 256

// A listener is one call of ServeMQTT.
type listener struct {
	g  *Gateway
	mu sync.Mutex
	on map[*conn]struct{}
	wg sync.WaitGroup
}

// ServeMQTT serves MQTT 3.1.1 and 5 on ln, which may be a TLS listener, and
// closes it when ctx ends. Then it drains: what is on its way to the log is
// still acknowledged, clients are told (0x8B in version 5), and when it returns
// no connection is left. Its error is the listener's.
func (g *Gateway) ServeMQTT(ctx context.Context, ln net.Listener) error {
	l := &listener{g: g, on: map[*conn]struct{}{}}
	stop := context.AfterFunc(ctx, func() { _ = ln.Close() })
	defer stop()
	serving, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	err := l.accept(ctx, serving, ln)
	_ = ln.Close()
	l.drain(cancel)
	if ctx.Err() != nil {
		return nil
	}
	return fmt.Errorf("serve mqtt on %s: %w", ln.Addr(), err)
}

// accept takes connections, no faster than the limit: a fleet that reconnects at
// once waits in the listener's backlog.
func (l *listener) accept(ctx, serving context.Context, ln net.Listener) error {
	limits := &l.g.limits
	pace := meter{}
	rates := Limits{MessagesPerSecond: limits.ConnectionsPerSecond, BytesPerSecond: 1}
	failures := 0
	for ctx.Err() == nil {
		nc, err := ln.Accept()
		if err != nil {
			if errors.Is(err, net.ErrClosed) {
				return err
			}
			// Out of file descriptors, most likely: those who are connected go on.
			failures++
			l.g.logger.Error("mqtt connection was not accepted", "error", err)
			pause(ctx, min(time.Duration(failures)*10*time.Millisecond, time.Second))
			continue
		}
		failures = 0
		if wait := pace.take(&rates, time.Now(), 0); wait > 0 {
			pause(ctx, wait)
		}
		l.mu.Lock()
		n := len(l.on)
		if n >= limits.MaxConnections+refusable {
			l.mu.Unlock()
			_ = nc.Close()
			l.g.metrics.connects.WithLabelValues("closed").Inc()
			continue
		}
		c := newConn(l.g, nc)
		l.on[c] = struct{}{}
		l.mu.Unlock()
		l.wg.Go(func() {
			c.serve(serving, n >= limits.MaxConnections)
			l.mu.Lock()
			delete(l.on, c)
			l.mu.Unlock()
		})
	}
	return ctx.Err()
}

// drain ends all connections and returns when they are gone.
func (l *listener) drain(cancel func()) {
	by := time.Now().Add(l.g.limits.Drain)
	l.mu.Lock()
	for c := range l.on {
		c.finish(ending{code: packet.ServerShuttingDown, by: by, noWill: true, label: packet.ServerShuttingDown.String()})
	}
	l.mu.Unlock()
	t := time.AfterFunc(time.Until(by), cancel)
	defer t.Stop()
	l.wg.Wait()
}

func pause(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}
