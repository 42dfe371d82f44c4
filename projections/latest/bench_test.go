package latest

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/tachograph/tachograph/events"
	"github.com/tachograph/tachograph/events/jetlog"
)

// fleet are the events of 100 cars that each send a sample in turn.
func fleet(n int) []events.Event {
	evs := make([]events.Event, n)
	for i := range evs {
		at := noon.Add(time.Duration(i) * time.Millisecond)
		payload := fmt.Sprintf(`{"time":%d,"latitude":52.%06d,"longitude":13.%06d,"altitude":%d.5,"heading":%d,"speed":%d.25,"horizontal_accuracy":3.5,"is_moving":true}`,
			at.UnixMilli(), i%1000000, i*7%1000000, i%90, i%360, i%130)
		evs[i] = eventAt(i+1, "position", 1, payload, at)
		evs[i].Stream.ID = fmt.Sprintf("car-%d", i%100)
	}
	return evs
}

// BenchmarkFold is the fold alone: bytes to states, 12 samples a car and write.
func BenchmarkFold(b *testing.B) {
	registry := builtIn(b)
	schema, _ := registry.Current("position")
	const n = 1200
	evs := fleet(n)
	bytes := 0
	for i := range evs {
		bytes += len(evs[i].Payload)
	}
	f := newFolder(Rules{})
	states := map[string]*State{}
	for i := range evs {
		states[evs[i].Stream.ID] = &State{Device: evs[i].Stream.ID}
	}
	b.SetBytes(int64(bytes))
	b.ReportAllocs()
	seq := uint64(0)
	for b.Loop() {
		for i := range evs {
			seq++
			e := evs[i]
			e.Position.Seq = seq
			f.add(states[e.Stream.ID], &e, schema)
		}
		f.evolve()
	}
	b.ReportMetric(float64(n)*float64(b.N)/b.Elapsed().Seconds(), "events/s")
}

// BenchmarkDocument is one state to JSON and back.
func BenchmarkDocument(b *testing.B) {
	evs := fleet(1)
	evs[0].Stream.ID = "car-1"
	state := foldAll(b, builtIn(b), evs)
	text := state.AppendJSON(nil)
	b.Run("write", func(b *testing.B) {
		b.ReportAllocs()
		b.SetBytes(int64(len(text)))
		for b.Loop() {
			text = state.AppendJSON(text[:0])
		}
	})
	b.Run("read", func(b *testing.B) {
		b.ReportAllocs()
		b.SetBytes(int64(len(text)))
		for b.Loop() {
			var s State
			if err := s.UnmarshalJSON(text); err != nil {
				b.Fatal(err)
			}
		}
	})
}

// BenchmarkRebuild is the whole projection, bytes in JetStream to documents in
// the bucket, the same log just read as the projection does (follow), and by
// nats.go's ordered consumer (bare). The last write waits for its turn, which
// costs a rebuild up to one flush interval.
func BenchmarkRebuild(b *testing.B) {
	const n = 300_000
	s := newSite(b)
	srv, js := startServer(b, b.TempDir(), 0)
	s.js = js
	connect := func(opts ...nats.Option) *nats.Conn {
		nc, err := nats.Connect(srv.ClientURL(), opts...)
		if err != nil {
			b.Fatal(err)
		}
		b.Cleanup(nc.Close)
		return nc
	}
	log, err := jetlog.Open(b.Context(), jetlog.Config{Publish: connect(), Read: connect(jetlog.Tapped()), Durability: jetlog.OS, Logger: s.logger})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { log.Close() })
	failed := make(chan error, 1)
	for _, e := range fleet(n) {
		if err := log.Enqueue(b.Context(), e, func(err error) {
			if err != nil {
				select {
				case failed <- err:
				default:
				}
			}
		}); err != nil {
			b.Fatal(err)
		}
	}
	for tail := (events.Position{}); tail.Seq < n; time.Sleep(10 * time.Millisecond) {
		select {
		case err := <-failed:
			b.Fatal(err)
		default:
		}
		if tail, err = log.Tail(b.Context(), 0); err != nil {
			b.Fatal(err)
		}
	}
	b.Run("bare", func(b *testing.B) {
		reader, err := jetstream.New(connect())
		if err != nil {
			b.Fatal(err)
		}
		b.ReportAllocs()
		for b.Loop() {
			c, err := reader.OrderedConsumer(b.Context(), "TELEMETRY_0", jetstream.OrderedConsumerConfig{})
			if err != nil {
				b.Fatal(err)
			}
			messages, err := c.Messages(jetstream.PullMaxMessages(5000))
			if err != nil {
				b.Fatal(err)
			}
			for range n {
				if _, err := messages.Next(); err != nil {
					b.Fatal(err)
				}
			}
			messages.Stop()
		}
		b.ReportMetric(n*float64(b.N)/b.Elapsed().Seconds(), "events/s")
	})
	b.Run("follow", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			for e, err := range log.Follow(b.Context(), 0, events.Cursor{}) {
				if err != nil {
					b.Fatal(err)
				}
				if e.Position.Seq == n {
					break
				}
			}
		}
		b.ReportMetric(n*float64(b.N)/b.Elapsed().Seconds(), "events/s")
	})
	b.Run("latest", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			b.StopTimer()
			s.kv = s.bucket(BucketConfig(1))
			cfg := s.config()
			cfg.Log, cfg.Flush = log, 0
			p, err := New(cfg)
			if err != nil {
				b.Fatal(err)
			}
			b.StartTimer()
			ctx, cancel := context.WithCancel(b.Context())
			done := make(chan error, 1)
			go func() { done <- p.Run(ctx) }()
			for p.Status().Position.Seq < n {
				time.Sleep(5 * time.Millisecond)
			}
			cancel()
			if err := <-done; err != nil {
				b.Fatal(err)
			}
		}
		b.ReportMetric(n*float64(b.N)/b.Elapsed().Seconds(), "events/s")
	})
}
