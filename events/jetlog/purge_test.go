package jetlog

import (
	"errors"
	"os"
	"sync"
	"testing"

	"github.com/nats-io/nats.go"

	"github.com/tachograph/tachograph/events"
	"github.com/tachograph/tachograph/events/logtest"
)

// fill appends n telemetry events of about 3 KB.
func fill(t *testing.T, l *Log, n int) []events.Event {
	t.Helper()
	evs := make([]events.Event, n)
	for i := range evs {
		evs[i] = logtest.Telemetry("car", i)
		evs[i].Payload = append(evs[i].Payload, make([]byte, 3000)...)
		evs[i].ID = events.DeriveID("car", "position", evs[i].Payload)
	}
	logtest.EnqueueAll(t, l, evs)
	return evs
}

func position(seq uint64) events.Position { return events.Position{Epoch: 1, Seq: seq} }

// truncatedAt reads on after a sequence by Follow and by ReadAfter and returns
// the first event of both, or the oldest position that both refused with.
func truncatedAt(t *testing.T, l *Log, evs []events.Event, seq uint64) (first, oldest uint64) {
	t.Helper()
	cursor := events.Cursor{Position: position(seq)}
	if seq > 0 {
		cursor.ID = evs[seq-1].ID
	} else {
		cursor = events.Cursor{}
	}
	answer := func(e events.Event, err error) (uint64, uint64) {
		var truncated *events.TruncatedError
		if errors.As(err, &truncated) {
			return 0, truncated.Oldest.Seq
		}
		if err != nil {
			t.Fatal(err)
		}
		return e.Position.Seq, 0
	}
	for e, err := range l.Follow(t.Context(), 0, cursor) {
		first, oldest = answer(e, err)
		break
	}
	for e, err := range l.ReadAfter(t.Context(), events.Stream{Kind: events.Telemetry, ID: "car"}, position(seq), events.Latest) {
		if f, o := answer(e, err); f != first || o != oldest {
			t.Errorf("after %d: Follow %d, %d; ReadAfter %d, %d", seq, first, oldest, f, o)
		}
		break
	}
	return first, oldest
}

// TestPurge: readers that have what was purged go on, the others are told, before
// and after a restart; with files of our own only whole ones go.
func TestPurge(t *testing.T) {
	for _, here := range []bool{false, true} {
		t.Run(map[bool]string{true: "Here", false: "Elsewhere"}[here], func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			s := startServer(t, dir, !here)
			config := func() Config {
				c := Config{Publish: connect(t, s, nats.InProcessServer(s)), Read: connect(t, s), MaxBytes: 20 << 20} // blocks of 4 MiB
				if here {
					c.StoreDir = dir
				}
				return c
			}
			l := open(t, config())
			const n = 5_000
			evs := fill(t, l, n)
			if b, err := l.Bounds(t.Context(), 0); err != nil || b.Oldest.Seq != 1 || b.Newest.Seq != n {
				t.Fatalf("%+v, %v", b, err)
			}
			const upTo = 3_000
			b, err := l.Purge(t.Context(), position(upTo))
			if err != nil {
				t.Fatal(err)
			}
			first := b.Oldest.Seq
			if here && (first > upTo+1 || first < upTo/4) || !here && first != upTo+1 {
				t.Fatalf("the oldest is %d", first)
			}
			check := func(l *Log) {
				t.Helper()
				for _, at := range []struct{ seq, first, oldest uint64 }{
					{0, 0, first}, {1, 0, first}, {first - 2, 0, first}, {first - 1, first, 0}, {first, first + 1, 0}, {n - 1, n, 0},
				} {
					if f, o := truncatedAt(t, l, evs, at.seq); f != at.first || o != at.oldest {
						t.Errorf("after %d: first %d, oldest %d; want %d, %d", at.seq, f, o, at.first, at.oldest)
					}
				}
			}
			check(l)
			if err := l.Close(); err != nil {
				t.Fatal(err)
			}
			s.Shutdown()
			s.WaitForShutdown()
			s = startServer(t, dir, !here)
			l = open(t, config())
			check(l)
			if b, err := l.Purge(t.Context(), position(n)); err != nil || b.Newest.Seq != n || b.Oldest.Seq > n || b.Oldest.Seq < first {
				t.Fatalf("purge of all: %+v, %v", b, err)
			}
			logtest.EnqueueAll(t, l, []events.Event{logtest.Telemetry("car", n)})
			if f, _ := truncatedAt(t, l, evs, n); f != n+1 {
				t.Errorf("after the purge comes %d", f)
			}
		})
	}
}

