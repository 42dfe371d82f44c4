package logtest

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/tachograph/tachograph/events"
)

// A Purger is a log as its janitor has it.
type Purger interface {
	events.Log
	Purge(ctx context.Context, upTo events.Position) (events.Bounds, error)
}

// Overtaken holds an empty log of one partition to this: a purge removes what a
// slow reader has not read; it is told, and reads no gap as if it were the
// whole. One that has read it all goes on, however long ago, and however few
// events it wants. n events of half a MiB are more than the log hands a reader
// ahead; age makes what was stored older than 10 s.
func Overtaken(t *testing.T, l Purger, n int, age func()) {
	ctx, cancel := context.WithTimeout(t.Context(), 2*patience)
	defer cancel()
	big := make([]byte, 512<<10) // so that a reader holds few ahead
	var all []events.Event
	for i := range n {
		e := Telemetry("car", i)
		e.Payload, e.ID = append(big[:len(big):len(big)], e.Payload...), events.UniqueID()
		all = append(all, e)
	}
	sparse := Telemetry("sparse", 0)
	EnqueueAll(t, l, append([]events.Event{sparse}, all...))
	age()

	rare := make(chan error, 2)
	quiet, stop := context.WithCancel(ctx)
	defer stop()
	go func() {
		for _, err := range (events.Filter{ID: "sparse"}).Follow(quiet, l, events.Cursors{0: {}}) {
			rare <- err
		}
	}()
	if err := <-rare; err != nil {
		t.Fatal(err)
	}
	read := 0
	var got error
	for _, err := range (events.Filter{ID: "car"}).Follow(ctx, l, events.Cursors{0: {}}) {
		if got = err; err != nil {
			break
		}
		if read++; read == 2 {
			tail, err := l.Tail(ctx, 0)
			if err != nil {
				t.Fatal(err)
			}
			tail.Seq -= 2
			if _, err := l.Purge(ctx, tail); err != nil {
				t.Fatal(err)
			}
			b, err := l.Bounds(ctx, 0)
			if err != nil || b.Oldest.Seq < 10 {
				t.Fatalf("purged to %+v: %v", b, err)
			}
			EnqueueAll(t, l, []events.Event{Telemetry("sparse", 1), Telemetry("car", 99)})
			time.Sleep(200 * time.Millisecond) // between two looks
		}
	}
	var gone *events.TruncatedError
	if !errors.As(got, &gone) || gone.Oldest.Seq < 10 {
		t.Fatalf("after %d events: %v", read, got)
	}
	select {
	case err := <-rare:
		if err != nil {
			t.Fatalf("a reader that missed nothing: %v", err)
		}
	case <-ctx.Done():
		t.Fatal("a quiet reader heard nothing")
	}
}
