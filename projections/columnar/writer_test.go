package columnar

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/tachograph/tachograph/events"
	"github.com/tachograph/tachograph/events/memlog"
	"github.com/tachograph/tachograph/projections/catalog"
	"github.com/tachograph/tachograph/projections/columnar/engine"
	"github.com/tachograph/tachograph/projections/columnar/engine/enginetest"
	"github.com/tachograph/tachograph/schemas"
	"github.com/tachograph/tachograph/schemas/vehicle"
)

var seeds = flag.Int("seeds", 40, "runs of TestCrashes")

func TestMain(m *testing.M) { enginetest.Main(m) }

// A bench is a log in memory, a catalog at work and a real ClickHouse.
type bench struct {
	t       testing.TB
	log     *memlog.Log
	catalog *catalog.Catalog
	engine  *engine.Engine
	server  Server

	age, patience time.Duration // of the writers it starts
}

// long leaves a test out of the short ones, which are there for the race detector:
// most of its time is ClickHouse's, and others do the same with the goroutines.
func long(t testing.TB) {
	t.Helper()
	if testing.Short() {
		t.Skip("long: make test runs this")
	}
}

func newBench(t testing.TB) *bench {
	t.Helper()
	return newBenchOf(t, memlog.Options{})
}

func newBenchOf(t testing.TB, o memlog.Options) *bench {
	t.Helper()
	log := memlog.New(o)
	t.Cleanup(func() { log.Close() })
	c := openCatalog(t, log)
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- c.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	e := enginetest.Start(t)
	user, password := e.Writer()
	return &bench{t: t, age: 20 * time.Millisecond, log: log, catalog: c, engine: e, server: Server{URL: "http://" + e.HTTPAddr(), User: user, Password: password}}
}

// openCatalog has three of the vehicle's messages. Each has seven tables and views to be
// made, replayed and verified; services/node does that with all of them.
func openCatalog(t testing.TB, log events.Log) *catalog.Catalog {
	t.Helper()
	few := slices.DeleteFunc(vehicle.Schemas(), func(n vehicle.Named) bool {
		return !slices.Contains([]string{"cabin", "position", "powertrain"}, n.Name)
	})
	c, err := catalog.OpenWith(t.Context(), log, slog.New(slog.DiscardHandler), few)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// start runs a writer; the function it returns stops it and answers its error.
func (b *bench) start(partition uint16, fault func(string) error) (w *Writer, stop func() error) {
	b.t.Helper()
	w, err := New(Config{
		Log: b.log, Catalog: b.catalog, Partition: partition, Server: b.server, Fault: fault, MaxAge: b.age, Patience: b.patience, RollUpEvery: b.age,
		Logger: slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelError})),
	})
	if err != nil {
		b.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- w.Run(ctx) }()
	return w, func() error {
		cancel()
		err, ok := <-ended
		if ok {
			close(ended)
		}
		return err
	}
}

func (b *bench) send(device, typ, payload string) events.Event {
	b.t.Helper()
	e := events.Event{
		Stream: events.Stream{Kind: events.Telemetry, ID: device}, Type: typ,
		ID: events.DeriveID(device, typ, []byte(payload)), Payload: []byte(payload),
	}
	if s, ok := b.catalog.Schemas().Current(typ); ok {
		e.Schema = s.Version()
	}
	done := make(chan error, 1)
	if err := b.log.Enqueue(b.t.Context(), e, func(err error) { done <- err }); err != nil {
		b.t.Fatal(err)
	}
	if err := <-done; err != nil {
		b.t.Fatal(err)
	}
	return e
}

func (b *bench) await(w *Writer) {
	b.t.Helper()
	for deadline := time.Now().Add(3 * time.Minute); ; time.Sleep(5 * time.Millisecond) {
		s := w.Status()
		tail, err := b.log.Tail(b.t.Context(), w.cfg.Partition)
		if err != nil {
			b.t.Fatal(err)
		}
		if s.Position.Seq == tail.Seq {
			return
		}
		if time.Now().After(deadline) {
			b.t.Fatalf("not caught up: %+v, tail %v", s, tail)
		}
	}
}

