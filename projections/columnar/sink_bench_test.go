package columnar

import (
	"context"
	"fmt"
	"math"
	"runtime"
	"slices"
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
// (drain: nats.go's ordered consumer, no acknowledgements; follow: ours), inserting the same
// rows, ready-made, into both tables (insert: blocks of 100,000), and the
// writer (sink), without and with roll-ups. sink/(drain+insert) is what
// decoding and exactly-once cost: "ratio" is its median over the rounds;
// "rebuild-of-drain" is the rate of the last against that of the drain. In a
// round the parts follow each other, so that they share the machine's mood.
// Merges wait until a round is over: what takes longer would otherwise pay for
// more of them. The writer's CPU is measured until its checkpoint has
// everything.
func BenchmarkSink(b *testing.B) {
	for name, payload := range map[string]func(int) []byte{"json": jsonOf, "protobuf": protobufOf} {
		b.Run("payload="+name, func(b *testing.B) {
			bb := newBench(b)
			dir := b.TempDir()
			s := startNATS(b, dir, server.RANDOM_PORT)
			defer func() { s.Shutdown(); s.WaitForShutdown() }()
			log, err := jetlog.Open(b.Context(), jetlog.Config{Publish: connectNATS(b, s), Read: connectNATS(b, s, jetlog.Tapped()), Durability: jetlog.OS, StoreDir: dir})
			if err != nil {
				b.Fatal(err)
			}
			defer log.Close()
			js, err := jetstream.New(connectNATS(b, s))
			if err != nil {
				b.Fatal(err)
			}
			const n = 1_000_000
			fillLog(b, bb, log, n, payload)
			costs := map[string][]float64{} // ns of CPU per message
			took := map[string]time.Duration{}
			measure := func(part string, do func()) float64 {
				runtime.GC()
				began, mine, theirs := time.Now(), ownCPU(), cpuOf(b, bb.engine.PID())
				do()
				took[part] = time.Since(began)
				mine, theirs = ownCPU()-mine, cpuOf(b, bb.engine.PID())-theirs
				costs[part+"-client"] = append(costs[part+"-client"], float64(mine)/n)
				costs[part+"-engine"] = append(costs[part+"-engine"], float64(theirs)/n)
				return float64(mine + theirs)
			}
			for b.Loop() {
				bb.exec("SYSTEM STOP MERGES")
				drain := measure("drain", func() { bareDrain(b, js, n) })
				measure("follow", func() { follow(b, log, n) })
				emptyTables(bb)
				w, blocks := readyMade(b, bb, log, n)
				insert := measure("insert", func() { insertReady(b, w, blocks) })
				emptyTables(bb)
				sink := measure("sink", func() { drainInto(b, bb, log, n, time.Hour) })
				expectAll(bb, n)
				emptyTables(bb)
				measure("rollups", func() { drainInto(b, bb, log, n, 0) })
				expectAll(bb, n)
				bb.exec("SYSTEM START MERGES")
				costs["ratio"] = append(costs["ratio"], sink/(drain+insert))
				costs["rebuild-of-drain"] = append(costs["rebuild-of-drain"], float64(took["drain"])/float64(took["rollups"]))
			}
			for part, all := range costs {
				slices.Sort(all)
				unit := part + "-ns/message"
				if part == "ratio" || part == "rebuild-of-drain" {
					unit = part
				}
				b.ReportMetric(all[len(all)/2], unit)
			}
			b.ReportMetric(0, "ns/op")
		})
	}
}

func emptyTables(bb *bench) {
	for _, table := range []string{"events", "position", "checkpoints", "_position_1m", "_position_1h"} {
		bb.exec("TRUNCATE TABLE IF EXISTS tacho." + table)
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

// follow is what the writer reads by, with nothing done.
func follow(b *testing.B, log *jetlog.Log, n int) {
	b.Helper()
	for e, err := range log.Follow(b.Context(), 0, events.Cursor{}) {
		if err != nil {
			b.Fatal(err)
		}
		if e.Position.Seq == uint64(n) {
			return
		}
	}
	b.Fatal("the log ended")
}

// readyMade are the rows of the log's n messages, in blocks for position and
// events, and a writer to insert them with.
func readyMade(b *testing.B, bb *bench, log *jetlog.Log, n int) (*Writer, []*block) {
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
	if err := messageTable(s).ensure(b.Context(), w.conn, "tacho", nil); err != nil {
		b.Fatal(err)
	}
	var blocks []*block
	full := newBatch(memory.NewGoAllocator())
	for e, err := range log.Follow(b.Context(), 0, events.Cursor{}) {
		if err != nil {
			b.Fatal(err)
		}
		if !full.add(&e, s, nil, false) {
			b.Fatal("the block is full")
		}
		if full.events == benchBlock {
			blocks, full = append(blocks, full.seal()...), newBatch(memory.NewGoAllocator())
		}
		if e.Position.Seq == uint64(n) {
			return w, blocks
		}
	}
	b.Fatal("the log ended")
	return nil, nil
}

// expectAll holds the tables against the log.
func expectAll(bb *bench, n int) {
	for _, table := range []string{"position", "events"} {
		bb.expect("SELECT count(), uniqExact(_seq) FROM tacho."+table, fmt.Sprintf("(%d,%[1]d)", n))
	}
}

func insertReady(b *testing.B, w *Writer, blocks []*block) {
	b.Helper()
	for _, blk := range blocks {
		if err := w.insert(b.Context(), w.queryID(fmt.Sprint(w.nextAttempt())), blk, []arrow.Record{blk.record}); err != nil {
			b.Fatal(err)
		}
	}
}

// drainInto runs a writer until the tables have the whole log.
func drainInto(b *testing.B, bb *bench, log *jetlog.Log, n int, rollUpEvery time.Duration) {
	b.Helper()
	w, err := New(Config{Log: log, Catalog: bb.catalog, Server: bb.server, RollUpEvery: rollUpEvery})
	if err != nil {
		b.Fatal(err)
	}
	ctx, cancel := context.WithCancel(b.Context())
	ended := make(chan error, 1)
	go func() { ended <- w.Run(ctx) }()
	for deadline := time.Now().Add(3 * time.Minute); ; time.Sleep(20 * time.Millisecond) {
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
	if rollUpEvery == 0 {
		for rolled := uint64(0); rolled < uint64(n); time.Sleep(100 * time.Millisecond) {
			bb.scan("SELECT max(seq) FROM tacho.checkpoints WHERE table = '_rollups'", &rolled)
		}
	}
	cancel()
	if err := <-ended; err != nil {
		b.Fatal(err)
	}
}
