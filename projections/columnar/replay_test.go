package columnar

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/tachograph/tachograph/events"
	"github.com/tachograph/tachograph/projections"
	"github.com/tachograph/tachograph/schemas"
)

// A stand is a bench whose writers can be paused, and a replay beside them.
type stand struct {
	*bench
	writers []*projections.Restartable
	replay  *Replay
}

func newStand(t *testing.T) *stand { return newStandOf(t, 0) }

// newStandOf has its writers roll up so often.
func newStandOf(t *testing.T, every time.Duration) *stand {
	return newStandOn(t, every, func(b *bench) events.Log { return b.log })
}

// newStandOn has them read a log of their own.
func newStandOn(t *testing.T, every time.Duration, read func(*bench) events.Log) *stand {
	s := &stand{bench: newBench(t)}
	log := read(s.bench)
	config := func(partition uint16) Config {
		return Config{Log: log, Catalog: s.catalog, Partition: partition, Server: s.server, MaxAge: s.age, RollUpEvery: every}
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 2)
	for _, p := range []uint16{0, events.ControlPartition} {
		w, err := projections.NewRestartable(func() (projections.Runner, error) { return New(config(p)) })
		if err != nil {
			t.Fatal(err)
		}
		s.writers = append(s.writers, w)
		go func() { ended <- w.Run(ctx) }()
	}
	t.Cleanup(func() {
		cancel()
		for range s.writers {
			if err := <-ended; err != nil {
				t.Error(err)
			}
		}
	})
	s.replay = &Replay{Writer: config(0), Partitions: []uint16{0, events.ControlPartition}, Pause: s.pause}
	return s
}

func (s *stand) pause(ctx context.Context) (resume func(), err error) {
	var all []func()
	for _, w := range s.writers {
		resume, err := w.Pause(ctx)
		if err != nil {
			return nil, err
		}
		all = append(all, resume)
	}
	return func() {
		for _, resume := range all {
			resume()
		}
	}, nil
}

func (s *stand) position(n int) {
	s.t.Helper()
	s.send("car-1", "position", fmt.Sprintf(`{"time":%d,"latitude":%d,"speed":%d}`, 1700000000000+n*1000, n%90, n%130))
}

// awaitAll waits until the serving tables have everything.
func (s *stand) awaitAll() {
	s.t.Helper()
	for deadline := time.Now().Add(3 * time.Minute); ; time.Sleep(10 * time.Millisecond) {
		behind := false
		for _, w := range s.writers {
			st := w.Status()
			behind = behind || !st.CaughtUp || st.Lag > 0
		}
		if !behind {
			return
		}
		if time.Now().After(deadline) {
			s.t.Fatalf("not caught up: %+v", s.writers[0].Status())
		}
	}
}

// TestReplay: what somebody has damaged in the tables is found and named, a dry
// run changes nothing, the replay mends it and can be undone; what is sent
// meanwhile and afterwards is there once in each case.
func silent(projections.Progress) {}

func TestReplay(t *testing.T) {
	s := newStand(t)
	everything := schemas.Source{Format: schemas.FormatProto, Text: `syntax = "proto3"; message Odd { map<string, double> m = 1; repeated int32 n = 2; optional bytes b = 3; enum G { A = 0; B = 1; } optional G g = 4; }`}
	if _, _, err := s.catalog.Add(t.Context(), "odd", everything); err != nil {
		t.Fatal(err)
	}
	for n := range 50 {
		s.position(n)
		s.send("car-2", "odd", fmt.Sprintf(`{"m":{"a":%d},"n":[1,%d],"b":"AP8=","g":"B"}`, n, n))
	}
	s.send("car-1", "position", `{"latitude":"north"}`)
	s.awaitAll()
	s.exec("ALTER TABLE tacho.position DELETE WHERE latitude = 7 SETTINGS mutations_sync = 2")
	s.exec("ALTER TABLE tacho.position UPDATE speed = 999 WHERE latitude = 8 SETTINGS mutations_sync = 2")
	s.exec("INSERT INTO tacho.odd SELECT * REPLACE (77 AS _row) FROM tacho.odd LIMIT 1")

	reports, err := s.replay.Build(t.Context(), projections.Order{Dry: true}, silent)
	if err != nil {
		t.Fatal(err)
	}
	differ := map[string]projections.TableReport{}
	for _, r := range reports {
		if !r.Equal() {
			differ[r.Table] = r
		}
	}
	if p := differ["position"]; p.Old != 49 || p.New != 50 || p.OnlyNew != 1 || p.Changed != 1 || len(p.Examples) != 2 || !strings.HasPrefix(p.Examples[0], "1.0.") {
		t.Errorf("%+v", p)
	}
	if o := differ["odd"]; o.OnlyOld != 1 || o.OnlyNew != 0 || len(differ) != 2 || len(reports) < 5 {
		t.Errorf("%+v in %+v", o, reports)
	}
	s.expect("SELECT count() FROM tacho.position", "(49)")

	for n := 50; n < 80; n++ {
		s.position(n)
	}
	phases := map[string]bool{}
	seen := func(p projections.Progress) { phases[p.Phase] = true }
	if _, err := s.replay.Build(t.Context(), projections.Order{}, seen); err != nil {
		t.Fatal(err)
	}
	for n := 80; n < 90; n++ {
		s.position(n)
	}
	s.awaitAll()
	s.expect("SELECT count(), uniqExact(_seq), max(speed) FROM tacho.position", "(90,90,89)")
	s.expect("SELECT count() FROM tacho.odd", "(50)")
	s.expect("SELECT count(), uniqExact(_seq) FROM tacho.events WHERE _partition = 0", "(141,141)")
	s.expect("SELECT count() FROM tacho.dead_letters", "(1)")
	if len(phases) != 3 {
		t.Errorf("phases %v", phases)
	}

	if err := s.replay.Undo(t.Context()); err != nil {
		t.Fatal(err)
	}
	s.position(90)
	s.awaitAll()
	s.expect("SELECT count(), uniqExact(_seq), max(speed) FROM tacho.position", "(90,90,999)") // as damaged, and caught up
	s.expect("SELECT count(), uniqExact(_seq) FROM tacho.events WHERE _partition = 0", "(142,142)")
}

