package jetlog

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/tachograph/tachograph/events"
	"github.com/tachograph/tachograph/events/logtest"
)

// TestLocatePurged: what was purged is told with the oldest event there is,
// what was removed in the middle is stepped over.
func TestLocatePurged(t *testing.T) {
	nc := connect(t, startServer(t, t.TempDir(), false))
	l := open(t, Config{Publish: nc, Read: nc, Durability: OS})
	ctx := t.Context()
	var evs []events.Event
	for i := range 10 {
		evs = append(evs, logtest.Telemetry("car", i))
	}
	logtest.EnqueueAll(t, l, evs)
	s, err := l.js.Stream(ctx, streamName(0))
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Purge(ctx, jetstream.WithPurgeSequence(5)); err != nil { // 5 is the oldest now
		t.Fatal(err)
	}
	if err := s.DeleteMsg(ctx, 7); err != nil {
		t.Fatal(err)
	}
	at := func(seq uint64) events.From {
		return events.After(events.Cursor{Position: events.Position{Epoch: 1, Seq: seq}, ID: "whatever"})
	}
	var gone *events.TruncatedError
	if _, err := l.Locate(ctx, 0, at(3)); !errors.As(err, &gone) || gone.Oldest.Seq != 5 {
		t.Errorf("before the first: %v", err)
	}
	for from, first := range map[events.From]uint64{
		events.Beginning: 5, events.Since(time.Unix(1, 0)): 5, at(4): 5, at(7): 8,
	} {
		c, err := l.Locate(ctx, 0, from)
		if err != nil {
			t.Fatalf("%s: %v", from, err)
		}
		if e := logtest.Take(t, l.Select(ctx, 0, c, events.Filter{}), 1)[0]; e.Position.Seq != first {
			t.Errorf("%s: begins with %s, want %d", from, e.Position, first)
		}
	}
	if err := s.Purge(ctx); err != nil {
		t.Fatal(err)
	}
	for _, from := range []events.From{events.Now, events.Since(time.Unix(1, 0)), at(10)} {
		if c, err := l.Locate(ctx, 0, from); err != nil || c.Position.Seq != 10 {
			t.Errorf("%s in a log that was purged: %v, %v", from, c, err)
		}
	}
	if _, err := l.Locate(ctx, 0, at(2)); !errors.As(err, &gone) || gone.Oldest.Seq != 11 {
		t.Errorf("before the first of none: %v", err)
	}
	if _, err := l.Locate(ctx, 9, events.Now); !errors.Is(err, events.ErrInvalid) {
		t.Errorf("no such partition: %v", err)
	}
}

// TestSlowReader: who stops reading is sent a few MiB and no more, hinders
// nobody, and gets all the rest once it goes on, long after the server has
// given up its reader's requests.
func TestSlowReader(t *testing.T) {
	t.Parallel()
	s := startServer(t, t.TempDir(), false)
	slow := connect(t, s)
	l := open(t, Config{Publish: connect(t, s), Read: slow, Durability: OS})
	const n, size = 300, 256 << 10
	for i := range n {
		e := logtest.Telemetry("car", i)
		e.Payload = append(make([]byte, size), e.Payload...)
		e.ID = fmt.Sprint(i)
		logtest.EnqueueAll(t, l, []events.Event{e})
	}
	before := slow.Stats().InBytes
	read := 0
	for e, err := range l.Select(t.Context(), 0, events.Cursor{}, events.Filter{ID: "car"}) {
		if err != nil {
			t.Fatal(err)
		}
		if e.ID != fmt.Sprint(read) {
			t.Fatalf("event %d is %s", read, e.ID)
		}
		if read++; read == 1 {
			time.Sleep(12 * time.Second) // longer than two heartbeats of the server: that is what is shown
			if got := slow.Stats().InBytes - before; got > uint64(l.selectBytes())+1<<20 {
				t.Errorf("%d bytes came to a reader that took one event", got)
			}
			fresh := logtest.Telemetry("other", 0)
			logtest.EnqueueAll(t, l, []events.Event{fresh})
		}
		if read == n {
			return
		}
	}
	t.Fatalf("%d events, want %d", read, n)
}

// TestSinceImported: events that were imported bear arrival times before their
// stamps in the stream; those who ask by time miss none of them.
func TestSinceImported(t *testing.T) {
	nc := connect(t, startServer(t, t.TempDir(), false))
	l := open(t, Config{Publish: nc, Read: nc, Durability: OS})
	logtest.EnqueueAll(t, l, []events.Event{logtest.Telemetry("car", 0)})
	arrived := time.Now().Add(-time.Hour).UTC().Truncate(time.Microsecond)
	e := logtest.Telemetry("car", 1)
	m := &nats.Msg{Subject: e.Subject(), Data: e.Payload, Header: nats.Header{headerReceived: {arrived.Format(time.RFC3339Nano)}}}
	if _, err := l.js.PublishMsg(t.Context(), m); err != nil {
		t.Fatal(err)
	}
	since := arrived.Add(-time.Minute)
	c, err := l.Locate(t.Context(), 0, events.Since(since))
	if err != nil {
		t.Fatal(err)
	}
	for e, err := range l.Select(t.Context(), 0, c, events.Filter{}) {
		if err != nil {
			t.Fatal(err)
		}
		if e.Received.Equal(arrived) {
			return
		}
	}
}

// TestOvertaken by a purge of far more than a reader has in its buffer.
func TestOvertaken(t *testing.T) {
	t.Parallel()
	s := startServer(t, t.TempDir(), false)
	l := open(t, Config{Publish: connect(t, s), Read: connect(t, s), Durability: OS})
	logtest.Overtaken(t, l, 150, func() { time.Sleep(11 * time.Second) })
}
