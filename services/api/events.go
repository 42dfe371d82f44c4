package api

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"maps"
	"net/http"
	"slices"
	"time"

	"github.com/tachograph/tachograph/events"
	"github.com/tachograph/tachograph/services/api/problem"
)

// listEvents streams what the log and its archive hold, and what it will hold when it is
// followed. Before the first event an error is an answer of its own; after it
// the status has gone out, and the format tells.
func (a *api) listEvents(w http.ResponseWriter, r *http.Request) error {
	s, err := parseSelection(r)
	if err != nil {
		return err
	}
	places, what := a.readers, "readers are at work"
	if s.follow {
		places, what = a.followers, "followers are connected"
	}
	leave, err := take(places, "read events", what)
	if err != nil {
		return err
	}
	defer leave()

	ctx, cancel := context.WithCancel(r.Context())
	defer cancel()
	at, err := s.start(ctx, a.history)
	if err != nil {
		return err
	}
	out := a.newEventWriter(w, s, at)
	if r.Method == http.MethodHead {
		out.header()
		return nil
	}
	if s.follow {
		return a.follow(ctx, s, at, out)
	}
	count := 0
	for e, err := range a.selected(ctx, s, at) {
		if err != nil {
			if ctx.Err() != nil {
				return ctx.Err()
			}
			return out.fail(err)
		}
		if !s.matches(&e) {
			if err := out.tick(); err != nil {
				return gone(err)
			}
			continue
		}
		at.Advance(&e)
		if err := out.write(&e, at); err != nil {
			return gone(err)
		}
		if count++; count == s.limit {
			break
		}
	}
	if ctx.Err() != nil {
		return ctx.Err() // what was read is not the whole of it
	}
	if err := out.end(); err != nil {
		return gone(err)
	}
	return nil
}

// gone ends the answer to a client that does not read: there is nobody to tell.
func gone(error) error { panic(http.ErrAbortHandler) }

// selected yields a superset of the events asked for: one stream, or whole
// partitions up to where they end now.
func (a *api) selected(ctx context.Context, s selection, at events.Cursors) iter.Seq2[events.Event, error] {
	oneStream := !slices.Contains([]events.Kind{"", events.Command, events.Shadow}, s.kind()) // of those a device has many
	partitions := slices.Sorted(maps.Keys(at))
	last := maps.Clone(at)
	if s.ID != "" && oneStream {
		return func(yield func(events.Event, error) bool) {
			for _, p := range partitions { // several where the log was split
				if p < s.after.Partition {
					continue
				}
				for e, err := range a.history.ReadAfter(ctx, events.Stream{Kind: s.kind(), ID: s.ID}, last[p].Position, events.EndOf(p)) {
					if !yield(e, err) || err != nil {
						return
					}
				}
			}
		}
	}
	return func(yield func(events.Event, error) bool) {
		for _, p := range partitions {
			if p >= s.after.Partition && !a.scan(ctx, last[p], p, yield) {
				return
			}
		}
	}
}

// scan yields a partition's events up to where it ends now, and tells whether
// to go on with the next.
func (a *api) scan(ctx context.Context, after events.Cursor, partition uint16, yield func(events.Event, error) bool) bool {
	bounds, err := a.log.Bounds(ctx, partition)
	if err != nil {
		yield(events.Event{}, fmt.Errorf("read events: %w", err))
		return false
	}
	newest := bounds.Newest
	if newest.Seq <= after.Position.Seq {
		return true
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	// A log whose end was purged never shows it; Follow would wait for ever.
	patience := idleLog
	if after.Position.Seq+1 < bounds.Oldest.Seq {
		patience = idleArchive
	}
	idle := time.AfterFunc(patience, func() { cancel(errIdle) })
	defer idle.Stop()
	for e, err := range a.history.Follow(ctx, partition, after) {
		if err != nil {
			yield(events.Event{}, fmt.Errorf("read events: %w", err))
			return false
		}
		idle.Stop()
		if !yield(e, nil) {
			return false
		}
		if e.Position.Seq >= newest.Seq {
			return true
		}
		if patience = idleLog; e.Position.Seq < bounds.Oldest.Seq {
			patience = idleArchive
		}
		idle.Reset(patience)
	}
	if errors.Is(context.Cause(ctx), errIdle) {
		yield(events.Event{}, problem.New(problem.Unavailable,
			fmt.Sprintf("read events: nothing came for %s, and the log goes on to %s", patience, newest), nil))
		return false
	}
	return true
}

var errIdle = errors.New("log is idle")
