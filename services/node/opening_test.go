package node

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"testing"

	"github.com/tachograph/tachograph/events"
	"github.com/tachograph/tachograph/events/memlog"
)

// counting tells how many events were read from the log.
type counting struct {
	events.Log
	read int
}

func (c *counting) Follow(ctx context.Context, partition uint16, after events.Cursor) iter.Seq2[events.Event, error] {
	return func(yield func(events.Event, error) bool) {
		for e, err := range c.Log.Follow(ctx, partition, after) {
			c.read++
			if !yield(e, err) {
				return
			}
		}
	}
}

// TestOpening has several folds begin at the beginning: each gets every fact once,
// and the log is read once, as far as there is room.
func TestOpening(t *testing.T) {
	const facts = 100
	log := &counting{Log: memlog.New(memlog.Options{})}
	add := func(n int) {
		for i := range n {
			if _, err := log.Append(t.Context(), events.Any, events.Event{Stream: events.Stream{Kind: events.Registry, ID: fmt.Sprint("car-", i)}, Type: "added", ID: events.UniqueID(), Payload: []byte("{}")}); err != nil {
				t.Fatal(err)
			}
		}
	}
	take := func(l events.Log, after events.Cursor, n int) (last events.Cursor) {
		t.Helper()
		ctx, stop := context.WithCancel(t.Context())
		defer stop()
		next := after.Position.Seq
		for e, err := range l.Follow(ctx, events.ControlPartition, after) {
			if err != nil {
				t.Fatal(err)
			}
			if next++; e.Position.Seq != next {
				t.Fatalf("position %s, want %d", e.Position, next)
			}
			if last = e.Cursor(); last.Position.Seq == after.Position.Seq+uint64(n) {
				stop()
				return last
			}
		}
		t.Fatal("the log ended")
		return last
	}
	read := func(want int) {
		t.Helper()
		if log.read != want {
			t.Errorf("%d events read from the log, want %d", log.read, want)
		}
		log.read = 0
	}
	add(facts)

	o := newOpening(log)
	half := take(o, events.Cursor{}, facts/2)
	read(facts / 2)
	take(o, events.Cursor{}, facts)
	read(facts / 2)
	end := take(o, half, facts/2)
	read(0)
	add(1)
	take(o, end, 1)
	read(1)
	take(o, events.Cursor{}, facts+1)
	read(0)

	// A cursor that names another event is for the log to judge.
	for _, err := range o.Follow(t.Context(), events.ControlPartition, events.Cursor{Position: half.Position, ID: "another"}) {
		if !errors.Is(err, events.ErrDiverged) {
			t.Fatal(err)
		}
	}
	log.read = 0

	// Where there is no room each reads by itself.
	o = newOpening(log)
	o.room = 10 * 260
	take(o, events.Cursor{}, facts)
	read(facts)
	take(o, events.Cursor{}, facts)
	if log.read >= facts || log.read < facts-20 {
		t.Errorf("%d events read from the log", log.read)
	}
	log.read = 0

	// Nor is anything kept once the node has started.
	o = newOpening(log)
	take(o, events.Cursor{}, facts)
	o.over()
	log.read = 0
	take(o, events.Cursor{}, facts)
	read(facts)
	take(o, events.Cursor{}, facts)
	read(facts)
}
