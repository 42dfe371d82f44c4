package api

import (
	"context"
	"sync/atomic"
	"time"

	"github.com/tachograph/tachograph/events"
)

// What is read ahead of a follower that is being written to: so many events, and
// as many bytes, or one event that is larger. Beyond that and what the log's
// client holds (some MiB), nothing is read before the connection has taken what
// there is.
const (
	waiting      = 64
	waitingBytes = 1 << 20
)

// follow writes events as they come until the client goes or the limit is
// reached. Silence is broken by a beat, so that both sides find out when the
// other is gone; a client that takes nothing for answerTime is given up.
func (a *api) follow(ctx context.Context, s selection, at events.Cursors, out *eventWriter) error {
	type item struct {
		e   events.Event
		err error
	}
	ctx, cancel := context.WithCancel(ctx)
	items := make(chan item, waiting)
	var held atomic.Int64          // bytes in items
	room := make(chan struct{}, 1) // some were taken
	from := s.Filter.Follow(ctx, a.log, at.Clone())
	go func() {
		defer close(items)
		for e, err := range from {
			n := int64(len(e.Payload))
			for held.Load() > 0 && held.Load()+n > waitingBytes {
				select {
				case <-room:
				case <-ctx.Done():
					return
				}
			}
			held.Add(n)
			select {
			case items <- item{e, err}:
			case <-ctx.Done():
				return
			}
		}
	}()
	defer func() {
		cancel()
		for range items { // until the reader has ended
		}
	}()

	out.header()
	if err := out.flush(); err != nil { // the client learns that it is heard
		return gone(err)
	}
	beats := time.NewTicker(a.beat)
	defer beats.Stop()
	for count := 0; ; {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-a.stopping:
			return a.over(out)
		case <-beats.C:
			if err := out.beat(at); err != nil {
				return gone(err)
			}
		case i, more := <-items:
			if !more {
				return a.over(out)
			}
			held.Add(-int64(len(i.e.Payload)))
			select {
			case room <- struct{}{}:
			default:
			}
			if i.err != nil {
				return out.fail(i.err)
			}
			at.Advance(&i.e)
			if !s.matches(&i.e) {
				continue
			}
			beats.Reset(a.beat)
			if err := out.write(&i.e, at); err != nil {
				return gone(err)
			}
			count++
			if count == s.limit {
				return a.over(out)
			}
			if len(items) == 0 {
				if err := out.push(); err != nil {
					return gone(err)
				}
			}
		}
	}
}

// over ends an answer that could go on later, after its last token.
func (a *api) over(out *eventWriter) error {
	if err := out.end(); err != nil {
		return gone(err)
	}
	return nil
}

// Stop ends the answers that would go on for ever. It is idempotent.
func (a *api) Stop() { a.stop.Do(func() { close(a.stopping) }) }
