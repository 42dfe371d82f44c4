package jetlog

import (
	"context"
	"errors"
	"iter"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/tachograph/tachograph/events"
	"github.com/tachograph/tachograph/events/logtest"
)

func TestRebase(t *testing.T) {
	for _, here := range []bool{false, true} {
		t.Run(map[bool]string{true: "InProcess", false: "Elsewhere"}[here], func(t *testing.T) {
			t.Parallel()
			s := startServer(t, t.TempDir(), true)
			cfg := Config{Publish: connect(t, s), Settle: time.Nanosecond}
			if here {
				cfg.Publish, cfg.Read, cfg.Durability = connect(t, s, nats.InProcessServer(s)), connect(t, s), OS
			}
			logtest.Rebase(t, open(t, cfg))
		})
	}
}

// basesOf lists the streams of bases.
func basesOf(t *testing.T, l *Log) (names []string) {
	t.Helper()
	streams := l.js.StreamNames(t.Context())
	for name := range streams.Name() {
		if strings.HasPrefix(name, basesStream+"_") {
			names = append(names, name)
		}
	}
	if err := streams.Err(); err != nil {
		t.Fatal(err)
	}
	return names
}

func none(func(events.Event, error) bool) {}

// TestRebaseCutShort: a rebase that ends at any of its steps has happened or not;
// what it has left of its own goes, and a young base lets nothing be purged.
func TestRebaseCutShort(t *testing.T) {
	s := startServer(t, t.TempDir(), false)
	nc := connect(t, s)
	step := ""
	killed := errors.New("killed")
	cfg := Config{Publish: nc, Durability: OS, Settle: time.Hour, Fault: func(at string) error {
		if at == step {
			return killed
		}
		return nil
	}}
	l := open(t, cfg)
	for i := range 4 {
		if _, err := l.Append(t.Context(), events.Any, events.Event{Stream: events.Stream{Kind: events.Registry, ID: "car"}, Type: "added", ID: events.UniqueID(), Payload: []byte{'{', byte('0' + i)}}); err != nil {
			t.Fatal(err)
		}
	}
	all := logtest.Take(t, l.Follow(t.Context(), events.ControlPartition, events.Cursor{}), 4)
	heard, err := connect(t, s).SubscribeSync("tacho.>")
	if err == nil {
		err = heard.SetPendingLimits(-1, -1)
	}
	if err != nil {
		t.Fatal(err)
	}
	facts := func(upTo int) iter.Seq2[events.Event, error] {
		return func(yield func(events.Event, error) bool) {
			for _, e := range all[:upTo] {
				if !yield(e, nil) {
					return
				}
			}
		}
	}
	for _, step = range []string{"base fact", "base stored", "base synced"} {
		base, err := l.Base(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if err := l.Rebase(t.Context(), base, all[1].Position, facts(2)); !errors.Is(err, killed) {
			t.Fatal(step, err)
		}
		if now, err := l.Base(t.Context()); err != nil || now.Revision != 0 || len(basesOf(t, l)) > 0 {
			t.Fatalf("%s: %+v, %v, %v", step, now, err, basesOf(t, l))
		}
	}
	step = ""
	base, err := l.Base(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	// One that was killed leaves its stream; it may be somebody who is at it.
	left, err := l.js.CreateStream(t.Context(), jetstream.StreamConfig{
		Name: baseStream("left"), Subjects: []string{baseSubject("left") + ">"}, Metadata: map[string]string{metaOver: "0"},
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := l.Rebase(t.Context(), base, all[1].Position, facts(2)); err != nil {
		t.Fatal(err)
	}
	if _, err := l.Purge(t.Context(), all[1].Position); !errors.Is(err, ErrUnsettled) {
		t.Fatalf("a young base: %v", err)
	}
	if names := basesOf(t, l); len(names) != 1 || names[0] == left.CachedInfo().Config.Name {
		t.Fatalf("left: %v", names)
	}
	for range 3 {
		base, err := l.Base(t.Context())
		if err == nil {
			err = l.Rebase(t.Context(), base, all[2].Position, facts(3))
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if names := basesOf(t, l); len(names) != 2 {
		t.Fatalf("the present one and the one before it: %v", names)
	}
	// What fails after that one moment takes nothing back.
	step = "base pointed at"
	if base, err = l.Base(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := l.Rebase(t.Context(), base, all[2].Position, facts(3)); !errors.Is(err, killed) {
		t.Fatal(err)
	}
	step = ""
	if now, err := l.Base(t.Context()); err != nil || now.Revision == base.Revision {
		t.Fatal(now, err)
	}
	if got := logtest.Take(t, events.Facts(t.Context(), l, events.Cursor{}), 4); got[3].ID != all[3].ID {
		t.Fatalf("%+v", got)
	}
	if err := l.DropBases(t.Context()); err != nil || len(basesOf(t, l)) != 1 {
		t.Fatal(err, basesOf(t, l))
	}

	// Another process finds it, and one that lacks some of it says so.
	other := open(t, cfg)
	if got := logtest.Take(t, events.Facts(t.Context(), other, events.Cursor{}), 4); got[3].ID != all[3].ID {
		t.Fatalf("%+v", got)
	}
	p, err := l.present(t.Context(), true)
	if err == nil {
		err = p.stream.DeleteMsg(t.Context(), 2)
	}
	if err != nil {
		t.Fatal(err)
	}
	for _, err := range events.Facts(t.Context(), other, events.Cursor{}) {
		if err == nil || !strings.Contains(err.Error(), "holds 2 facts, 3 belong there") {
			t.Fatal("a base that lacks a fact: ", err)
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	if base, err = l.Base(ctx); err != nil {
		t.Fatal(err)
	}
	if msg, err := heard.NextMsg(200 * time.Millisecond); err == nil {
		t.Errorf("a listener hears of a base: %s", msg.Subject)
	}
	if err := l.Rebase(ctx, base, all[1].Position, none); !errors.Is(err, events.ErrInvalid) {
		t.Fatalf("a base that is behind the one before it: %v", err)
	}
}

// TestDropBases: what is left of a base that was to be the first goes, and it does not
// come to be; a log that never had one stays so.
func TestDropBases(t *testing.T) {
	nc := connect(t, startServer(t, t.TempDir(), false))
	l := open(t, Config{Publish: nc, Durability: OS, Settle: time.Nanosecond})
	for range 2 {
		if _, err := l.Append(t.Context(), events.Any, events.Event{Stream: events.Stream{Kind: events.Registry, ID: "car"}, Type: "added", ID: events.UniqueID(), Payload: []byte("{}")}); err != nil {
			t.Fatal(err)
		}
	}
	if err := l.DropBases(t.Context()); err != nil {
		t.Fatal(err)
	}
	before, err := l.Base(t.Context())
	if err != nil || before.Revision != 0 {
		t.Fatal(before, err)
	}
	if _, err := l.js.CreateStream(t.Context(), jetstream.StreamConfig{
		Name: baseStream("left"), Subjects: []string{baseSubject("left") + ">"}, Metadata: map[string]string{metaOver: "0"},
	}); err != nil {
		t.Fatal(err)
	}
	if err := l.DropBases(t.Context()); err != nil || len(basesOf(t, l)) > 0 {
		t.Fatal(err, basesOf(t, l))
	}
	all := logtest.Take(t, events.Facts(t.Context(), open(t, l.cfg), events.Cursor{}), 2)
	one := func(yield func(events.Event, error) bool) { yield(all[0], nil) }
	if err := l.Rebase(t.Context(), before, all[0].Position, one); !errors.Is(err, events.ErrRebased) {
		t.Fatalf("it came to be: %v", err)
	}
	if _, err := l.Append(t.Context(), events.Fresh, events.Event{Stream: events.Stream{Kind: events.Registry, ID: "new"}, Type: "added", ID: events.UniqueID(), Payload: []byte("{}")}); err != nil {
		t.Fatal(err)
	}
	now, err := l.Base(t.Context())
	if err != nil || now.Revision == 0 || now.UpTo.Seq != 0 {
		t.Fatal(now, err)
	}
	if _, err := l.Purge(t.Context(), all[0].Position); !errors.Is(err, events.ErrInvalid) {
		t.Fatal(err)
	}
	if err := l.Rebase(t.Context(), now, all[0].Position, one); err != nil {
		t.Fatal(err)
	}
	if b, err := l.Purge(t.Context(), all[0].Position); err != nil || b.Oldest.Seq != 2 {
		t.Fatal(b, err)
	}
	if got := logtest.Take(t, events.Facts(t.Context(), l, events.Cursor{}), 3); got[0].ID != all[0].ID || got[1].ID != all[1].ID {
		t.Fatalf("%+v", got)
	}
}
