package logtest

import (
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/tachograph/tachograph/events"
)

// replays: a dead letter comes back into telemetry once, whoever tries and how
// often, among the device's other events, with the arrival time it had.
func replays(t *testing.T, open Open) {
	l := open(t, 2)
	ctx := deadline(t)
	EnqueueAll(t, l, []events.Event{Telemetry("a.b", 0), Telemetry("a.b", 1)})
	s := events.Stream{Kind: events.Telemetry, ID: "a.b"}
	letter := readAll(t, l, s, events.Latest)[1]
	letter.Received = letter.Received.Add(-time.Hour)
	id := events.LetterID{Position: letter.Position, Sample: 3}
	var stored atomic.Int32
	var all sync.WaitGroup
	for n := range uint32(8) {
		all.Go(func() {
			_, err := l.Append(ctx, events.Fresh, id.Replay(letter, n+2)) // whatever the schema is by then
			var there *events.ConflictError
			switch {
			case err == nil:
				stored.Add(1)
			case !errors.As(err, &there) || there.Actual != 3:
				t.Error(err)
			}
		})
	}
	all.Wait()
	if stored.Load() != 1 {
		t.Fatalf("stored %d times", stored.Load())
	}
	other := id
	other.Sample = 4
	if _, err := l.Append(ctx, events.Fresh, other.Replay(letter, 2)); err != nil {
		t.Fatal(err)
	}
	EnqueueAll(t, l, []events.Event{Telemetry("a.b", 2)})
	got := readAll(t, l, s, events.Latest)
	if len(got) != 5 {
		t.Fatalf("%d events of the device, want 5", len(got))
	}
	back, ok := got[2].Replayed()
	if !ok || back != id || got[2].Schema < 2 || !got[2].Received.Equal(letter.Received) || got[2].ID == letter.ID || got[2].ID == got[3].ID || string(got[2].Payload) != string(letter.Payload) {
		t.Errorf("replayed %+v of %+v", got[2], letter)
	}
	for _, e := range []events.Event{got[0], got[4]} {
		if _, ok := e.Replayed(); ok {
			t.Errorf("%+v counts as a replay", e)
		}
	}
	if only := readAll(t, l, got[3].Stream, events.Latest); len(only) != 1 || only[0].Position != got[3].Position {
		t.Errorf("of the second letter: %+v", only)
	}
	odd := id.Replay(letter, 2)
	odd.Stream.Name = "x"
	if _, err := l.Append(ctx, events.Fresh, odd); !errors.Is(err, events.ErrInvalid) {
		t.Errorf("a replay of nothing: %v", err)
	}
	if err := l.Enqueue(ctx, id.Replay(letter, 2), func(error) { t.Error("done") }); !errors.Is(err, events.ErrInvalid) {
		t.Errorf("enqueued: %v", err)
	}
}
