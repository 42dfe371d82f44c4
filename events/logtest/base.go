package logtest

import (
	"context"
	"errors"
	"iter"
	"slices"
	"testing"

	"github.com/tachograph/tachograph/events"
)

// A Rebaser is a log as who compacts it has it.
type Rebaser interface {
	Purger
	Rebase(ctx context.Context, over events.Base, upTo events.Position, facts iter.Seq2[events.Event, error]) error
}

// Rebase holds an empty log, which purges control facts at once and to the very
// position, to this: folds get the base and then the log, at the positions and with
// the ids that the facts always had; expectations hold as if nothing had been purged;
// nothing is purged that has no base, and no base takes the place of one that its
// maker did not know.
func Rebase(t *testing.T, l Rebaser) {
	ctx := deadline(t)
	stream := func(id string) events.Stream { return events.Stream{Kind: events.Shadow, ID: id} }
	append1 := func(id string, expect events.Expect) (events.Event, error) {
		e := fact(id, "updated", 0)
		at, err := l.Append(ctx, expect, e)
		e.Position = at
		return e, err
	}
	must := func(id string, expect events.Expect) events.Event {
		t.Helper()
		e, err := append1(id, expect)
		if err != nil {
			t.Fatal(err)
		}
		return e
	}
	conflict := func(id string, expect events.Expect, actual uint64) {
		t.Helper()
		_, err := append1(id, expect)
		var conflict *events.ConflictError
		if !errors.As(err, &conflict) || conflict.Actual != actual {
			t.Fatalf("%s %s: %v, want a conflict with %d", id, expect, err, actual)
		}
	}
	var all []events.Event
	seq := map[string]uint64{}
	for _, id := range []string{"old", "gone", "old", "lost", "both", "odd/.*", "both", "old", "new"} {
		all = append(all, must(id, events.At(seq[id])))
		seq[id] = all[len(all)-1].Position.Seq
	}
	facts := func(from []events.Event) iter.Seq2[events.Event, error] {
		return func(yield func(events.Event, error) bool) {
			for _, e := range from {
				if !yield(e, nil) {
					return
				}
			}
		}
	}
	check := func(what string, seq iter.Seq2[events.Event, error], want []events.Event) {
		t.Helper()
		got := Take(t, seq, len(want))
		for i := range want {
			if got[i].ID != want[i].ID || got[i].Position != want[i].Position || got[i].Stream != want[i].Stream || got[i].Type != want[i].Type || string(got[i].Payload) != string(want[i].Payload) || got[i].Received.IsZero() {
				t.Fatalf("%s: %d is %+v, want %+v", what, i, got[i], want[i])
			}
		}
	}
	check("never compacted", events.Facts(ctx, l, events.Cursor{}), all)
	if base, err := l.Base(ctx); err != nil || base.UpTo.Seq != 0 || base.Revision != 0 {
		t.Fatalf("%+v, %v", base, err)
	}
	received := Take(t, l.Follow(ctx, events.ControlPartition, events.Cursor{}), len(all))
	all = slices.Clone(received)

	// Up to 6: of "old" its newest there, of "both" what there is, of "gone" and "lost" nothing.
	lost := all[3]
	all = slices.Delete(all, 3, 4)
	upTo, kept := all[4].Position, []events.Event{all[2], all[3], all[4]}
	if _, err := l.Purge(ctx, upTo); !errors.Is(err, events.ErrInvalid) {
		t.Fatalf("purged without a base: %v", err)
	}
	none, err := l.Base(ctx)
	if err != nil {
		t.Fatal(err)
	}
	failed := errors.New("failed")
	if err := l.Rebase(ctx, none, upTo, func(yield func(events.Event, error) bool) {
		_ = yield(all[2], nil) && yield(events.Event{}, failed)
	}); !errors.Is(err, failed) {
		t.Fatal(err)
	}
	check("a rebase failed", events.Facts(ctx, l, events.Cursor{}), received)
	if err := l.Rebase(ctx, none, upTo, facts(kept)); err != nil {
		t.Fatal(err)
	}
	if err := l.Rebase(ctx, none, all[6].Position, facts(nil)); !errors.Is(err, events.ErrRebased) {
		t.Fatalf("two bases over one: %v", err)
	}
	for _, purged := range []bool{false, true} {
		if purged {
			if b, err := l.Purge(ctx, upTo); err != nil || b.Oldest.Seq != 7 {
				t.Fatalf("%+v, %v", b, err)
			}
			if _, err := l.Purge(ctx, all[5].Position); !errors.Is(err, events.ErrInvalid) {
				t.Fatalf("purged beyond the base: %v", err)
			}
		}
		check("with a base", events.Facts(ctx, l, events.Cursor{}), append(slices.Clone(kept), all[5:]...))
		check("one of both", events.FactsOf(ctx, l, stream("both")), []events.Event{all[3], all[5]})
		check("one of an odd name", events.FactsOf(ctx, l, stream("odd/.*")), []events.Event{all[4]})
		check("one of the base and the log", events.FactsOf(ctx, l, stream("old")), []events.Event{all[2], all[6]})
		conflict("old", events.Fresh, seq["old"])
		conflict("odd/.*", events.Fresh, seq["odd/.*"])
		conflict("odd/.*", events.At(1), seq["odd/.*"])
		conflict("both", events.At(all[3].Position.Seq), seq["both"])
		if !purged { // it is still there, and nobody knows it any more
			lost = must("lost", events.Fresh)
			conflict("lost", events.Fresh, lost.Position.Seq)
			all = append(all, lost)
		}
		conflict("gone", events.At(seq["old"]), map[bool]uint64{false: seq["gone"]}[purged])
	}
	for e, err := range l.Follow(ctx, events.ControlPartition, events.Cursor{}) {
		var truncated *events.TruncatedError
		if !errors.As(err, &truncated) || truncated.Oldest.Seq != 7 {
			t.Fatalf("what is left was taken for all there was: %+v, %v", e, err)
		}
	}
	for _, err := range events.FactsOf(ctx, l, stream("gone")) {
		t.Fatal("a stream of which nothing is left has a fact: ", err)
	}
	conflict("gone", events.At(seq["gone"]), 0)
	a, b := must("odd/.*", events.At(seq["odd/.*"])), must("gone", events.Fresh)
	conflict("odd/.*", events.At(seq["odd/.*"]), a.Position.Seq)
	check("after it", events.FactsOf(ctx, l, stream("odd/.*")), []events.Event{all[4], a})
	check("begun again", events.FactsOf(ctx, l, stream("gone")), []events.Event{b})
	if _, err := l.Append(ctx, events.At(seq["new"]), fact("new", "updated", 1), fact("new", "updated", 2)); err != nil {
		t.Fatal(err)
	}

	// A base over a base; several facts at once follow what was purged.
	first, err := l.Base(ctx)
	if err != nil {
		t.Fatal(err)
	}
	rest := []events.Event{all[4], all[5], all[6], all[7]}
	if err := l.Rebase(ctx, first, all[7].Position, facts(rest)); err != nil {
		t.Fatal(err)
	}
	if _, err := l.Purge(ctx, all[7].Position); err != nil {
		t.Fatal(err)
	}
	check("a second base", events.Facts(ctx, l, events.Cursor{}), append(slices.Clone(rest), lost, a, b))
	conflict("both", events.At(1), seq["both"])
	conflict("both", events.Fresh, seq["both"])
	two := []events.Event{fact("both", "updated", 1), fact("both", "updated", 2)}
	if _, err := l.Append(ctx, events.At(seq["both"]), two...); err != nil {
		t.Fatal(err)
	}
	got := Take(t, events.FactsOf(ctx, l, stream("both")), 3)
	if got[0].ID != all[5].ID || got[1].ID != two[0].ID || got[2].ID != two[1].ID {
		t.Fatalf("%+v", got)
	}
}