// query answers one text: the columns of all rows, joined by ClickHouse.
func (b *bench) query(sql string) string {
	b.t.Helper()
	conn, err := b.server.Open()
	if err != nil {
		b.t.Fatal(err)
	}
	defer conn.Close()
	var got string
	if err := conn.QueryRow(b.t.Context(), "SELECT arrayStringConcat(groupArray(x), ' ') FROM (SELECT toString(tuple(*)) AS x FROM ("+sql+"))").Scan(&got); err != nil {
		b.t.Fatalf("%s: %v", sql, err)
	}
	return got
}

func (b *bench) exec(sql string) {
	b.t.Helper()
	conn, err := b.server.Open()
	if err != nil {
		b.t.Fatal(err)
	}
	defer conn.Close()
	if err := conn.Exec(b.t.Context(), sql); err != nil {
		b.t.Fatalf("%s: %v", sql, err)
	}
}

func (b *bench) expect(sql, want string) {
	b.t.Helper()
	if got := b.query(sql); got != want {
		b.t.Fatalf("%s\ngot  %s\nwant %s", sql, got, want)
	}
}

func TestEventsBecomeRows(t *testing.T) {
	b := newBench(t)
	w, stop := b.start(0, nil)
	b.send("car.1", "position", `{"time":1700000000000,"latitude":52.5,"speed":48,"route":"M41"}`)
	b.send("car.1", "position", `[{"time":1700000001000,"latitude":1},{"time":1700000002000,"latitude":"x"},{"time":1700000003000,"latitude":3}]`)
	b.send("car.1", "position", `{"time":`)
	b.send("car.1", "mystery", `{"time":1700000009000,"a":1}`)
	b.await(w)
	b.expect("SELECT device, toUnixTimestamp64Milli(time), latitude, speed, _unknown, _seq, _row FROM tacho.position ORDER BY _seq, _row",
		`('car.1',1700000000000,52.5,48,'{"route":"M41"}',1,0) ('car.1',1700000001000,1,NULL,'',2,0) ('car.1',1700000003000,3,NULL,'',2,2)`)
	b.expect("SELECT device, kind, message, toUnixTimestamp64Milli(time), schema, _seq FROM tacho.events WHERE kind = 'telemetry' AND message != 'position' OR _seq = 1 ORDER BY _seq",
		"('car.1','telemetry','position',1700000000000,1,1) ('car.1','telemetry','mystery',1700000009000,0,4)")
	b.expect("SELECT sample, reason, payload, _seq FROM tacho.dead_letters ORDER BY _seq",
		`(1,'wrong_type','{"time":1700000002000,"latitude":"x"}',2) (0,'truncated','{"time":',3)`)
	tail, err := b.log.Tail(t.Context(), events.DeadLetterPartition)
	if err != nil || tail.Seq != 2 {
		t.Fatalf("dead letters in the log: %v, %v", tail, err)
	}
	if s := w.Status(); s.Rows != 3 || s.Parked != 2 || s.Events != 4 || !s.CaughtUp {
		t.Fatalf("%+v", s)
	}
	if err := stop(); err != nil {
		t.Fatal(err)
	}

	control, stop := b.start(events.ControlPartition, nil)
	b.await(control)
	b.expect("SELECT kind, device, message FROM tacho.events WHERE kind = 'schema' AND device = 'position'", "('schema','position','registered')")
	b.expect("SELECT count() FROM tacho.powertrain", "(0)") // a schema has its table before its first message
	if err := stop(); err != nil {
		t.Fatal(err)
	}
}

func TestSchemaGrowsMidStream(t *testing.T) {
	b := newBench(t)
	w, stop := b.start(0, nil)
	add := func(fields string) {
		t.Helper()
		src := schemas.Source{Format: schemas.FormatProto, Text: `syntax = "proto3"; import "google/protobuf/timestamp.proto"; message Tyre { google.protobuf.Timestamp time = 1; ` + fields + ` }`}
		if _, _, err := b.catalog.Add(t.Context(), "tyre", src); err != nil {
			t.Fatal(err)
		}
	}
	add("optional int32 pressure = 2;")
	b.send("car", "tyre", `{"time":1700000000000,"pressure":240,"wheel":"fl"}`)
	add("optional int64 pressure = 2; optional string wheel = 3;")
	b.send("car", "tyre", `{"time":1700000001000,"pressure":9007199254740993,"wheel":"fr"}`)
	b.await(w)
	b.expect("SELECT pressure, wheel, _unknown FROM tacho.tyre ORDER BY _seq", `(240,NULL,'{"wheel":"fl"}') (9007199254740993,'fr','')`)
	if err := stop(); err != nil {
		t.Fatal(err)
	}
}

