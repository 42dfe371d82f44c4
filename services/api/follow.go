package api

import (
	"context"
	"time"

	"github.com/tachograph/tachograph/events"
)

// follow writes events as they come until the client goes or the limit is
// reached. Silence is broken by a beat, so that both sides find out when the
// other is gone; a client that takes nothing for answerTime is given up.
func (a *api) follow(ctx context.Context, s selection, at events.Cursors, out *eventWriter) error {
	ctx, cancel := context.WithCancel(ctx)
	ahead := events.ReadAhead(ctx, s.Filter.Follow(ctx, a.history, at.Clone()))
	defer func() {
		cancel()
		for range ahead.C { // until the reader has ended
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
		case i, more := <-ahead.C:
			if !more {
				return a.over(out)
			}
			ahead.Done(&i)
			if i.Err != nil {
				return out.fail(i.Err)
			}
			at.Advance(&i.Event)
			if !s.matches(&i.Event) {
				continue
			}
			beats.Reset(a.beat)
			if err := out.write(&i.Event, at); err != nil {
				return gone(err)
			}
			count++
			if count == s.limit {
				return a.over(out)
			}
			if len(ahead.C) == 0 {
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
