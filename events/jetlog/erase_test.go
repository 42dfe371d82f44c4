package jetlog

import (
	"bytes"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	"github.com/nats-io/nats.go"

	"github.com/tachograph/tachograph/events"
	"github.com/tachograph/tachograph/events/logtest"
)

// filesWith lists the files below dir that hold a text.
func filesWith(t *testing.T, dir, text string) (files []string) {
	t.Helper()
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		b, err := os.ReadFile(path)
		if bytes.Contains(b, []byte(text)) {
			files = append(files, path)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return files
}

// TestErase: what is erased is gone from the disk; the rest is there, in its
// place, for readers of every kind, before and after a restart.
func TestErase(t *testing.T) {
	const marker = "SECRET-OF-THE-RENTER"
	dir := t.TempDir()
	s := startServer(t, dir, false)
	config := func() Config {
		return Config{Publish: connect(t, s, nats.InProcessServer(s)), Read: connect(t, s), StoreDir: dir}
	}
	l := open(t, config())
	var evs []events.Event
	goes := func(i int) bool { return i < 3 || i%10 == 5 || i >= 58 } // the first, some, the last of 60
	var seqs []uint64
	for i := range 60 {
		e := logtest.Telemetry("car", i)
		if goes(i) {
			e.Payload = append(e.Payload, marker...)
			seqs = append(seqs, uint64(i+1))
		}
		e.ID = events.DeriveID("car", "position", e.Payload)
		evs = append(evs, e)
	}
	logtest.EnqueueAll(t, l, evs)
	if len(filesWith(t, dir, marker)) == 0 {
		t.Fatal("the marker is not on the disk: this test shows nothing")
	}
	told := 0
	for range 2 { // again, as after a crash
		if err := l.Erase(t.Context(), 0, seqs, func(n int) { told = n }); err != nil || told != len(seqs) {
			t.Fatal(told, err)
		}
	}
	check := func(l *Log) {
		t.Helper()
		if files := filesWith(t, dir, marker); len(files) > 0 {
			t.Errorf("the marker is in %v", files)
		}
		b, err := l.Bounds(t.Context(), 0)
		if err != nil || b.Oldest.Seq != 1 || b.Newest.Seq != 58 {
			t.Errorf("%+v, %v", b, err)
		}
		tail, err := l.Tail(t.Context(), 0)
		if err != nil || tail.Seq != 60 {
			t.Errorf("tail %v, %v", tail, err)
		}
		for _, after := range []int{0, 1, 3, 5, 6, 30, 57} { // forgotten ones among them
			c := events.Cursor{Position: events.Position{Epoch: 1, Seq: uint64(after)}}
			if after > 0 {
				c.ID = evs[after-1].ID
			}
			next := after
			for next == after || goes(next-1) {
				next++
			}
			if got := logtest.Take(t, l.Follow(t.Context(), 0, c), 1)[0]; got.Position.Seq != uint64(next) || got.ID != evs[next-1].ID {
				t.Errorf("after %d comes %s, want %d", after, got.Position, next)
			}
		}
		n := 0
		for e, err := range l.Read(t.Context(), events.Stream{Kind: events.Telemetry, ID: "car"}, events.Latest) {
			if err != nil {
				t.Fatal(err)
			}
			if n++; goes(int(e.Position.Seq) - 1) {
				t.Errorf("%s is there", e.Position)
			}
		}
		if n != len(evs)-len(seqs) {
			t.Errorf("%d events are left, want %d", n, len(evs)-len(seqs))
		}
	}
	check(l)
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	s.Shutdown()
	s.WaitForShutdown()
	s = startServer(t, dir, false)
	l = open(t, config())
	check(l)
	next := logtest.Telemetry("car", 100)
	logtest.EnqueueAll(t, l, []events.Event{next})
	c := events.Cursor{Position: events.Position{Epoch: 1, Seq: 60}, ID: evs[59].ID}
	if got := logtest.Take(t, l.Follow(t.Context(), 0, c), 1)[0]; got.ID != next.ID || fmt.Sprint(got.Position) != "1.0.61" {
		t.Errorf("after the end comes %s", got.Position)
	}
}

// TestScrub: a server that was killed between removing and overwriting has the
// bytes, and not the message.
func TestScrub(t *testing.T) {
	const marker = "SECRET-OF-THE-RENTER"
	for _, which := range [][]uint64{{1}, {5, 6}, {20}, {1, 2, 3, 10, 19, 20}} {
		dir := t.TempDir()
		s := startServer(t, dir, false)
		l := open(t, Config{Publish: connect(t, s), StoreDir: dir})
		gone := map[uint64]bool{}
		for _, seq := range which {
			gone[seq] = true
		}
		var evs []events.Event
		for i := range 20 {
			e := logtest.Telemetry("car", i)
			if gone[uint64(i+1)] {
				e.Payload = append(e.Payload, marker...)
			}
			if e.ID = events.DeriveID("car", "position", e.Payload); i%3 == 0 {
				e.ID = events.UniqueID() // in a header
			}
			evs = append(evs, e)
		}
		logtest.EnqueueAll(t, l, evs)
		done, err := l.erasing(0)
		if err != nil {
			t.Fatal(err)
		}
		stream, err := l.js.Stream(t.Context(), streamName(0))
		if err != nil {
			t.Fatal(err)
		}
		first, err := firstLeft(t.Context(), stream, which)
		if err != nil {
			t.Fatal(err)
		}
		if err := l.note(t.Context(), stream, metaForgotten, first); err != nil {
			t.Fatal(err)
		}
		for _, seq := range which {
			if err := stream.DeleteMsg(t.Context(), seq); err != nil {
				t.Fatal(err)
			}
		}
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
		s.Shutdown()
		s.WaitForShutdown()
		if len(filesWith(t, dir, marker)) == 0 {
			t.Fatal("deleting overwrites: this test shows nothing")
		}
		if err := Scrub(dir, "$G"); err != nil {
			t.Fatal(err)
		}
		if files := filesWith(t, dir, marker); len(files) > 0 {
			t.Errorf("%v: the marker is in %v", which, files)
		}
		if done() == nil {
			t.Error("the note is still there")
		}
		s = startServer(t, dir, false)
		l = open(t, Config{Publish: connect(t, s), StoreDir: dir})
		seqs := map[uint64]string{}
		for e, err := range l.Read(t.Context(), evs[0].Stream, events.Latest) {
			if err != nil {
				t.Fatal(err)
			}
			seqs[e.Position.Seq] = e.ID
		}
		for i, e := range evs {
			if seq := uint64(i + 1); gone[seq] != (seqs[seq] == "") || !gone[seq] && seqs[seq] != e.ID {
				t.Errorf("%v: at %d is %q", which, seq, seqs[seq])
			}
		}
		if tail, err := l.Tail(t.Context(), 0); err != nil || tail.Seq != 20 {
			t.Errorf("%v: tail %v, %v", which, tail, err)
		}
		logtest.EnqueueAll(t, l, []events.Event{logtest.Telemetry("car", 100)})
	}
}