// TestDivergedLog: a log that is shorter than what the tables have is noticed.
func TestDivergedLog(t *testing.T) {
	b := newBench(t)
	w, stop := b.start(0, nil)
	for n := range 5 {
		b.send("car", "position", fmt.Sprintf(`{"time":%d,"speed":1}`, 1700000000000+n))
	}
	b.await(w)
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	b.log.Truncate(0, 3)
	b.send("car", "position", `{"time":1700000000100,"speed":2}`)
	b.send("car", "position", `{"time":1700000000200,"speed":2}`)
	w, err := New(Config{Log: b.log, Catalog: b.catalog, Server: b.server})
	if err != nil {
		t.Fatal(err)
	}
	if err := w.Run(t.Context()); !errors.Is(err, events.ErrDiverged) {
		t.Fatalf("want a diverged log, got %v", err)
	}
	if s := w.Status(); s.CaughtUp || !strings.Contains(s.LastError, events.ErrDiverged.Error()) {
		t.Errorf("it has stopped, and says %+v", s)
	}
}

var errCrash = errors.New("crash")

// judge holds the tables to the log.
func (b *bench) judge(seed uint64, n, samples int) {
	b.t.Helper()
	for table, want := range map[string]int{"events": n, "position": samples} {
		got := b.query(fmt.Sprintf("SELECT count(), uniqExact(_seq, %s) FROM tacho.%s WHERE _partition = 0", map[bool]string{true: "_row", false: "0"}[table == "position"], table))
		if want := fmt.Sprintf("(%d,%d)", want, want); got != want {
			b.t.Fatalf("seed %d: %s has (rows, different ones) %s, want %s", seed, table, got, want)
		}
	}
}

// deviceTime spreads samples over hours; each eleventh is up to a day late.
func deviceTime(n int) int {
	at := 1700000000000 + n*5000
	if n%11 == 0 {
		at -= n % 24 * 3_600_000
	}
	return at
}

// TestCrashes ends the writer at random steps, before or after them, and kills
// the engine under it; whatever happens, every event is there once,
// in the roll-ups too.
func TestCrashes(t *testing.T) {
	runs := *seeds
	if testing.Short() {
		runs = min(runs, 6)
	}
	b := newBench(t)
	n, samples := 0, 0
	for seed := range uint64(runs) {
		r := rand.New(rand.NewPCG(seed, 3))
		var steps atomic.Int64
		crashAt := int64(1 + r.IntN(30))
		w, stop := b.start(0, func(step string) error {
			switch k := steps.Add(1); {
			case k == crashAt:
				return errCrash
			case k == crashAt+1 && seed%2 == 1:
				return context.DeadlineExceeded // an outcome nobody knows
			}
			return nil
		})
		killed := make(chan struct{})
		go func() {
			defer close(killed)
			if seed%3 == 0 {
				time.Sleep(time.Duration(r.IntN(150)) * time.Millisecond)
				_ = syscall.Kill(b.engine.PID(), syscall.SIGKILL)
			}
		}()
		for range 300 {
			if n%7 == 0 {
				b.send(fmt.Sprint("car-", n%5), "position", fmt.Sprintf(`[{"time":%d,"speed":%d},{"time":%d,"speed":2}]`, deviceTime(n), n%131, deviceTime(n)+1))
				samples += 2
			} else {
				b.send(fmt.Sprint("car-", n%5), "position", fmt.Sprintf(`{"time":%d,"speed":%d}`, deviceTime(n), n%113))
				samples++
			}
			n++
			if n%50 == 0 {
				time.Sleep(10 * time.Millisecond)
			}
		}
		<-killed
		_ = stop()
		_ = w
	}
	w, stop := b.start(0, nil)
	b.await(w)
	b.judge(0, n, samples)
	b.judgeRollUps()
	if err := stop(); err != nil {
		t.Fatal(err)
	}
}
