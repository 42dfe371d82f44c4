package columnar

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/tachograph/tachograph/events"
)

// TestOutcomesCrash: writers and servers die among replays and drops; in the end
// each letter has its outcome and each replay its rows once.
func TestOutcomesCrash(t *testing.T) {
	b := newBench(t)
	replayed, dropped, sent := 0, 0, 0
	const runs = 8
	for seed := range uint64(runs) {
		r := rand.New(rand.NewPCG(seed, 11))
		var steps atomic.Int64
		crashAt := int64(1 + r.IntN(25))
		fault := func(string) error {
			switch k := steps.Add(1); {
			case k == crashAt:
				return errCrash
			case k == crashAt+1 && seed%2 == 1:
				return context.DeadlineExceeded
			}
			return nil
		}
		_, stop := b.start(0, fault)
		_, stopControl := b.start(events.ControlPartition, fault)
		killed := make(chan struct{})
		go func() {
			defer close(killed)
			if seed%4 == 3 {
				time.Sleep(time.Duration(r.IntN(100)) * time.Millisecond)
				_ = syscall.Kill(b.engine.PID(), syscall.SIGKILL)
			}
		}()
		for n := range 60 {
			sent++
			e := b.send("car", "position", fmt.Sprintf(`{"time":%d,"speed":"fast %d"}`, deviceTime(sent), sent)) // a letter
			evs := b.log.ReadAfter(t.Context(), events.Stream{Kind: events.Telemetry, ID: "car"}, events.Position{Seq: uint64(sent + replayed - 1)}, events.Latest)
			for got, err := range evs {
				if err != nil || got.ID != e.ID {
					t.Fatalf("%+v: %v", got, err)
				}
				e = got
			}
			id := events.LetterID{Position: e.Position}
			switch n % 3 {
			case 0: // as if a schema could read it by now
				e.Payload = fmt.Appendf(nil, `[{"time":%d,"speed":%d},{"time":%d,"speed":1}]`, deviceTime(sent), sent, deviceTime(sent)+1)
				if _, err := b.log.Append(t.Context(), events.Fresh, id.Replay(e, e.Schema)); err != nil {
					t.Fatal(err)
				}
				replayed++
			case 1:
				drop := events.Event{Stream: events.Stream{Kind: events.Letter, ID: "car", Name: id.String()}, Type: OutcomeDropped, ID: events.UniqueID(), Payload: []byte(`{"message":"position","note":"n"}`)}
				if _, err := b.log.Append(t.Context(), events.Fresh, drop); err != nil {
					t.Fatal(err)
				}
				dropped++
			}
			if n%20 == 0 {
				time.Sleep(5 * time.Millisecond) // batches of several sizes
			}
		}
		<-killed
		for _, stop := range []func() error{stop, stopControl} {
			if err := stop(); err != nil && !errors.Is(err, errCrash) {
				t.Log(err) // a writer that was crashed may end so
			}
		}
	}
	w, stop := b.start(0, nil)
	control, stopControl := b.start(events.ControlPartition, nil)
	b.await(w)
	b.await(control)
	b.expect("SELECT outcome, count(), uniqExact(letter), uniqExact(_seq) FROM tacho.dead_letter_outcomes GROUP BY outcome ORDER BY outcome",
		fmt.Sprintf("('dropped',%d,%d,%d) ('replayed',%d,%d,%d)", dropped, dropped, dropped, replayed, replayed, replayed))
	b.expect("SELECT count(), uniqExact((_epoch, _partition, _seq, _row)) FROM tacho.position", fmt.Sprintf("(%d,%d)", 2*replayed, 2*replayed))
	b.expect("SELECT count(), uniqExact(_seq) FROM tacho.dead_letters", fmt.Sprintf("(%d,%d)", sent, sent))
	b.expect("SELECT countIf(repeat) FROM tacho.events", "(0)")
	b.awaitRollUps()
	b.expect("SELECT sum(count) FROM tacho.position_1m WHERE signal = 'speed'", fmt.Sprintf("(%d)", 2*replayed))
	letters, err := NewLetters(b.server)
	if err != nil {
		t.Fatal(err)
	}
	defer letters.Close()
	for state, want := range map[string]int{Parked: sent - replayed - dropped, OutcomeReplayed: replayed, OutcomeDropped: dropped} {
		if all, err := letters.List(t.Context(), LetterFilter{State: state}); err != nil || len(all) != want {
			t.Errorf("%s: %d letters, want %d: %v", state, len(all), want, err)
		}
	}
	for _, stop := range []func() error{stop, stopControl} {
		if err := stop(); err != nil {
			t.Fatal(err)
		}
	}
}
