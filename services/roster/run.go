package roster

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/tachograph/tachograph/events"
	"github.com/tachograph/tachograph/projections/presence"
)

// Run keeps the roster in step with the log until ctx ends; as a gateway's it
// says who is there, and any that hears the gateways' hearts says who is gone.
func (r *Roster) Run(ctx context.Context) error {
	var work sync.WaitGroup
	following, stopFollowing := context.WithCancel(context.WithoutCancel(ctx))
	ended := make(chan error, 1)
	go func() { ended <- r.follow(following) }()
	if r.beats != nil {
		for i := range r.shards {
			work.Go(func() { r.serve(ctx, &r.shards[i]) })
		}
		if r.serves {
			work.Go(func() { r.every(ctx, beat, r.live) })
		}
		work.Go(func() { r.every(ctx, sweep, r.look) })
	}
	var err error
	select {
	case err = <-ended:
		<-ctx.Done() // what is told is still appended
		work.Wait()
	case <-ctx.Done():
		work.Wait() // a conflict needs the fold to the last
		stopFollowing()
		err = <-ended
	}
	stopFollowing()
	if r.serves {
		last, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
		defer cancel()
		_ = r.beats.Delete(last, r.me) // it ends by itself, only later
	}
	return err
}

func (r *Roster) follow(ctx context.Context) error {
	r.mu.Lock()
	after := r.cursor
	r.mu.Unlock()
	for e, err := range events.Facts(ctx, r.log, after) {
		if err != nil {
			return fmt.Errorf("follow presence: %w", err)
		}
		r.fold(e)
	}
	return nil
}

func (r *Roster) every(ctx context.Context, pause time.Duration, do func(context.Context) error) {
	t := time.NewTicker(pause)
	defer t.Stop()
	for {
		select {
		case <-t.C:
		case <-ctx.Done():
			return
		}
		limited, cancel := context.WithTimeout(ctx, appendTime)
		if err := do(limited); err != nil && ctx.Err() == nil {
			r.logger.Warn("roster of devices", "error", err)
		}
		cancel()
	}
}

// live lets the heart beat once. The bucket is in NATS's memory, and gone after a
// restart of the server.
func (r *Roster) live(ctx context.Context) error {
	now := []byte(time.Now().UTC().Format(time.RFC3339))
	_, err := r.beats.Put(ctx, r.me, now)
	if lost(err) {
		if err = r.remake(ctx); err == nil {
			_, err = r.beats.Put(ctx, r.me, now)
		}
	}
	if err != nil {
		return fmt.Errorf("heartbeat of gateway: %w", err)
	}
	return nil
}

// lost tells whether an error means that the bucket is not there.
func lost(err error) bool {
	return errors.Is(err, jetstream.ErrNoStreamResponse) || errors.Is(err, jetstream.ErrStreamNotFound) ||
		errors.Is(err, nats.ErrNoStreamResponse) || errors.Is(err, nats.ErrStreamNotFound) // Keys asks by the older interface
}

// strikesOut is how many sweeps in a row must find a session wrong before it is
// mended: facts may be on their way, and a heart may miss a beat.
const strikesOut = 3

// look finds sessions whose gateway is gone, those of this one that the log has
// wrong, and devices that have been away for the grace period.
func (r *Roster) look(ctx context.Context) error {
	alive, err := r.hearts(ctx)
	if err != nil {
		return err
	}
	now := time.Now().UnixMilli()
	r.mu.Lock()
	defer r.mu.Unlock()
	struck := map[string]int{}
	strike := func(session string) (out bool) {
		struck[session] = r.strikes[session] + 1
		return struck[session] >= strikesOut
	}
	for device, e := range r.devices {
		for id, s := range e.Sessions {
			_, here := r.local[id]
			switch {
			case s.Gateway == r.me && !here && strike(id):
				r.put(device, disconnect(id, presence.Network))
			case s.Gateway != r.me && !alive[s.Gateway] && strike(id):
				r.put(device, disconnect(id, presence.GatewayDied))
			}
		}
		if _, due := e.GoOffline(now, r.grace.Milliseconds()); due {
			r.put(device, func(d *presence.Device, at int64) (presence.Fact, bool) {
				return d.GoOffline(at, r.grace.Milliseconds())
			})
		}
	}
	for id, c := range r.local {
		e := r.devices[c.Device]
		known := false
		if e != nil {
			_, known = e.Sessions[id]
		}
		if !known && strike(id) {
			r.put(c.Device, r.connect(c))
		}
	}
	r.strikes, r.alive = struck, alive
	return nil
}

// hearts returns the gateways that are alive.
func (r *Roster) hearts(ctx context.Context) (map[string]bool, error) {
	keys, err := r.beats.Keys(ctx)
	if lost(err) && !r.serves { // a gateway's live does it
		if err = r.remake(ctx); err == nil {
			keys, err = r.beats.Keys(ctx)
		}
	}
	if err != nil && !errors.Is(err, jetstream.ErrNoKeysFound) {
		return nil, fmt.Errorf("heartbeats of gateways: %w", err)
	}
	alive := map[string]bool{r.me: true}
	for _, k := range keys {
		alive[k] = true
	}
	return alive, nil
}
