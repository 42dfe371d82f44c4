package latest

import (
	"context"
	"errors"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/tachograph/tachograph/events"
	"github.com/tachograph/tachograph/projections"
)

// replaying runs a serving projection that can be paused, and a replay of it.
func (s *site) replaying() (*projections.Restartable, *Replay) {
	s.t.Helper()
	serving, err := projections.NewRestartable(func() (projections.Runner, error) { return New(s.config()) })
	if err != nil {
		s.t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- serving.Run(s.t.Context()) }()
	s.t.Cleanup(func() { // the test's context has ended
		if err := <-ended; err != nil {
			s.t.Error(err)
		}
	})
	return serving, &Replay{JS: s.js, Serving: s.config(), Partitions: []uint16{0}, Pause: serving.Pause}
}

func (s *site) serves(r projections.Runner) {
	s.t.Helper()
	s.eventually("caught up", func() bool { st := r.Status(); return st.CaughtUp && st.Lag == 0 })
}

// damage changes one document, adds one and removes one, while nobody serves.
func (s *site) damage(serving *projections.Restartable) map[string]string {
	s.t.Helper()
	resume, err := serving.Pause(s.t.Context())
	if err != nil {
		s.t.Fatal(err)
	}
	defer resume()
	wrong := strings.Replace(s.documents()["wrong"], "52.5", "99.5", 1)
	for key, text := range map[string]string{"wrong": wrong, "ghost": strings.ReplaceAll(wrong, "wrong", "ghost")} {
		if _, err := s.kv.Put(s.t.Context(), events.Escape(key), []byte(text)); err != nil {
			s.t.Fatal(err)
		}
	}
	if err := s.kv.Purge(s.t.Context(), events.Escape("lost")); err != nil {
		s.t.Fatal(err)
	}
	return s.documents()
}

func silent(projections.Progress) {}

func TestReplay(t *testing.T) {
	s := newSite(t)
	for _, device := range []string{"wrong", "lost"} {
		s.send(device, "moon", 0, `{"x":52.5}`)
	}
	s.sendRandom(rand.New(rand.NewPCG(1, 2)), 3000)
	serving, replay := s.replaying()
	s.serves(serving)
	right := s.documents()
	damaged := s.damage(serving)

	expect := func(reports []projections.TableReport, err error) {
		t.Helper()
		if err != nil || len(reports) != 1 {
			t.Fatal(reports, err)
		}
		if r := reports[0]; r.OnlyNew != 1 || r.OnlyOld != 1 || r.Changed != 1 || r.Old != r.New || len(r.Examples) != 3 || r.Equal() {
			t.Errorf("%+v", r)
		}
	}
	expect(replay.Build(t.Context(), projections.Order{Dry: true}, silent))
	equal(t, "after a dry replay", s.documents(), damaged)

	// It dies in the middle of replacing; the next one ends it.
	died := errors.New("died")
	n := 0
	replay.Fault = func(string) error {
		if n++; n == 2 {
			return died
		}
		return nil
	}
	if _, err := replay.Build(t.Context(), projections.Order{}, silent); !errors.Is(err, died) {
		t.Fatal(err)
	}
	replay.Fault = nil
	if err := replay.Discard(t.Context()); !errors.Is(err, projections.ErrSwapUnfinished) { // half of it serves
		t.Error(err)
	}
	phases := map[string]bool{}
	reports, err := replay.Build(t.Context(), projections.Order{}, func(p projections.Progress) { phases[p.Phase] = true })
	if err != nil || reports[0].OnlyNew+reports[0].OnlyOld+reports[0].Changed != 2 {
		t.Fatal(reports, err)
	}
	equal(t, "after a replay", s.documents(), right)
	if !phases["building"] || !phases["comparing"] || !phases["swapping"] {
		t.Error(phases)
	}

	if err := replay.Undo(t.Context()); err != nil {
		t.Fatal(err)
	}
	equal(t, "after undoing", s.documents(), damaged)
	if err := replay.Undo(t.Context()); !errors.Is(err, projections.ErrNothingToUndo) {
		t.Error(err)
	}
	s.sendRandom(rand.New(rand.NewPCG(3, 4)), 100)
	s.serves(serving)
	if got, want := len(s.documents()), len(damaged); got < want {
		t.Errorf("%d documents, %d before", got, want)
	}
	for _, name := range []string{Bucket + "_replay", Bucket + "_before"} {
		if _, err := s.js.KeyValue(t.Context(), name); !errors.Is(err, jetstream.ErrBucketNotFound) {
			t.Errorf("bucket %s: %v", name, err)
		}
	}
}