// TestPurgedByOthers: what somebody purged with a tool of his own is told too.
func TestPurgedByOthers(t *testing.T) {
	s := startServer(t, t.TempDir(), false)
	l := open(t, Config{Publish: connect(t, s), Durability: OS})
	evs := fill(t, l, 10)
	stream, err := l.js.Stream(t.Context(), streamName(0))
	if err != nil {
		t.Fatal(err)
	}
	if err := stream.Purge(t.Context()); err != nil {
		t.Fatal(err)
	}
	if f, o := truncatedAt(t, l, evs, 0); f != 0 || o != 11 {
		t.Errorf("first %d, oldest %d", f, o)
	}
	if b, err := l.Bounds(t.Context(), 0); err != nil || b.Newest.Seq != 0 || b.Oldest.Seq != 11 {
		t.Errorf("%+v, %v", b, err)
	}
}

// TestSyncFollowsReplacedFiles: the server gives the newest block another file
// when it erases one of its messages; what is synced must be that one.
func TestSyncFollowsReplacedFiles(t *testing.T) {
	dir := t.TempDir()
	s := startServer(t, dir, false)
	l := open(t, Config{Publish: connect(t, s), StoreDir: dir})
	fill(t, l, 10)
	stream, err := l.js.Stream(t.Context(), streamName(0))
	if err != nil {
		t.Fatal(err)
	}
	b := l.syncs[0]
	before, err := b.file.Stat()
	if err != nil {
		t.Fatal(err)
	}
	for seq := uint64(1); seq <= 10; seq++ { // the last of them removes the file
		if err := stream.SecureDeleteMsg(t.Context(), seq); err != nil {
			t.Fatal(err)
		}
		logtest.EnqueueAll(t, l, []events.Event{logtest.Telemetry("car", 100+int(seq))})
		now, err := os.Stat(b.path(b.newest))
		if err != nil {
			t.Fatal(err)
		}
		synced, err := b.file.Stat()
		if err != nil {
			t.Fatal(err)
		}
		if !os.SameFile(now, synced) {
			t.Fatalf("after erasing %d another file was synced than the one that is written to", seq)
		}
		if seq == 1 && os.SameFile(before, now) {
			t.Fatal("the server does not replace the file any more: this test shows nothing")
		}
	}
}

// TestNotesAtOnce: of processes that raise a stream's note at the same moment each is
// told that it is as high as it asked for. One may put it back to what it had read just
// before; it is never lower than what the one that ends last asked for.
func TestNotesAtOnce(t *testing.T) {
	s := startServer(t, t.TempDir(), true)
	const n, processes = 400, 4
	var work sync.WaitGroup
	for i := range processes {
		l := open(t, Config{Publish: connect(t, s), Read: connect(t, s)})
		work.Go(func() {
			stream, err := l.js.Stream(t.Context(), streamName(0))
			for seq := uint64(i + 1); err == nil && seq <= n; seq += processes {
				err = l.note(t.Context(), stream, metaPurged, seq)
			}
			if err != nil {
				t.Error(err)
			}
		})
	}
	work.Wait()
	stream, err := open(t, Config{Publish: connect(t, s), Read: connect(t, s)}).js.Stream(t.Context(), streamName(0))
	if err != nil {
		t.Fatal(err)
	}
	if got := metaSeq(stream.CachedInfo(), metaPurged); got <= n-processes {
		t.Errorf("the note is %d, of %d", got, n)
	}
}
