package retention

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"log/slog"
	"testing"
	"time"

	"github.com/tachograph/tachograph/events"
	"github.com/tachograph/tachograph/events/jetlog"
	"github.com/tachograph/tachograph/events/memlog"
	"github.com/tachograph/tachograph/projections/forgotten"
)

var (
	_ ControlLog = (*memlog.Log)(nil)
	_ ControlLog = (*jetlog.Log)(nil)
)

// meanwhile is a log while which is read something else happens.
type meanwhile struct {
	*memlog.Log
	happens func()
}

func (m *meanwhile) Follow(ctx context.Context, partition uint16, after events.Cursor) iter.Seq2[events.Event, error] {
	if m.happens != nil {
		m.happens()
	}
	return m.Log.Follow(ctx, partition, after)
}

// TestCompactor: what is compacted is the least of what is old enough, of what every
// holder has and of all but the newest, once it is worth while; nothing is while, or
// since, something is to be forgotten, where another was first, or without room.
func TestCompactor(t *testing.T) {
	begin := time.Date(2026, 11, 1, 0, 0, 0, 0, time.UTC)
	now := begin
	log := &meanwhile{Log: memlog.New(memlog.Options{Now: func() time.Time { return now }})}
	defer log.Close()
	ledger := forgotten.New()
	append1 := func(s events.Stream, typ, payload string) events.Position {
		t.Helper()
		at, err := log.Append(t.Context(), events.Any, events.Event{Stream: s, Type: typ, ID: events.UniqueID(), Payload: []byte(payload)})
		if err != nil {
			t.Fatal(err)
		}
		return at
	}
	presence := func(i int) { // a car comes, and goes
		s := events.Stream{Kind: events.Presence, ID: "car"}
		append1(s, "connected", fmt.Sprintf(`{"type":"connected","at":%d,"version":%d,"session":"s%d"}`, 60_000*i, 2*i+1, i))
		append1(s, "disconnected", fmt.Sprintf(`{"type":"disconnected","at":%d,"version":%d,"session":"s%d","reason":"network"}`, 60_000*i+1, 2*i+2, i))
		now = now.Add(time.Minute)
	}
	for i := range 50 {
		presence(i)
	}
	archive, room := uint64(0), error(nil)
	c := NewCompactor(CompactConfig{
		Log: log, Keep: 30 * time.Minute, Least: 10, Ledger: ledger, Logger: slog.New(slog.DiscardHandler), Room: func() error { return room },
		Holders: []Holder{{"archive", func(_ context.Context, p uint16) (events.Position, error) {
			return events.Position{Epoch: 1, Partition: p, Seq: archive}, nil
		}}},
	})
	expect := func(what string, at time.Time, upTo, facts uint64, heldBy string) {
		t.Helper()
		if err := c.Pass(t.Context(), at); err != nil {
			t.Fatalf("%s: %v", what, err)
		}
		base, err := log.Base(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		p, err := c.Status(t.Context())
		if err != nil || base.UpTo.Seq != upTo || base.Facts != facts || p.Purged != upTo || p.HeldBy != heldBy || p.Partition != events.ControlPartition {
			t.Fatalf("%s: up to %d, %d facts, %+v, %v; want up to %d, %d facts, held by %q", what, base.UpTo.Seq, base.Facts, p, err, upTo, facts, heldBy)
		}
	}
	minute := func(n int) time.Time { return begin.Add(time.Duration(n) * time.Minute) }
	expect("nobody has any of it", minute(50), 0, 0, "archive")
	archive = 1000
	expect("all is young", minute(30), 0, 0, "")
	expect("too little is old", minute(34), 0, 0, "")
	room = errors.New("no room")
	if err := c.Pass(t.Context(), minute(36)); !errors.Is(err, room) {
		t.Fatal(err)
	}
	room = nil
	expect("old enough", minute(36), 12, 3, "") // the last that goes, and the next that comes and goes
	archive = 30
	expect("the archive has no more", minute(60), 30, 3, "archive")
	archive = 1000
	expect("all but the newest", minute(500), 99, 2, "")

	for i := range 20 {
		presence(50 + i)
	}
	ask := func(id string) {
		e, err := forgotten.Event("other", id, forgotten.TypeAsked, forgotten.Asked{To: now, At: now})
		if err == nil {
			_, err = log.Append(t.Context(), events.Fresh, e)
		}
		if err != nil {
			t.Fatal(err)
		}
		for e, err := range log.Log.Follow(t.Context(), events.ControlPartition, events.Cursor{Position: events.Position{Epoch: 1, Partition: events.ControlPartition, Seq: 99}}) {
			if err != nil {
				t.Fatal(err)
			}
			if ledger.Fold(e); e.Stream.Name == id {
				return
			}
		}
	}
	log.happens = func() { log.happens = nil; ask("1") }
	expect("something is asked to be forgotten meanwhile", minute(1000), 99, 2, "")
	expect("something is being forgotten", minute(1000), 99, 2, "")
	for _, typ := range []string{forgotten.TypeBegan, forgotten.TypeDone} {
		e, err := forgotten.Event("other", "1", typ, struct{}{})
		if err != nil {
			t.Fatal(err)
		}
		e.Position = append1(e.Stream, e.Type, string(e.Payload))
		ledger.Fold(e)
	}
	log.happens = func() { // another process
		log.happens = nil
		base, err := log.Base(t.Context())
		if err == nil {
			err = log.Rebase(t.Context(), base, base.UpTo, base.Read(t.Context(), nil))
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	expect("another was first", minute(1000), 99, 2, "")
	expect("now it is the first", minute(1000), 142, 5, "") // with what was asked and began

	// What goes of the base goes.
	all, err := c.Presence(t.Context(), "car")
	if err != nil || len(all) != 3 {
		t.Fatal(all, err)
	}
	if err := c.Forget(t.Context(), "car", func(e events.Event) bool { return e.Position != all[2].Position }); err != nil {
		t.Fatal(err)
	}
	left, err := c.Presence(t.Context(), "car")
	if err != nil || len(left) != 1 || left[0].ID != all[2].ID {
		t.Fatal(left, err)
	}
	if base, err := log.Base(t.Context()); err != nil || base.Facts != 3 || base.UpTo.Seq != 142 {
		t.Fatal(base, err)
	}
	if err := NewCompactor(CompactConfig{Log: log}).Pass(t.Context(), minute(10_000)); err != nil {
		t.Fatal(err)
	}
	if b, err := log.Bounds(t.Context(), events.ControlPartition); err != nil || b.Oldest.Seq != 143 {
		t.Fatalf("what is kept for ever goes: %+v, %v", b, err)
	}
}
