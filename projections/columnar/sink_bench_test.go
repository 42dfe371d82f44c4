package columnar

import (
	"context"
	"fmt"
	"math"
	"testing"
	"time"

	"github.com/apache/arrow/go/v15/arrow"
	"github.com/apache/arrow/go/v15/arrow/memory"
	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go/jetstream"
	"google.golang.org/protobuf/encoding/protowire"

	"github.com/tachograph/tachograph/events"
	"github.com/tachograph/tachograph/events/jetlog"
)

// BenchmarkSink compares the way from a real log into two tables with its
// parts, as CPU of all processes together: reading the log with nothing done
// (drain: nats.go's ordered consumer, no acknowledgements), inserting
// ready-made rows into both tables (insert: blocks of 100,000), and the writer
// (sink), without and with roll-ups. sink / (drain + insert) is what decoding
// and exactly-once cost. The writer's CPU is measured until its checkpoint has
// everything; merges that run on are not in it, nor are they in insert.
func BenchmarkSink(b *testing.B) {
	for name, payload := range map[string]func(int) []byte{"json": jsonOf, "protobuf": protobufOf} {
		b.Run("payload="+name, func(b *testing.B) {
			bb := newBench(b)
			dir := b.TempDir()
			s := startNATS(b, dir, server.RANDOM_PORT)
			defer func() { s.Shutdown(); s.WaitForShutdown() }()
			log, err := jetlog.Open(b.Context(), jetlog.Config{Publish: connectNATS(b, s), Read: connectNATS(b, s), Durability: jetlog.OS, StoreDir: dir})
			if err != nil {
				b.Fatal(err)
			}
			defer log.Close()
			const n = 1_000_000
			fillLog(b, bb, log, n, payload)
			b.Run("part=drain", func(b *testing.B) {
				js, err := jetstream.New(connectNATS(b, s))
				if err != nil {
					b.Fatal(err)
				}
				m, messages := bb.meter(b), 0
				for b.Loop() {
					messages += bareDrain(b, js, n)
				}
				m.report(messages, "message")
			})
			b.Run("part=insert", func(b *testing.B) {
				w, blocks := readyMade(b, bb, payload)
				m, messages := bb.meter(b), 0
				for b.Loop() {
					for range n / benchBlock {
						for _, blk := range blocks {
							if err := w.insert(b.Context(), w.queryID(fmt.Sprint(w.nextAttempt())), blk, []arrow.Record{blk.record}); err != nil {
								b.Fatal(err)
							}
						}
					}
					messages += n
				}
				m.report(messages, "message")
			})
			for _, every := range []time.Duration{time.Hour, 0} {
				b.Run(fmt.Sprintf("part=sink/rollups=%t", every == 0), func(b *testing.B) { benchSink(b, bb, log, n, every) })
			}
		})
	}
}

func jsonOf(n int) []byte { return benchEvent(n, 0).Payload }

// protobufOf is the same message as jsonOf, as the built-in position.proto has it.
func protobufOf(n int) []byte {
	at := protowire.AppendVarint(protowire.AppendTag(nil, 1, protowire.VarintType), uint64(1_700_000_000+n/1000))
	at = protowire.AppendVarint(protowire.AppendTag(at, 2, protowire.VarintType), uint64(n%1000*1_000_000))
	wire := protowire.AppendBytes(protowire.AppendTag(nil, 1, protowire.BytesType), at)
	for field, v := range map[protowire.Number]float64{2: float64(n%90) + 0.520008, 3: 13.404954, 4: 34.5, 5: 271.3, 7: 3.5} {
		wire = protowire.AppendFixed64(protowire.AppendTag(wire, field, protowire.Fixed64Type), math.Float64bits(v))
	}
	wire = protowire.AppendFixed32(protowire.AppendTag(wire, 6, protowire.Fixed32Type), math.Float32bits(48.25))
	return protowire.AppendVarint(protowire.AppendTag(wire, 8, protowire.VarintType), 1)
}

