package latest

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"github.com/tachograph/tachograph/events"
)

// What is read ahead of the fold at most.
const (
	maxPending      = 16_384
	maxPendingBytes = 8 << 20
)

// read takes events from the log until ctx ends.
func (p *Projection) read(ctx context.Context, after events.Cursor) error {
	for e, err := range p.cfg.Log.Follow(ctx, p.cfg.Partition, after) {
		if err != nil {
			return err
		}
		next := event{Event: e}
		if e.Stream.Kind == events.Telemetry && e.Schema > 0 {
			var ok bool
			if next.schema, ok = p.cfg.Catalog.Schemas().Version(e.Type, e.Schema); !ok {
				next.schema, err = p.cfg.Catalog.Await(ctx, e.Type, e.Schema, func(err error) {
					p.failed("decode", fmt.Errorf("event %s of %s waits: %w", e.Position, e.Stream.ID, err))
				})
				if err != nil {
					return err
				}
			}
		}
		p.mu.Lock()
		for p.full() {
			p.mu.Unlock()
			select {
			case <-p.taken:
			case <-ctx.Done():
				return nil
			}
			p.mu.Lock()
		}
		p.pending = append(p.pending, next)
		p.pendingBytes += len(e.Payload)
		wake := len(p.pending) == 1 || p.full()
		p.mu.Unlock()
		if wake {
			signal(p.due)
		}
	}
	return nil
}

// full needs the lock.
func (p *Projection) full() bool {
	return len(p.pending) >= maxPending || p.pendingBytes >= maxPendingBytes
}

func signal(c chan<- struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// work folds what was read and writes the documents, at once when the last
// write is long enough ago, else when it is. While it writes, the next events
// gather: a slow bucket gets fewer writes by itself.
func (p *Projection) work(ctx context.Context, read <-chan error) (ended bool, err error) {
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	var next time.Time // the earliest write
	for {
		p.mu.Lock()
		n, full := len(p.pending), p.full()
		p.mu.Unlock()
		wait := time.Until(next)
		switch {
		case n > 0 && (full || ended || wait <= 0):
			if err := p.fold(ctx); err != nil {
				return ended, err
			}
			if wait <= 0 || ended || len(p.store.dirty) >= p.cfg.Devices {
				next = time.Now().Add(p.cfg.Flush)
				if err := p.write(ctx); err != nil {
					return ended, err
				}
			}
			continue
		case p.cursor != p.written && (ended || wait <= 0):
			next = time.Now().Add(p.cfg.Flush)
			if err := p.write(ctx); err != nil {
				return ended, err
			}
			if ended { // whether the position could be written or not, see check
				return true, err
			}
			continue
		case ended:
			return true, err
		case n > 0 || p.cursor != p.written:
			timer.Reset(wait)
		}
		select {
		case <-p.due:
		case <-timer.C:
		case err = <-read:
			ended = true
		}
	}
}

// load sees to it that the states of all devices of evs are in memory.
func (p *Projection) load(ctx context.Context, evs []event) error {
	asked := map[string]bool{}
	var missing []string
	for i := range evs {
		device := evs[i].Stream.ID
		if _, ok := p.store.entries[device]; !ok && !asked[device] && evs[i].Stream.Kind == events.Telemetry {
			asked[device] = true
			missing = append(missing, strings.Clone(device)) // the event points into memory of others
		}
	}
	if len(missing) == 0 {
		return nil
	}
	return p.persist(ctx, "load", func() error { return p.store.load(ctx, missing) })
}

// write brings what was folded into the bucket: the documents first, then the
// position. However long it takes; it gives up only when stopping takes too long.
func (p *Projection) write(ctx context.Context) error {
	err := p.persist(ctx, "write", func() error { return p.store.write(ctx, p.tooLarge) })
	if err != nil {
		return err
	}
	p.store.shrink()
	p.keep(ctx)
	if len(p.ahead) > 0 {
		return nil // see check
	}
	if err := p.persist(ctx, "position", func() error { return p.writePosition(ctx) }); err != nil {
		return err
	}
	p.written = p.cursor
	p.mu.Lock()
	defer p.mu.Unlock()
	p.status.Position = p.cursor.Position
	p.status.CaughtUp, p.status.LastError = true, ""
	p.arrived = p.newest
	return nil
}

// keep makes snapshots of states. One that cannot be kept makes looks at the past
// longer and nothing else, so it is not tried again.
func (p *Projection) keep(ctx context.Context) {
	for i := range p.kept {
		if err := p.cfg.Snapshots.put(ctx, &p.kept[i]); err != nil {
			p.cfg.Logger.Warn("no snapshot", "projection", "latest", "error", err)
			break
		}
	}
	clear(p.kept)
	p.kept = p.kept[:0]
}

func (p *Projection) writePosition(ctx context.Context) error {
	text, err := json.Marshal(p.cursor)
	if err != nil {
		return err
	}
	_, err = p.cfg.KV.Put(ctx, positionKey(p.cfg.Partition), text)
	return err
}

func (p *Projection) tooLarge(device string, err error) {
	p.mu.Lock()
	p.status.Errors++
	p.mu.Unlock()
	p.cfg.Logger.Error("document is too large for the bucket; the one that is there stays", "projection", "latest", "device", device, "error", err)
}
