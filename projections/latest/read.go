package latest

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"iter"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/tachograph/tachograph/events"
)

// Read returns what is known of a device. The error wraps
// jetstream.ErrKeyNotFound when nothing has arrived from it.
func Read(ctx context.Context, kv jetstream.KeyValue, device string) (State, error) {
	e, err := kv.Get(ctx, events.Escape(device))
	if err != nil {
		return State{}, fmt.Errorf("read state of %s: %w", device, err)
	}
	var s State
	if err := json.Unmarshal(e.Value(), &s); err != nil {
		return State{}, fmt.Errorf("read state of %s: %w", device, err)
	}
	return s, nil
}

// Reached returns the position up to which a partition is in the bucket; after a
// restart the projection goes on there. The zero position, but for the
// partition, when it has not begun.
func Reached(ctx context.Context, kv jetstream.KeyValue, partition uint16) (events.Position, error) {
	at := events.Cursor{Position: events.Position{Partition: partition}}
	e, err := kv.Get(ctx, positionKey(partition))
	if errors.Is(err, jetstream.ErrKeyNotFound) {
		return at.Position, nil
	}
	if err == nil {
		err = json.Unmarshal(e.Value(), &at)
	}
	if err != nil {
		return at.Position, fmt.Errorf("read position of partition %d: %w", partition, err)
	}
	return at.Position, nil
}

// Watch yields the states of the devices (all, if none is named) as they are
// now and then each change, conflated, until ctx ends. It yields an error once
// and stops.
func Watch(ctx context.Context, kv jetstream.KeyValue, devices ...string) iter.Seq2[State, error] {
	return func(yield func(State, error) bool) {
		keys := []string{"*"} // devices are the keys of one token
		if len(devices) > 0 {
			keys = keys[:0]
			for _, d := range devices {
				keys = append(keys, events.Escape(d))
			}
		}
		w, err := kv.WatchFiltered(ctx, keys, jetstream.IgnoreDeletes())
		if err != nil {
			yield(State{}, fmt.Errorf("watch states: %w", err))
			return
		}
		defer func() { _ = w.Stop() }() // the connection may be gone, and the consumer with it
		for {
			select {
			case <-ctx.Done():
				return
			case e, open := <-w.Updates():
				if !open {
					if ctx.Err() == nil {
						yield(State{}, fmt.Errorf("watch states: the connection was closed"))
					}
					return
				}
				if e == nil { // all present states were yielded
					continue
				}
				var s State
				if err := json.Unmarshal(e.Value(), &s); err != nil {
					yield(State{}, fmt.Errorf("watch states: key %s: %w", e.Key(), err))
					return
				}
				if !yield(s, nil) {
					return
				}
			}
		}
	}
}
