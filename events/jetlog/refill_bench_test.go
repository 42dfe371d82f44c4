package jetlog

import (
	"fmt"
	"iter"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/tachograph/tachograph/events"
	"github.com/tachograph/tachograph/events/logtest"
)

// BenchmarkRefill compares a refill with a bare asynchronous publish of the same
// events into the same kind of stream.
func BenchmarkRefill(b *testing.B) {
	dir := b.TempDir()
	s := startServer(b, dir, false)
	nc := connect(b, s, nats.InProcessServer(s))
	evs := make([]events.Event, 10_000)
	for i := range evs {
		evs[i] = logtest.Telemetry(fmt.Sprint("car-", i), i)
		evs[i].Received = time.Date(2026, 5, 1, 10, 0, 0, i*1000, time.UTC)
	}
	b.Run("refill", func(b *testing.B) {
		l := open(b, Config{Publish: nc, Read: nc, StoreDir: dir})
		b.ReportAllocs()
		err := l.Refill(b.Context(), events.Position{Epoch: 1, Seq: uint64(b.N)}, func(uint64) iter.Seq2[events.Event, error] {
			return func(yield func(events.Event, error) bool) {
				for i := range b.N {
					e := evs[i%len(evs)]
					e.Position = events.Position{Epoch: 1, Seq: uint64(i + 1)}
					if !yield(e, nil) {
						return
					}
				}
			}
		}, func(uint64) {})
		if err != nil {
			b.Fatal(err)
		}
		b.StopTimer()
		js, err := jetstream.New(nc)
		if err == nil {
			err = js.DeleteStream(b.Context(), streamName(0))
		}
		if err != nil {
			b.Fatal(err)
		}
	})
	b.Run("bare publish", func(b *testing.B) {
		js, err := jetstream.New(nc, jetstream.WithPublishAsyncMaxPending(4000))
		if err != nil {
			b.Fatal(err)
		}
		if _, err := js.CreateOrUpdateStream(b.Context(), jetstream.StreamConfig{Name: "BARE", Subjects: []string{"in.>"}}); err != nil {
			b.Fatal(err)
		}
		b.ReportAllocs()
		for i := range b.N {
			e := &evs[i%len(evs)]
			if _, err := js.PublishAsync(e.Subject(), e.Payload); err != nil {
				b.Fatal(err)
			}
		}
		<-js.PublishAsyncComplete()
	})
}
