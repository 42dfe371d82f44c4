package jetlog

import (
	"bytes"
	"errors"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/nats-io/nuid"

	"github.com/tachograph/tachograph/events"
	"github.com/tachograph/tachograph/events/logtest"
)

// TestUnknownBatch: a batch of which the server has stored some, and says that it
// does not know it (its stream was made anew, or its subjects, in the middle of it),
// is in the log once, whole, and nobody is refused.
func TestUnknownBatch(t *testing.T) {
	dir := t.TempDir()
	l := open(t, Config{Publish: connect(t, startServer(t, dir, false)), StoreDir: dir, Partitions: 1})
	c := l.groups[0]
	torn := false
	c.gate.Lock()
	c.send = func(b *batch) error {
		if torn || len(b.items) < 2 {
			return c.sendFast(b)
		}
		torn = true
		if err := c.sendFast(&batch{id: nuid.Next(), items: b.items[:1]}); err != nil {
			return err
		}
		it := &b.items[1]
		return c.l.cfg.Publish.PublishMsg(&nats.Msg{
			Subject: string(it.appendSubject(nil)), Reply: c.inbox + "." + b.id + "." + maxFlow + ".fail.2." + opAppend + ".$FI", Header: it.headers(), Data: it.event.Payload,
		})
	}
	results := make(chan error, 5)
	for n := range 5 { // the publisher has the first, and waits; the others are the next batch
		if err := l.Enqueue(t.Context(), logtest.Telemetry("car-1", n), func(err error) { results <- err }); err != nil {
			t.Fatal(err)
		}
	}
	c.gate.Unlock()
	for range 5 {
		if err := <-results; err != nil {
			t.Error(err)
		}
	}
	thereOnce(t, l, 0, 1, 2, 3, 4)
	if !torn {
		t.Error("no batch was torn: this shows nothing")
	}
}

// TestMendedBehind: what is sent again of one batch comes behind what the next one has
// stored already, and does not hide it from the look for that one.
func TestMendedBehind(t *testing.T) {
	dir := t.TempDir()
	l := open(t, Config{Publish: connect(t, startServer(t, dir, false)), StoreDir: dir, Partitions: 1})
	c := l.groups[0]
	var first *batch
	sent := 0
	c.gate.Lock()
	c.send = func(b *batch) error {
		sent++
		switch sent {
		case 1:
			first = b // lost on its way
			return nil
		case 2:
			err := c.sendFast(&batch{id: nuid.Next(), items: b.items}) // stored, and the answer is lost
			b.fail(events.ErrUnknown)
			first.fail(events.ErrUnknown)
			return err
		default:
			return c.sendFast(b)
		}
	}
	results := make(chan error, 3)
	taken := func() bool {
		c.mu.Lock()
		defer c.mu.Unlock()
		return len(c.queue) == 0
	}
	for n := range 3 { // the publisher has the first, and waits; the others are the next batch
		if err := l.Enqueue(t.Context(), logtest.Telemetry("car-1", n), func(err error) { results <- err }); err != nil {
			t.Fatal(err)
		}
		for n == 0 && !taken() {
			time.Sleep(time.Millisecond)
		}
	}
	c.gate.Unlock()
	for range 3 {
		if err := <-results; err != nil {
			t.Error(err)
		}
	}
	thereOnce(t, l, 0, 1, 2)
	if sent != 3 {
		t.Errorf("%d batches were sent, want 3: two and the first again", sent)
	}
}

// TestRefusedAmongOthers: an event that the server refuses in the middle of a batch is
// refused to its sender; those before and behind it are in the log once.
func TestRefusedAmongOthers(t *testing.T) {
	dir := t.TempDir()
	l := open(t, Config{Publish: connect(t, startServer(t, dir, false)), StoreDir: dir, Partitions: 1})
	s, err := l.js.Stream(t.Context(), streamName(0))
	if err != nil {
		t.Fatal(err)
	}
	if err := l.rewrite(t.Context(), s, func(c *jetstream.StreamConfig) { c.MaxMsgSize = 1000 }); err != nil {
		t.Fatal(err)
	}
	c := l.groups[0]
	var results [6]chan error
	c.gate.Lock()
	for n := range results {
		e := logtest.Telemetry("car-1", n)
		if n == 4 {
			e.Payload = bytes.Repeat([]byte{'x'}, 2000)
		}
		results[n] = make(chan error, 1)
		if err := l.Enqueue(t.Context(), e, func(err error) { results[n] <- err }); err != nil {
			t.Fatal(err)
		}
	}
	c.gate.Unlock()
	for n := range results {
		if err := <-results[n]; n == 4 && !errors.Is(err, events.ErrTooLarge) || n != 4 && err != nil {
			t.Errorf("event %d: %v", n, err)
		}
	}
	thereOnce(t, l, 0, 1, 2, 3, 5)
}

// thereOnce fails unless the log has these events of car-1 and no other, once each.
func thereOnce(t *testing.T, l *Log, want ...int) {
	t.Helper()
	there := map[string]int{}
	for e, err := range l.Read(t.Context(), events.Stream{Kind: events.Telemetry, ID: "car-1"}, events.Latest) {
		if err != nil {
			t.Fatal(err)
		}
		there[e.ID]++
	}
	for _, n := range want {
		if got := there[logtest.Telemetry("car-1", n).ID]; got != 1 {
			t.Errorf("event %d is there %d times", n, got)
		}
	}
	if len(there) != len(want) {
		t.Errorf("%d events are there, want %d", len(there), len(want))
	}
}