// TestDiscard: what a dry run or a replay that was ended has built can be thrown
// away, with its parts on the disk; what a swap may need, and what served before,
// cannot.
func TestDiscard(t *testing.T) {
	long(t)
	s := newStand(t)
	for n := range 30 {
		s.position(n)
	}
	s.awaitAll()
	aside := func(exists bool) {
		t.Helper()
		want := "(0,0)"
		if exists {
			want = "(1,1)"
		}
		s.expect("SELECT (SELECT count() FROM system.databases WHERE name = 'tacho_replay'), (SELECT count() > 0 FROM system.parts WHERE database = 'tacho_replay')", want)
	}
	discard := func(want error) {
		t.Helper()
		if err := s.replay.Discard(t.Context()); !errors.Is(err, want) {
			t.Fatalf("%v, want %v", err, want)
		}
	}
	discard(projections.ErrNothingToDiscard)
	if _, err := s.replay.Build(t.Context(), projections.Order{Dry: true}, silent); err != nil {
		t.Fatal(err)
	}
	aside(true)
	discard(nil)
	aside(false)
	discard(projections.ErrNothingToDiscard)

	ending, end := context.WithCancel(t.Context())
	if _, err := s.replay.Build(ending, projections.Order{}, func(p projections.Progress) {
		if p.Phase == "comparing" {
			end()
		}
	}); err == nil {
		t.Fatal("it was ended, and came to its end")
	}
	aside(true)
	discard(nil)
	aside(false)

	crash := errors.New("crash")
	s.replay.Fault = func(at string) error {
		if at == "exchange events" {
			return crash
		}
		return nil
	}
	resume, err := s.pause(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.replay.Build(t.Context(), projections.Order{}, silent); !errors.Is(err, crash) {
		t.Fatal(err)
	}
	discard(projections.ErrSwapUnfinished)
	if err := Recover(t.Context(), NewShards("", s.server), s.server); err != nil {
		t.Fatal(err)
	}
	resume()
	s.replay.Fault = nil
	s.position(30)
	s.awaitAll()
	s.expect("SELECT count(), uniqExact(_seq) FROM tacho.position", "(31,31)")
	discard(projections.ErrNothingToDiscard) // what served before is for Undo
	if err := s.replay.Undo(t.Context()); err != nil {
		t.Fatal(err)
	}
	s.awaitAll()
	s.expect("SELECT count(), uniqExact(_seq) FROM tacho.position", "(31,31)")
}

// TestReplayCrashes: a replay that is cut off at any step of the swap, or while
// it builds, is finished by Recover or by the next one; never is a table half.
func TestReplayCrashes(t *testing.T) {
	long(t)
	s := newStand(t)
	for n := range 30 {
		s.position(n)
	}
	s.awaitAll()
	crash := errors.New("crash")
	sent := 30
	for _, step := range []string{"intend", "exchange checkpoints", "exchange events", "exchange position", "exchanged"} {
		met := false
		s.replay.Fault = func(at string) error {
			if at == step {
				met = true
				return crash
			}
			return nil
		}
		resume, err := s.pause(t.Context()) // a process that dies takes its writers with it
		if err != nil {
			t.Fatal(err)
		}
		if _, err := s.replay.Build(t.Context(), projections.Order{}, silent); !errors.Is(err, crash) || !met {
			t.Fatalf("%s: %v", step, err)
		}
		if err := Recover(t.Context(), NewShards("", s.server), s.server); err != nil {
			t.Fatalf("%s: %v", step, err)
		}
		resume()
		s.position(sent)
		sent++
		s.awaitAll()
		s.expect("SELECT count(), uniqExact(_seq) FROM tacho.position", fmt.Sprintf("(%d,%d)", sent, sent))
		s.expect("SELECT count(), uniqExact(_seq) FROM tacho.events WHERE _partition = 0", fmt.Sprintf("(%d,%d)", sent, sent))
		s.expect("SELECT count() FROM system.tables WHERE database = 'tacho' AND name = '_swap'", "(0)")
	}

	// Cut off while it builds: the next one goes on there.
	s.replay.Fault = nil
	ctx, cancel := context.WithCancel(t.Context())
	progress := func(p projections.Progress) {
		if p.Done > 5 && p.Done+5 < p.Total {
			cancel()
		}
	}
	s.exec("DROP DATABASE IF EXISTS tacho_replay SYNC")
	if _, err := s.replay.Build(ctx, projections.Order{Dry: true, Rate: 100}, progress); !errors.Is(err, context.Canceled) && err != nil {
		t.Fatal(err)
	}
	cancel()
	reports, err := s.replay.Build(t.Context(), projections.Order{Dry: true}, silent)
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range reports {
		if !r.Equal() {
			t.Errorf("%+v", r)
		}
	}
	if err := (&Replay{Writer: s.replay.Writer, Pause: s.pause}).Undo(t.Context()); !errors.Is(err, projections.ErrNothingToUndo) {
		t.Error(err)
	}
}
