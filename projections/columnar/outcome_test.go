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
	"github.com/tachograph/tachograph/projections"
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

// TestEraseTakesReplays: what a device sent is forgotten together with what came
// back of it later, as that keeps the arrival it had; a rebuild is equal.
func TestEraseTakesReplays(t *testing.T) {
	long(t)
	s := newStand(t)
	s.position(1)
	var letters []events.Event
	for n := range 2 {
		s.send("car-1", "position", fmt.Sprintf(`{"time":%d,"speed":"fast %d"}`, deviceTime(n), n))
	}
	for e, err := range s.log.Read(t.Context(), events.Stream{Kind: events.Telemetry, ID: "car-1"}, events.Latest) {
		if err != nil {
			t.Fatal(err)
		}
		letters = append(letters, e)
	}
	back, dropped := letters[1], events.LetterID{Position: letters[2].Position}
	id := events.LetterID{Position: back.Position}
	back.Payload = []byte(`{"time":1700000000000,"speed":7}`)
	to := time.Now().Add(time.Millisecond).Truncate(time.Microsecond)
	for !time.Now().After(to) { // the replay comes after the stretch that is forgotten
		time.Sleep(time.Millisecond)
	}
	replay, err := s.log.Append(t.Context(), events.Fresh, id.Replay(back, back.Schema))
	if err != nil {
		t.Fatal(err)
	}
	drop := events.Event{Stream: events.Stream{Kind: events.Letter, ID: "car-1", Name: dropped.String()}, Type: OutcomeDropped, ID: events.UniqueID(), Payload: []byte(`{}`)}
	if _, err := s.log.Append(t.Context(), events.Fresh, drop); err != nil {
		t.Fatal(err)
	}
	s.awaitAll()
	s.expect("SELECT outcome FROM tacho.dead_letter_outcomes ORDER BY outcome", "('dropped') ('replayed')")
	s.expect("SELECT count() FROM tacho.position", "(2)")

	if err := s.log.Erase(t.Context(), letters[0].Position, letters[1].Position, letters[2].Position, replay); err != nil {
		t.Fatal(err)
	}
	erasure := Erasure{Server: s.server, Partitions: []uint16{0}, Schemas: s.catalog.Schemas().All(), Device: "car-1", To: to, Pause: s.pause, Tell: func(string) {}}
	counts, err := erasure.Run(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if counts["position"] != 2 || counts[outcomeTable] != 1 || counts["dead_letters"] != 2 || counts["events"] != 4 {
		t.Errorf("erased %v", counts)
	}
	s.expect("SELECT outcome FROM tacho.dead_letter_outcomes", "('dropped')")
	s.expect("SELECT count() FROM tacho.position", "(0)")
	s.send("car-2", "position", `{"time":1700000000000,"speed":8}`)
	s.awaitAll()
	reports, err := s.replay.Build(t.Context(), projections.Order{Dry: true}, silent)
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range reports {
		if !r.Equal() {
			t.Errorf("rebuilt: %+v", r)
		}
	}
}