// TestReplayWhileLive: events that come in meanwhile are in the view, whatever
// is replaced, and undone.
func TestReplayWhileLive(t *testing.T) {
	s := newSite(t)
	s.send("wrong", "moon", 0, `{"x":52.5}`)
	s.send("lost", "moon", 0, `{"x":52.5}`)
	serving, replay := s.replaying()
	s.serves(serving)
	s.damage(serving)
	stop, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		r := rand.New(rand.NewPCG(5, 6))
		for {
			select {
			case <-stop:
				return
			case <-time.After(5 * time.Millisecond):
				s.sendRandom(r, 10)
			}
		}
	}()
	for range 3 {
		if _, err := replay.Build(t.Context(), projections.Order{}, silent); err != nil {
			t.Fatal(err)
		}
	}
	close(stop)
	<-stopped
	s.serves(serving)
	equal(t, "after replays under load", s.documents(), s.folded())

	s.damage(serving)
	if _, err := replay.Build(t.Context(), projections.Order{}, silent); err != nil {
		t.Fatal(err)
	}
	s.sendRandom(rand.New(rand.NewPCG(7, 8)), 500)
	s.send("wrong", "moon", 0, `{"x":1}`)
	s.serves(serving)
	if err := replay.Undo(t.Context()); err != nil {
		t.Fatal(err)
	}
	s.serves(serving)
	want := s.folded()
	want["ghost"] = s.documents()["ghost"]
	delete(want, "lost")
	got := s.documents()
	got["wrong"], want["wrong"] = "", ""
	equal(t, "after undoing under load", got, want)
	if state, err := Read(t.Context(), s.kv, "wrong"); err != nil || state.Position.Seq == 0 || !strings.Contains(string(state.AppendJSON(nil)), `"x":1`) {
		t.Errorf("%s %v", state.AppendJSON(nil), err)
	}
}

// TestDiscard: what a replay that was ended has built can be thrown away, and what
// was replaced is kept.
func TestDiscard(t *testing.T) {
	s := newSite(t)
	s.send("wrong", "moon", 0, `{"x":52.5}`)
	s.send("lost", "moon", 0, `{"x":52.5}`)
	serving, replay := s.replaying()
	s.serves(serving)
	right := s.documents()
	damaged := s.damage(serving)
	if err := replay.Discard(t.Context()); !errors.Is(err, projections.ErrNothingToDiscard) {
		t.Error(err)
	}
	for _, dry := range []bool{true, false} {
		ending, end := context.WithCancel(t.Context())
		if _, err := replay.Build(ending, projections.Order{Dry: dry}, func(p projections.Progress) {
			if p.Phase == "comparing" {
				end()
			}
		}); !errors.Is(err, context.Canceled) {
			t.Fatal(err)
		}
		if _, err := s.js.KeyValue(t.Context(), Bucket+"_replay"); err != nil {
			t.Fatal(err)
		}
		if err := replay.Discard(t.Context()); err != nil {
			t.Fatal(err)
		}
		if _, err := s.js.KeyValue(t.Context(), Bucket+"_replay"); !errors.Is(err, jetstream.ErrBucketNotFound) {
			t.Error(err)
		}
	}
	equal(t, "after discarding", s.documents(), damaged)
	if _, err := replay.Build(t.Context(), projections.Order{}, silent); err != nil {
		t.Fatal(err)
	}
	equal(t, "after a replay", s.documents(), right)
	if err := replay.Discard(t.Context()); !errors.Is(err, projections.ErrNothingToDiscard) {
		t.Error(err)
	}
	if err := replay.Undo(t.Context()); err != nil {
		t.Fatal(err)
	}
	equal(t, "after undoing", s.documents(), damaged)
}

// TestReplayPurged: what is not in the log cannot be folded.
func TestReplayPurged(t *testing.T) {
	s := newSite(t)
	cfg := s.config()
	cfg.Log = purged{s.log}
	replay := &Replay{JS: s.js, Serving: cfg, Partitions: []uint16{0}}
	var truncated *events.TruncatedError
	if _, err := replay.Build(t.Context(), projections.Order{Dry: true}, silent); !errors.As(err, &truncated) {
		t.Error(err)
	}
}

// TestReplayBesideAnother: where another process folds the view too, nothing of
// what it has written is taken back.
func TestReplayBesideAnother(t *testing.T) {
	s := newSite(t)
	s.send("car", "moon", 0, `{"x":52.5}`)
	serving, replay := s.replaying()
	s.serves(serving)
	pause, ahead := replay.Pause, ""
	replay.Pause = func(ctx context.Context) (func(), error) {
		resume, err := pause(ctx)
		if err == nil { // the other one folds what comes now
			s.send("car", "moon", 0, `{"x":61}`)
			ahead = s.folded()["car"]
			_, err = s.kv.Put(ctx, events.Escape("car"), []byte(ahead))
		}
		return resume, err
	}
	if _, err := replay.Build(t.Context(), projections.Order{}, silent); err == nil || !strings.Contains(err.Error(), "another process") {
		t.Error(err)
	}
	if got := s.documents()["car"]; got != ahead {
		t.Errorf("it was replaced by %s", got)
	}
}