// fillLog appends n messages of 10,000 devices.
func fillLog(b *testing.B, bb *bench, log *jetlog.Log, n int, payload func(int) []byte) {
	b.Helper()
	s, _ := bb.catalog.Schemas().Current("position")
	failed := make(chan error, n)
	for i := range n {
		e := benchEvent(i, s.Version())
		e.Payload = payload(i)
		e.ID, e.Position = events.DeriveID(e.Stream.ID, e.Type, e.Payload), events.Position{}
		if err := log.Enqueue(b.Context(), e, func(err error) { failed <- err }); err != nil {
			b.Fatal(err)
		}
	}
	for range n {
		if err := <-failed; err != nil {
			b.Fatal(err)
		}
	}
}

func bareDrain(b *testing.B, js jetstream.JetStream, n int) int {
	b.Helper()
	names := js.StreamNames(b.Context())
	for name := range names.Name() {
		stream, err := js.Stream(b.Context(), name)
		if err != nil {
			b.Fatal(err)
		}
		if stream.CachedInfo().State.Msgs < uint64(n) {
			continue
		}
		c, err := stream.OrderedConsumer(b.Context(), jetstream.OrderedConsumerConfig{})
		if err != nil {
			b.Fatal(err)
		}
		messages, err := c.Messages(jetstream.PullMaxMessages(5000))
		if err != nil {
			b.Fatal(err)
		}
		defer messages.Stop()
		for range n {
			if _, err := messages.Next(); err != nil {
				b.Fatal(err)
			}
		}
		return n
	}
	b.Fatal("no stream has the messages")
	return 0
}

// readyMade are blocks for position and events, and a writer to insert them with.
func readyMade(b *testing.B, bb *bench, payload func(int) []byte) (*Writer, []*block) {
	b.Helper()
	s, _ := bb.catalog.Schemas().Current("position")
	w, err := New(Config{Log: bb.log, Catalog: bb.catalog, Server: bb.server})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { w.conn.Close(); w.client.CloseIdleConnections() })
	if err := w.resume(b.Context()); err != nil {
		b.Fatal(err)
	}
	if err := ensureTable(b.Context(), w.conn, "tacho", s); err != nil {
		b.Fatal(err)
	}
	full := newBatch(memory.NewGoAllocator())
	for n := range benchBlock {
		e := benchEvent(n, s.Version())
		e.Payload = payload(n)
		if !full.add(e, s, nil, false) {
			b.Fatal("the block is full")
		}
	}
	return w, full.seal()
}

func benchSink(b *testing.B, bb *bench, log *jetlog.Log, n int, every time.Duration) {
	var m *meter
	messages := 0
	for b.Loop() {
		b.StopTimer()
		for _, table := range []string{"events", "position", "checkpoints", "_position_1m", "_position_1h"} {
			bb.exec("TRUNCATE TABLE IF EXISTS tacho." + table)
		}
		w, err := New(Config{Log: log, Catalog: bb.catalog, Server: bb.server, RollUpEvery: every})
		if err != nil {
			b.Fatal(err)
		}
		ctx, cancel := context.WithCancel(b.Context())
		ended := make(chan error, 1)
		b.StartTimer()
		if m == nil {
			m = bb.meter(b)
		}
		go func() { ended <- w.Run(ctx) }()
		for deadline := time.Now().Add(2 * time.Minute); ; time.Sleep(20 * time.Millisecond) {
			w.mu.Lock()
			done := w.status.Position.Seq == uint64(n)
			w.mu.Unlock()
			if done {
				break
			}
			if time.Now().After(deadline) {
				b.Fatalf("not caught up: %+v", w.Status())
			}
		}
		if every == 0 {
			for rolled := uint64(0); rolled < uint64(n); time.Sleep(100 * time.Millisecond) {
				bb.scan("SELECT max(seq) FROM tacho.checkpoints WHERE table = '_rollups'", &rolled)
			}
		}
		cancel()
		if err := <-ended; err != nil {
			b.Fatal(err)
		}
		messages += n
	}
	m.report(messages, "message")
	bb.expect("SELECT count(), uniqExact(_seq) FROM tacho.position", fmt.Sprintf("(%d,%[1]d)", n))
	bb.expect("SELECT count(), uniqExact(_seq) FROM tacho.events", fmt.Sprintf("(%d,%[1]d)", n))
}
