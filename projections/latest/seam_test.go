package latest

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/tachograph/tachograph/events"
	"github.com/tachograph/tachograph/projections"
)

// TestSplit: in a log that is split while nobody folds it, then again while it is
// folded, each document is the fold of its device's whole history, whichever
// partition is folded first; so are a replay and what comes after it is undone.
func TestSplit(t *testing.T) {
	s := newSite(t)
	rng := rand.New(rand.NewPCG(8, 9))
	send := func(n int) {
		t.Helper()
		for range n {
			typ, version, payload := message(rng)
			s.send(fmt.Sprint("car-", rng.IntN(12)), typ, version, payload)
		}
	}
	send(3000)
	devices := devicesOf(s.all())
	if err := s.log.Split(4); err != nil {
		t.Fatal(err)
	}
	send(3000)
	want := func() map[string]string {
		t.Helper()
		all := map[string]string{}
		for _, device := range devices {
			state, err := Fold(device, s.log.Read(t.Context(), events.Stream{Kind: events.Telemetry, ID: device}, events.Latest), s.catalog.Schemas(), Rules{})
			if err != nil {
				t.Fatal(err)
			}
			all[device] = string(state.appendKept(nil))
		}
		return all
	}
	folds := map[uint16]*projections.Restartable{}
	start := func(partitions ...uint16) {
		t.Helper()
		for _, p := range partitions {
			cfg := s.config()
			cfg.Partition = p
			r, err := projections.NewRestartable(func() (projections.Runner, error) { return New(cfg) })
			if err != nil {
				t.Fatal(err)
			}
			folds[p] = r
			ended := make(chan error, 1)
			go func() { ended <- r.Run(t.Context()) }()
			t.Cleanup(func() {
				if err := <-ended; err != nil {
					t.Error(err)
				}
			})
		}
	}
	settle := func(what string) {
		t.Helper()
		for _, r := range folds {
			s.serves(r)
		}
		equal(t, what, s.documents(), want())
	}
	start(3, 2, 1)
	s.eventually("they wait for the first", func() bool {
		for p := range uint16(3) {
			if at := folds[p+1].Status(); at.LastError == "" || at.Position.Seq > 0 {
				return false
			}
		}
		return true
	})
	if n := len(s.documents()); n > 0 {
		t.Errorf("%d documents before the first partition was folded", n)
	}
	start(0)
	settle("after a split")

	pause := func() (resume func()) {
		t.Helper()
		var all []func()
		for _, r := range folds {
			resume, err := r.Pause(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			all = append(all, resume)
		}
		return func() {
			for _, resume := range all {
				resume()
			}
		}
	}
	replay := func() *Replay {
		r := &Replay{JS: s.js, Serving: s.config(), Pause: func(ctx context.Context) (func(), error) { return pause(), nil }}
		for p := range folds {
			r.Partitions = append(r.Partitions, p)
		}
		slices.Sort(r.Partitions)
		return r
	}
	same := func(what string) {
		t.Helper()
		reports, err := replay().Build(t.Context(), projections.Order{Dry: true}, silent)
		if err != nil || !reports[0].Equal() {
			t.Errorf("%s: %+v, %v", what, reports, err)
		}
	}
	same("a replay")

	moves := devices[slices.IndexFunc(devices, func(device string) bool { return events.PartitionOf(events.Slot(device), 8)%2 == 1 })]
	// A replay before the next split replaces a document, which is put back after it.
	resume := pause()
	wrong, err := s.kv.Get(t.Context(), events.Escape(moves))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.kv.Put(t.Context(), events.Escape(moves), bytes.Replace(wrong.Value(), []byte(`"messages":{`), []byte(`"messages":{"aaa":{"_raw":{"value":1,"time":"2030-01-01T00:00:00Z","received":"2030-01-01T00:00:00Z"}},`), 1)); err != nil {
		t.Fatal(err)
	}
	resume()
	if reports, err := replay().Build(t.Context(), projections.Order{}, silent); err != nil || reports[0].Changed != 1 {
		t.Fatal(reports, err)
	}
	resume = pause()
	if err := s.log.Split(8); err != nil {
		t.Fatal(err)
	}
	resume()
	start(7, 6, 5, 4)
	send(2000)
	settle("after the second split")
	if err := replay().Undo(t.Context()); err != nil {
		t.Fatal(err)
	}
	for _, r := range folds {
		s.serves(r)
	}
	got, right := s.documents(), want()
	if !strings.Contains(got[moves], "aaa") {
		t.Error("what was replaced was not put back")
	}
	var is, should State
	if err := errors.Join(json.Unmarshal([]byte(got[moves]), &is), json.Unmarshal([]byte(right[moves]), &should)); err != nil {
		t.Fatal(err)
	}
	if is.Position != should.Position || is.Events != should.Events {
		t.Errorf("the document that was put back stands at %s with %d events, want %s and %d", is.Position, is.Events, should.Position, should.Events)
	}
	got[moves] = right[moves]
	equal(t, "after undoing what was done before the split", got, right)
}
