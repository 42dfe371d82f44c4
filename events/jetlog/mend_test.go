package jetlog

import (
	"testing"

	"github.com/nats-io/nats.go"
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
	there := map[string]int{}
	for e, err := range l.Read(t.Context(), events.Stream{Kind: events.Telemetry, ID: "car-1"}, events.Latest) {
		if err != nil {
			t.Fatal(err)
		}
		there[e.ID]++
	}
	for n := range 5 {
		if got := there[logtest.Telemetry("car-1", n).ID]; got != 1 {
			t.Errorf("event %d is there %d times", n, got)
		}
	}
	if !torn {
		t.Error("no batch was torn: this shows nothing")
	}
}
