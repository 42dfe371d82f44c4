package shadows_test

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/tachograph/tachograph/events"
	"github.com/tachograph/tachograph/events/memlog"
	"github.com/tachograph/tachograph/projections/compact"
	"github.com/tachograph/tachograph/projections/shadow"
	"github.com/tachograph/tachograph/services/shadows"
)

// TestCompacted: shadows of a log that was compacted are what they were; looks at the
// past begin where it was compacted, and what lies before is truncated, unless there
// is a history to ask.
func TestCompacted(t *testing.T) {
	now := time.Date(2026, 11, 1, 0, 0, 0, 0, time.UTC)
	log, whole := memlog.New(memlog.Options{Now: func() time.Time { return now }}), memlog.New(memlog.Options{Now: func() time.Time { return now }})
	t.Cleanup(func() { log.Close(); whole.Close() })
	stream := events.Stream{Kind: events.Shadow, ID: "car-1", Name: "doors"}
	var doc shadow.Document
	doc.Name = "doors"
	update := func(body string) events.Position {
		t.Helper()
		now = now.Add(time.Minute)
		req, refused := shadow.ParseRequest([]byte(body), shadow.Limits{})
		if refused != nil {
			t.Fatal(refused)
		}
		f, refused := shadow.Decide(doc, req, shadow.Context{At: now.UnixMilli(), By: "operator", Device: "car-1"})
		if refused != nil {
			t.Fatal(refused)
		}
		doc = doc.Evolve(f)
		e := events.Event{Stream: stream, Type: f.Type, ID: events.UniqueID(), Payload: f.Payload()}
		if _, err := whole.Append(t.Context(), events.Any, e); err != nil {
			t.Fatal(err)
		}
		at, err := log.Append(t.Context(), events.Any, e)
		if err != nil {
			t.Fatal(err)
		}
		return at
	}
	for i := range 10 {
		update(fmt.Sprintf(`{"state":{"desired":{"locked":true},"reported":{"n":%d}}}`, i))
	}
	opened := func() *shadows.Shadows {
		t.Helper()
		s, err := shadows.Open(t.Context(), shadows.Config{Log: log})
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	cut, cutDoc, cutTime := events.Position{Epoch: 1, Partition: events.ControlPartition, Seq: 10}, string(doc.Get(0, "")), now
	update(`{"state":{"reported":{"n":11}}}`)
	before := opened()

	var c compact.Compaction
	for e, err := range log.Read(t.Context(), stream, cut) {
		if err != nil {
			t.Fatal(err)
		}
		c.Add(e)
	}
	kept, err := c.Facts()
	if err != nil || len(kept) != 1 {
		t.Fatal(kept, err)
	}
	if err := log.Rebase(t.Context(), events.Base{}, cut, func(yield func(events.Event, error) bool) { yield(kept[0], nil) }); err != nil {
		t.Fatal(err)
	}
	if _, err := log.Purge(t.Context(), cut); err != nil {
		t.Fatal(err)
	}
	s := opened()
	was, at := before.Get("car-1", "doors")
	is, isAt := s.Get("car-1", "doors")
	if string(is.Get(0, "")) != string(was.Get(0, "")) || is.Version != was.Version || at != isAt {
		t.Errorf("%s at %s, want %s at %s", is.Get(0, ""), isAt, was.Get(0, ""), at)
	}
	if got, want := s.Pending("", "", 10), before.Pending("", "", 10); len(got) != 1 || len(want) != 1 || got[0] != want[0] {
		t.Errorf("%+v, want %+v", got, want)
	}
	if got, position, err := s.At(t.Context(), "car-1", "doors", cutTime); err != nil || position != cut || string(got.Get(0, "")) != cutDoc {
		t.Errorf("%s at %s, %v", got.Get(0, ""), position, err)
	}
	versions := func(after events.Position) (all []uint64, err error) {
		for c, err := range s.History(t.Context(), "car-1", "doors", after) {
			if err != nil {
				return all, err
			}
			all = append(all, c.Fact.Version)
		}
		return all, nil
	}
	if got, err := versions(cut); err != nil || fmt.Sprint(got) != "[11]" {
		t.Error(got, err)
	}
	var truncated *events.TruncatedError
	if got, err := versions(events.Position{}); !errors.As(err, &truncated) || truncated.Oldest.Seq != 11 {
		t.Error(got, err)
	}
	if _, _, err := s.At(t.Context(), "car-1", "doors", cutTime.Add(-time.Minute)); !errors.As(err, &truncated) {
		t.Error(err)
	}
	s.Past(whole)
	if got, err := versions(events.Position{}); err != nil || fmt.Sprint(got) != "[1 2 3 4 5 6 7 8 9 10 11]" {
		t.Error(got, err)
	}
	if got, position, err := s.At(t.Context(), "car-1", "doors", cutTime.Add(-time.Minute)); err != nil || position.Seq != 9 || got.Version != 9 {
		t.Errorf("%+v at %s, %v", got, position, err)
	}
}
