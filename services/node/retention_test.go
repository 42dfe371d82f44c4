package node

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/tachograph/tachograph/events"
	"github.com/tachograph/tachograph/projections/latest"
)

// store appends a position of a device past the gateway and returns what came of it.
func store(t *testing.T, n *Node, device string, i int) error {
	t.Helper()
	payload := fmt.Appendf(nil, `{"time":%d,"speed":%d,"note":%q}`, 1700000000000+i*1000, i, strings.Repeat("x", 400))
	e := events.Event{
		Stream: events.Stream{Kind: events.Telemetry, ID: device}, Type: "position", Schema: 1,
		ID: events.DeriveID(device, "position", payload), Payload: payload,
	}
	done := make(chan error, 1)
	if err := n.appends.Enqueue(t.Context(), e, func(err error) { done <- err }); err != nil {
		return err
	}
	return <-done
}

// awaitFolded waits until every projection has the whole log.
func awaitFolded(t *testing.T, n *Node) {
	t.Helper()
	for deadline := time.Now().Add(3 * time.Minute); ; time.Sleep(20 * time.Millisecond) {
		behind := ""
		for _, r := range n.runners {
			if s := r.Status(); !s.CaughtUp || s.Lag > 0 {
				behind = fmt.Sprintf("%+v", s)
			}
		}
		if behind == "" {
			return
		}
		if time.Now().After(deadline) {
			t.Fatal("not caught up: ", behind)
		}
	}
}

// TestPurgedLog: a full log refuses, the janitor makes room by what everybody
// has, and everything goes on without what was purged, also after a restart.
func TestPurgedLog(t *testing.T) {
	c := defaults(t, "--keep-log", "1h")
	c.LogBytes = 120_000 // block files of 32 KB
	n := startNode(t, c)
	for _, device := range []string{"car-1", "car-2"} {
		if _, err := n.auth.Add(t.Context(), device); err != nil {
			t.Fatal(err)
		}
	}
	sent := 0
	fill := func() {
		t.Helper()
		for {
			err := store(t, n, fmt.Sprint("car-", sent%2+1), sent)
			if errors.Is(err, events.ErrFull) {
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			sent++
		}
	}
	fill()
	awaitFolded(t, n)
	bounds := func() events.Bounds {
		t.Helper()
		b, err := n.log.Bounds(t.Context(), 0)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	if err := n.janitor.Pass(t.Context(), time.Now()); err != nil || bounds().Oldest.Seq != 1 {
		t.Fatalf("what is young was purged: %+v, %v", bounds(), err)
	}
	middle := time.Now()
	if err := n.janitor.Pass(t.Context(), time.Now().Add(2*time.Hour)); err != nil {
		t.Fatal(err)
	}
	oldest := bounds().Oldest
	if oldest.Seq < uint64(sent)/2 || oldest.Seq > uint64(sent) {
		status, _ := n.janitor.Status(t.Context())
		t.Fatalf("%d events, the oldest left is %s: %+v", sent, oldest, status)
	}
	last := sent - 1
	if err := store(t, n, fmt.Sprint("car-", last%2+1), last); err != nil { // there is room again; this is a repeat
		t.Fatal(err)
	}
	fill()
	awaitFolded(t, n)

	check := func(n *Node, repeats int) {
		t.Helper()
		awaitRows(t, n, "SELECT count(), uniqExact(_seq), countIf(repeat) FROM tacho.events WHERE kind = 'telemetry'", fmt.Sprintf("%d\t%[1]d\t%d", sent+repeats, repeats))
		awaitRows(t, n, "SELECT count(), uniqExact(_seq) FROM tacho.position", fmt.Sprintf("%d\t%[1]d", sent))
		awaitRows(t, n, "SELECT sum(count) FROM tacho.position_1m WHERE signal = 'speed'", fmt.Sprint(sent))
		total := uint64(0)
		for _, device := range []string{"car-1", "car-2"} {
			state, err := latest.Read(t.Context(), n.views, device)
			if err != nil {
				t.Fatal(err)
			}
			total += state.Events
			if speed, _ := state.Signal("position", "speed"); string(speed.Value) != fmt.Sprint(sent-1) && string(speed.Value) != fmt.Sprint(sent-2) {
				t.Errorf("%s: speed %s of %d", device, speed.Value, sent)
			}
		}
		if total != uint64(sent+repeats) {
			t.Errorf("the states have %d events, sent were %d and %d again", total, sent, repeats)
		}
		// What needs what was purged says so.
		var truncated *events.TruncatedError
		if _, err := n.past.At(t.Context(), "car-1", middle); !errors.As(err, &truncated) || truncated.Oldest != oldest {
			t.Errorf("a look at the past: %v", err)
		}
		if err := n.replays["columnar"].Check(t.Context()); !errors.As(err, &truncated) {
			t.Errorf("a replay: %v", err)
		}
	}
	check(n, 1)
	stopNode(t, n)

	n = startNode(t, c)
	awaitFolded(t, n)
	last = sent - 1
	if err := n.janitor.Pass(t.Context(), time.Now().Add(2*time.Hour)); err != nil {
		t.Fatal(err)
	}
	oldest = bounds().Oldest
	if err := store(t, n, fmt.Sprint("car-", last%2+1), last); err != nil { // the same again, over a restart
		t.Fatal(err)
	}
	check(n, 2)
	status, err := n.janitor.Status(context.Background())
	if err != nil || status[0].Purged != oldest.Seq-1 || status[0].HeldBy != "" {
		t.Errorf("%+v, %v", status, err)
	}
}
