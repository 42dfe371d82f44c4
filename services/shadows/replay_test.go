package shadows_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/tachograph/tachograph/events"
	"github.com/tachograph/tachograph/events/memlog"
	"github.com/tachograph/tachograph/projections"
	"github.com/tachograph/tachograph/projections/buckets"
	"github.com/tachograph/tachograph/services/shadows"
)

// A viewed site is shadows with their view in a bucket, and a replay of it.
type viewed struct {
	t   testing.TB
	log events.Log
	js  jetstream.JetStream
	kv  jetstream.KeyValue
	*shadows.Shadows
	view   projections.Runner
	replay *buckets.Replay
}

func newViewed(t testing.TB) *viewed {
	t.Helper()
	log := memlog.New(memlog.Options{})
	t.Cleanup(func() { log.Close() })
	srv, err := server.NewServer(&server.Options{Host: "127.0.0.1", Port: server.RANDOM_PORT, JetStream: true, StoreDir: t.TempDir(), NoSigs: true})
	if err != nil {
		t.Fatal(err)
	}
	srv.Start()
	t.Cleanup(func() { srv.Shutdown(); srv.WaitForShutdown() })
	if !srv.ReadyForConnections(20 * time.Second) {
		t.Fatal("the server did not start")
	}
	nc, err := nats.Connect(srv.ClientURL())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	v := &viewed{t: t, log: log}
	if v.js, err = jetstream.New(nc); err != nil {
		t.Fatal(err)
	}
	if v.kv, err = v.js.CreateKeyValue(t.Context(), shadows.BucketConfig(1)); err != nil {
		t.Fatal(err)
	}
	return v.process()
}

// process returns a process on the log and the bucket.
func (v *viewed) process() *viewed {
	v.t.Helper()
	p := *v
	p.Shadows = open(v.t, v.log, shadows.Limits{})
	p.view = p.View(v.kv)
	p.replay = p.Replay(v.js, 1)
	run(v.t, p.Run, p.view.Run)
	return &p
}

// settled waits until the bucket has all of the log.
func (v *viewed) settled() {
	v.t.Helper()
	newest, err := events.Newest(v.t.Context(), v.log, events.ControlPartition)
	if err != nil {
		v.t.Fatal(err)
	}
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(5 * time.Millisecond) {
		st := v.view.Status()
		if st.CaughtUp && st.Position.Seq >= newest.Seq {
			return
		}
		if time.Now().After(deadline) {
			v.t.Fatalf("not caught up: %+v, want %s", st, newest)
		}
	}
}

func (v *viewed) documents() map[string]string { return documentsOf(v.t, v.kv) }

func documentsOf(t testing.TB, kv jetstream.KeyValue) map[string]string {
	t.Helper()
	w, err := kv.WatchAll(t.Context(), jetstream.IgnoreDeletes())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = w.Stop() }()
	all := map[string]string{}
	for e := range w.Updates() {
		if e == nil {
			break
		}
		if !strings.HasPrefix(e.Key(), "=") {
			all[e.Key()] = string(e.Value())
		}
	}
	return all
}

// change makes one change at random: of three in four shadows an update, else a
// deletion, if there is something.
func (v *viewed) change(r *rand.Rand) {
	v.t.Helper()
	device, name := fmt.Sprint("car-", r.IntN(10)), []string{"", "doors", "a.b"}[r.IntN(3)]
	if doc, _ := v.Get(device, name); doc.Exists && r.IntN(4) == 0 {
		if _, err := v.Do(v.t.Context(), shadows.Wish{Device: device, Name: name, By: "operator"}); err != nil {
			v.t.Error(err)
		}
		return
	}
	section := []string{"desired", "reported"}[r.IntN(2)]
	if _, err := do(v.t, v.Shadows, device, name, fmt.Sprintf(`{"state":{%q:{"s%d":%d,"deep":{"n":%d}}}}`, section, r.IntN(5), r.IntN(1000), r.IntN(3))); err != nil {
		v.t.Error(err)
	}
}

// damage changes one document, adds one and removes one, behind the view's back.
func (v *viewed) damage() map[string]string {
	v.t.Helper()
	wrong := strings.Replace(v.documents()["wrong"], "52.5", "99.5", 1)
	for key, text := range map[string]string{"wrong": wrong, "ghost.x": strings.ReplaceAll(wrong, "wrong", "ghost")} {
		if _, err := v.kv.Put(v.t.Context(), key, []byte(text)); err != nil {
			v.t.Fatal(err)
		}
	}
	if err := v.kv.Purge(v.t.Context(), "lost.doors"); err != nil {
		v.t.Fatal(err)
	}
	return v.documents()
}

