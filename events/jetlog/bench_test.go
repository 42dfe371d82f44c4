package jetlog

import (
	"fmt"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/tachograph/tachograph/events"
	"github.com/tachograph/tachograph/events/logtest"
)

// BenchmarkAppend compares the group commit's durabilities with a bare
// asynchronous publish into a stream of the same shape, on one machine in one
// run: read the ratios. fsyncs/k is fsyncs per 1,000 events.
func BenchmarkAppend(b *testing.B) {
	for _, d := range []Durability{Disk, OS, Fast} {
		b.Run(d.String(), func(b *testing.B) {
			dir := b.TempDir()
			s := startServer(b, dir, false)
			l := open(b, Config{Publish: connect(b, s, nats.InProcessServer(s)), Read: connect(b, s), Durability: d, StoreDir: dir})
			evs := sample()
			b.ReportAllocs()
			var wg sync.WaitGroup
			n := 0
			for b.Loop() {
				wg.Add(1)
				if err := l.Enqueue(b.Context(), evs[n%len(evs)], func(err error) {
					if err != nil {
						b.Error(err)
					}
					wg.Done()
				}); err != nil {
					b.Fatal(err)
				}
				n++
			}
			wg.Wait()
			b.ReportMetric(float64(l.Syncs())*1000/float64(n), "fsyncs/k")
		})
	}
	b.Run("bare", func(b *testing.B) {
		s := startServer(b, b.TempDir(), false)
		nc := connect(b, s, nats.InProcessServer(s))
		js, err := jetstream.New(nc, jetstream.WithPublishAsyncMaxPending(4000))
		if err != nil {
			b.Fatal(err)
		}
		if _, err := js.CreateStream(b.Context(), jetstream.StreamConfig{Name: "BARE", Subjects: []string{"in.>"}}); err != nil {
			b.Fatal(err)
		}
		evs := sample()
		b.ReportAllocs()
		n := 0
		for b.Loop() {
			e := &evs[n%len(evs)]
			if _, err := js.PublishAsync(e.Subject(), e.Payload); err != nil {
				b.Fatal(err)
			}
			n++
		}
		<-js.PublishAsyncComplete()
	})
}

// BenchmarkFollow compares reading through Follow with a bare ordered drain.
func BenchmarkFollow(b *testing.B) {
	const stored = 200_000
	dir := b.TempDir()
	s := startServer(b, dir, false)
	read := connect(b, s)
	l := open(b, Config{Publish: connect(b, s, nats.InProcessServer(s)), Read: read, Durability: OS})
	var wg sync.WaitGroup
	for i := range stored {
		wg.Add(1)
		if err := l.Enqueue(b.Context(), logtest.Telemetry(fmt.Sprint("car-", i%10_000), i), func(error) { wg.Done() }); err != nil {
			b.Fatal(err)
		}
	}
	wg.Wait()
	b.Run("follow", func(b *testing.B) {
		b.ReportAllocs()
		n, before := 0, cpu(b)
		for b.Loop() {
			for range l.Follow(b.Context(), 0, events.Cursor{}) {
				if n++; n%stored == 0 {
					break
				}
			}
		}
		report(b, before, n)
	})
	b.Run("tapped", func(b *testing.B) {
		l := open(b, Config{Publish: connect(b, s, nats.InProcessServer(s)), Read: connect(b, s, Tapped()), Durability: OS})
		b.ReportAllocs()
		n, before := 0, cpu(b)
		for b.Loop() {
			for _, err := range l.Follow(b.Context(), 0, events.Cursor{}) {
				if err != nil {
					b.Fatal(err)
				}
				if n++; n%stored == 0 {
					break
				}
			}
		}
		report(b, before, n)
	})
	b.Run("inspect", func(b *testing.B) {
		b.ReportAllocs()
		n := 0
		for b.Loop() {
			for _, err := range l.Inspect(b.Context(), 0, 1, stored) {
				if err != nil {
					b.Fatal(err)
				}
				n++
			}
		}
		b.ReportMetric(float64(n)/b.Elapsed().Seconds(), "events/s")
	})
	b.Run("select all", func(b *testing.B) {
		n := 0
		for b.Loop() {
			for range l.Select(b.Context(), 0, events.Cursor{}, events.Filter{Kinds: []events.Kind{events.Telemetry}}) {
				if n++; n%stored == 0 {
					break
				}
			}
		}
		b.ReportMetric(float64(n)/b.Elapsed().Seconds(), "events/s")
	})
	b.Run("select one device", func(b *testing.B) { // 20 events
		n := 0
		for b.Loop() {
			for range l.Select(b.Context(), 0, events.Cursor{}, events.Filter{ID: "car-1"}) {
				if n++; n%(stored/10_000) == 0 {
					break
				}
			}
		}
	})
	b.Run("bare", func(b *testing.B) {
		js, err := jetstream.New(read)
		if err != nil {
			b.Fatal(err)
		}
		b.ReportAllocs()
		n, before := 0, cpu(b)
		for b.Loop() {
			c, err := js.OrderedConsumer(b.Context(), "TELEMETRY_0", jetstream.OrderedConsumerConfig{})
			if err != nil {
				b.Fatal(err)
			}
			msgs, err := c.Messages(pullMessages)
			if err != nil {
				b.Fatal(err)
			}
			for {
				if _, err := msgs.Next(); err != nil {
					b.Fatal(err)
				}
				if n++; n%stored == 0 {
					break
				}
			}
			msgs.Stop()
		}
		report(b, before, n)
	})
}

// cpu is what this process, and the server in it, has used so far.
func cpu(b *testing.B) time.Duration {
	b.Helper()
	var r syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &r); err != nil {
		b.Fatal(err)
	}
	return time.Duration(r.Utime.Nano() + r.Stime.Nano())
}

func report(b *testing.B, before time.Duration, n int) {
	b.Helper()
	b.ReportMetric(float64(n)/b.Elapsed().Seconds(), "events/s")
	b.ReportMetric(float64(cpu(b)-before)/float64(n), "cpu-ns/event")
}

func sample() []events.Event {
	evs := make([]events.Event, 10_000)
	for i := range evs {
		evs[i] = logtest.Telemetry(fmt.Sprint("car-", i), i)
		evs[i].Payload = append(evs[i].Payload, make([]byte, 80)...)
		evs[i].ID = events.DeriveID(evs[i].Stream.ID, evs[i].Type, evs[i].Payload)
	}
	return evs
}
