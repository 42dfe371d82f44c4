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

// TestOpeningWithBase: of a log that was compacted the folds get the base and what
// comes after it, each fact once and read once.
func TestOpeningWithBase(t *testing.T) {
	mem := memlog.New(memlog.Options{})
	log := &counting{Log: mem}
	t.Cleanup(func() { log.Close() })
	for i := range 100 {
		if _, err := log.Append(t.Context(), events.Any, events.Event{Stream: events.Stream{Kind: events.Registry, ID: fmt.Sprint("car-", i)}, Type: "added", ID: events.UniqueID(), Payload: []byte("{}")}); err != nil {
			t.Fatal(err)
		}
	}
	upTo := events.Position{Epoch: 1, Partition: events.ControlPartition, Seq: 90}
	facts := func(yield func(events.Event, error) bool) {
		for e, err := range mem.Read(t.Context(), events.Stream{Kind: events.Registry, ID: "car-49"}, events.Latest) {
			if !yield(e, err) {
				return
			}
		}
	}
	if err := mem.Rebase(t.Context(), events.Base{}, upTo, facts); err != nil {
		t.Fatal(err)
	}
	if _, err := mem.Purge(t.Context(), upTo); err != nil {
		t.Fatal(err)
	}
	log.read = 0
	o := newOpening(log)
	for i := range 3 {
		var got []uint64
		for e, err := range events.Facts(t.Context(), o, events.Cursor{}) {
			if err != nil {
				t.Fatal(err)
			}
			if got = append(got, e.Position.Seq); e.Position.Seq == 100 {
				break
			}
		}
		if fmt.Sprint(got) != "[50 91 92 93 94 95 96 97 98 99 100]" || log.read != 10 {
			t.Errorf("fold %d: %v, %d events read from the log", i, got, log.read)
		}
		if kept := len(o.kept); kept != 1 {
			t.Errorf("fold %d: %d facts of the base are kept", i, kept)
		}
	}
	for _, err := range o.Follow(t.Context(), events.ControlPartition, events.Cursor{}) {
		var truncated *events.TruncatedError
		if !errors.As(err, &truncated) {
			t.Fatal("history begins where the base ends: ", err)
		}
	}
	o.over()
	if base, err := o.Base(t.Context()); err != nil || base.UpTo != upTo || o.base != nil {
		t.Fatal(base, err)
	}
}