func (v *viewed) setUp(changes int) (right map[string]string) {
	v.t.Helper()
	for _, one := range [][2]string{{"wrong", ""}, {"lost", "doors"}} {
		if _, err := do(v.t, v.Shadows, one[0], one[1], `{"state":{"desired":{"x":52.5}}}`); err != nil {
			v.t.Fatal(err)
		}
	}
	r := rand.New(rand.NewPCG(1, 2))
	for range changes {
		v.change(r)
	}
	v.settled()
	return v.documents()
}

func (v *viewed) same(when string, want map[string]string) {
	v.t.Helper()
	if got := v.documents(); !maps.Equal(got, want) {
		for key := range want {
			if got[key] != want[key] {
				v.t.Errorf("%s: %s is %s, want %s", when, key, got[key], want[key])
			}
		}
		for key := range got {
			if want[key] == "" {
				v.t.Errorf("%s: %s is there: %s", when, key, got[key])
			}
		}
	}
}

// folded is what a bucket must have that was never wrong: another process's, from
// the log's beginning.
func (v *viewed) folded() map[string]string {
	v.t.Helper()
	cfg := shadows.BucketConfig(1)
	cfg.Bucket = "folded"
	kv, err := v.js.CreateKeyValue(v.t.Context(), cfg)
	if err != nil {
		v.t.Fatal(err)
	}
	other := *v
	other.kv = kv
	p := other.process()
	p.settled()
	all := p.documents()
	return all
}

func silent(projections.Progress) {}

// TestReplay: what somebody has damaged in the bucket is found and named, a dry run
// changes nothing, the replay mends it, also if it died in the middle, and can be undone.
func TestReplay(t *testing.T) {
	v := newViewed(t)
	right := v.setUp(300)
	damaged := v.damage()
	expect := func(reports []projections.TableReport, err error) {
		t.Helper()
		if err != nil || len(reports) != 1 {
			t.Fatal(reports, err)
		}
		if r := reports[0]; r.Table != "shadow" || r.OnlyNew != 1 || r.OnlyOld != 1 || r.Changed != 1 || r.Old != r.New || int(r.New) != len(right) || len(r.Examples) != 3 {
			t.Errorf("%+v", r)
		}
	}
	expect(v.replay.Build(t.Context(), projections.Order{Dry: true, Rate: 100_000}, silent))
	v.same("after a dry replay", damaged)
	if _, err := v.replay.Build(t.Context(), projections.Order{Park: true}, silent); err == nil || !strings.Contains(err.Error(), "cannot be parked") {
		t.Error(err)
	}

	died, n := errors.New("died"), 0
	v.replay.Fault = func(string) error {
		if n++; n == 2 {
			return died
		}
		return nil
	}
	if _, err := v.replay.Build(t.Context(), projections.Order{}, silent); !errors.Is(err, died) {
		t.Fatal(err)
	}
	v.replay.Fault = nil
	if err := v.replay.Discard(t.Context()); !errors.Is(err, projections.ErrSwapUnfinished) {
		t.Error(err)
	}
	phases := map[string]bool{}
	reports, err := v.replay.Build(t.Context(), projections.Order{}, func(p projections.Progress) { phases[p.Phase] = true })
	if err != nil || reports[0].OnlyNew+reports[0].OnlyOld+reports[0].Changed != 2 || len(phases) != 3 {
		t.Fatal(reports, phases, err)
	}
	v.same("after a replay", right)
	if err := v.replay.Discard(t.Context()); !errors.Is(err, projections.ErrNothingToDiscard) {
		t.Error(err)
	}
	if err := v.replay.Undo(t.Context()); err != nil {
		t.Fatal(err)
	}
	v.same("after undoing", damaged)
	if err := v.replay.Undo(t.Context()); !errors.Is(err, projections.ErrNothingToUndo) {
		t.Error(err)
	}

	// It goes on from there: what changes is right again.
	if _, err := do(t, v.Shadows, "wrong", "", `{"state":{"reported":{"x":1}}}`); err != nil {
		t.Fatal(err)
	}
	v.settled()
	if got := v.documents()["wrong"]; !strings.Contains(got, `"desired":{"x":52.5},"reported":{"x":1}`) {
		t.Error(got)
	}
	reports, err = v.replay.Build(t.Context(), projections.Order{}, silent)
	if err != nil || reports[0].OnlyNew+reports[0].OnlyOld+reports[0].Changed != 2 { // lost and ghost
		t.Fatal(reports, err)
	}
	v.same("in the end", v.folded())
}

// TestReplayWhileLive: what changes meanwhile is in the bucket, and is no difference.
func TestReplayWhileLive(t *testing.T) {
	v := newViewed(t)
	v.setUp(100)
	stop, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		r := rand.New(rand.NewPCG(3, 4))
		for {
			select {
			case <-stop:
				return
			case <-time.After(time.Millisecond):
				v.change(r)
			}
		}
	}()
	for range 5 {
		reports, err := v.replay.Build(t.Context(), projections.Order{}, silent)
		if err != nil || len(reports) != 1 || !reports[0].Equal() {
			t.Errorf("%+v, %v", reports, err)
		}
	}
	v.damage()
	reports, err := v.replay.Build(t.Context(), projections.Order{}, silent)
	if r := reports[0]; err != nil || r.OnlyNew != 1 || r.OnlyOld != 1 || r.Changed != 1 {
		t.Errorf("%+v, %v", reports, err)
	}
	close(stop)
	<-stopped
	v.settled()
	v.same("after replays under load", v.folded())
}

// TestReplayBesideAnother: where another process writes the bucket too, nothing of
// what it has written while this one stands still is a difference, or is taken
// back; what is wrong is mended all the same.
func TestReplayBesideAnother(t *testing.T) {
	for _, damaged := range []bool{false, true} {
		v := newViewed(t)
		v.setUp(50)
		for _, device := range []string{"ahead", "gone", "new"} {
			if _, err := do(t, v.Shadows, device, "", `{"state":{"desired":{"x":1}}}`); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := v.Do(t.Context(), shadows.Wish{Device: "new", By: "operator"}); err != nil {
			t.Fatal(err)
		}
		v.settled()
		if damaged {
			v.damage()
		}
		other := v.process()
		other.settled()
		pause, stood := v.replay.Pause, 0
		v.replay.Pause = func(ctx context.Context) (func(), error) {
			resume, err := pause(ctx)
			if err != nil {
				return nil, err
			}
			stood++
			for _, device := range []string{"ahead", "new"} {
				if _, err := do(t, other.Shadows, device, "", `{"state":{"desired":{"x":2}}}`); err != nil {
					t.Error(err)
				}
			}
			if _, err := other.Do(ctx, shadows.Wish{Device: "gone", By: "operator"}); err != nil {
				t.Error(err)
			}
			other.settled()
			return resume, nil
		}
		reports, err := v.replay.Build(t.Context(), projections.Order{}, silent)
		if err != nil || stood != 1 {
			t.Fatal(reports, stood, err)
		}
		if r := reports[0]; r.Equal() == damaged || damaged && (r.OnlyNew != 1 || r.OnlyOld != 1 || r.Changed != 1) {
			t.Errorf("damaged %v: %+v", damaged, r)
		}
		v.settled()
		docs := v.documents()
		if !strings.Contains(docs["ahead"], `{"x":2}`) || !strings.Contains(docs["new"], `{"x":2}`) || docs["gone"] != "" {
			t.Errorf("%s %s %s", docs["ahead"], docs["new"], docs["gone"])
		}
		v.same("beside another", v.folded())
	}
}

// TestReplayResumed: one that was ended writes only what its bucket lacks when it
// goes on; the bucket of another log is begun anew.
func TestReplayResumed(t *testing.T) {
	v := newViewed(t)
	right := v.setUp(300)
	v.damage()
	ending, end := context.WithCancel(t.Context())
	if _, err := v.replay.Build(ending, projections.Order{Rate: 400}, func(p projections.Progress) {
		if p.Done > 100 {
			end()
		}
	}); !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
	kv, err := v.js.KeyValue(t.Context(), "shadow_replay")
	if err != nil {
		t.Fatal(err)
	}
	revision := func() uint64 {
		t.Helper()
		e, err := kv.Get(t.Context(), "wrong") // the first fact of all
		if err != nil {
			t.Fatal(err)
		}
		return e.Revision()
	}
	first, compared := revision(), uint64(0)
	if _, err := v.replay.Build(t.Context(), projections.Order{}, func(p projections.Progress) {
		if p.Phase == "swapping" {
			compared = revision()
		}
	}); err != nil {
		t.Fatal(err)
	}
	if compared != first {
		t.Errorf("a document that was there was written again: revision %d, then %d", first, compared)
	}
	v.same("after a replay", right)

	// What is beside it is of a log that is gone.
	cfg := shadows.BucketConfig(1)
	cfg.Bucket = "shadow_replay"
	if kv, err = v.js.CreateKeyValue(t.Context(), cfg); err != nil {
		t.Fatal(err)
	}
	for key, text := range map[string]string{"=replay.phase": "whole", "=position": `{"epoch":7,"partition":256,"seq":9}`, "foreign": `{"device":"foreign"}`} {
		if _, err := kv.Put(t.Context(), key, []byte(text)); err != nil {
			t.Fatal(err)
		}
	}
	if reports, err := v.replay.Build(t.Context(), projections.Order{}, silent); err != nil || !reports[0].Equal() {
		t.Errorf("%+v, %v", reports, err)
	}
	v.same("after another", right)
}
