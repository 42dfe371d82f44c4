package columnar

import (
	"context"
	"fmt"
	"os"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/ClickHouse/clickhouse-go/v2"
	"github.com/apache/arrow/go/v15/arrow"
	"github.com/apache/arrow/go/v15/arrow/array"
	"github.com/apache/arrow/go/v15/arrow/memory"

	"github.com/tachograph/tachograph/events"
	"github.com/tachograph/tachograph/schemas"
)

const benchBlock = 100_000 // rows of a block

// benchEvent is a JSON message of 8 fields and about 150 bytes, of one of
// 10,000 devices.
func benchEvent(n int, version uint32) events.Event {
	payload := fmt.Appendf(nil, `{"time":%d,"latitude":%d.520008,"longitude":13.404954,"altitude":34.5,"heading":271.3,"speed":48.25,"horizontal_accuracy":3.5,"is_moving":true}`,
		1700000000000+n, n%90)
	device := fmt.Sprintf("car-%05d", n%10_000)
	return events.Event{
		Stream: events.Stream{Kind: events.Telemetry, ID: device}, Type: "position", Schema: version,
		ID: events.DeriveID(device, "position", payload), Payload: payload,
		Position: events.Position{Epoch: 1, Seq: uint64(n + 1)}, Received: time.UnixMicro(1_700_000_000_000_000 + int64(n)),
	}
}

// A meter tells rates, and the CPU time of this process and of the engine.
type meter struct {
	b            *testing.B
	bench        *bench
	mine, theirs time.Duration
}

func (b *bench) meter(tb *testing.B) *meter {
	return &meter{tb, b, ownCPU(), cpuOf(tb, b.engine.PID())}
}

func (m *meter) report(rows int, unit string) {
	m.b.ReportMetric(float64(rows)/m.b.Elapsed().Seconds(), unit+"s/s")
	m.b.ReportMetric(float64((ownCPU()-m.mine).Nanoseconds())/float64(rows), "client-ns/"+unit)
	m.b.ReportMetric(float64((cpuOf(m.b, m.bench.engine.PID())-m.theirs).Nanoseconds())/float64(rows), "engine-ns/"+unit)
	m.b.ReportMetric(0, "ns/op")
}

func ownCPU() time.Duration {
	var u syscall.Rusage
	if syscall.Getrusage(syscall.RUSAGE_SELF, &u) != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// cpuOf reads utime and stime, the 14th and 15th field of /proc/PID/stat, in
// ticks of 10 ms.
func cpuOf(tb testing.TB, pid int) time.Duration {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		tb.Fatal(err)
	}
	f := strings.Fields(string(stat[strings.LastIndexByte(string(stat), ')')+1:]))
	user, _ := strconv.Atoi(f[11])
	system, _ := strconv.Atoi(f[12])
	return time.Duration(user+system) * 10 * time.Millisecond
}

// BenchmarkInsert brings one ready-made block of 100,000 rows into the same
// table, time and again: as the writer does it, and through clickhouse-go's
// columns over the native protocol without compression, the way that people
// know as the fast one.
func BenchmarkInsert(b *testing.B) {
	bb := newBench(b)
	s, _ := bb.catalog.Schemas().Current("position")
	ctx := b.Context()
	w, err := New(Config{Log: bb.log, Catalog: bb.catalog, Server: bb.server})
	if err != nil {
		b.Fatal(err)
	}
	defer w.conn.Close()
	defer w.client.CloseIdleConnections()
	if err := w.resume(ctx); err != nil {
		b.Fatal(err)
	}
	if err := messageTable(s).ensure(ctx, w.conn, "tacho", nil); err != nil {
		b.Fatal(err)
	}
	full := newBatch(memory.NewGoAllocator())
	for n := range benchBlock {
		full.add(new(benchEvent(n, s.Version())), s, nil, false)
	}
	blk := full.seal()[0]
	user, password := bb.engine.Writer()
	conn, err := clickhouse.Open(&clickhouse.Options{Addr: []string{bb.engine.NativeAddr()}, Auth: clickhouse.Auth{Username: user, Password: password}})
	if err != nil {
		b.Fatal(err)
	}
	defer conn.Close()
	names, columns := goColumns(b, blk)

	ways := []struct {
		name   string
		insert func() error
	}{
		{"way=writer", func() error {
			return w.insert(ctx, w.queryID(fmt.Sprint(w.nextAttempt())), blk, []arrow.Record{blk.record})
		}},
		{"way=clickhouse-go", func() error {
			batch, err := conn.PrepareBatch(ctx, "INSERT INTO tacho.position ("+names+")")
			if err != nil {
				return err
			}
			for i, c := range columns {
				if err := batch.Column(i).Append(c); err != nil {
					return fmt.Errorf("%s: %w", blk.columns[i].Name, err)
				}
			}
			return batch.Send()
		}},
	}
	for _, way := range ways {
		b.Run(way.name, func(b *testing.B) {
			bb.exec("TRUNCATE TABLE tacho.position")
			m, rows := bb.meter(b), 0
			for b.Loop() {
				if err := way.insert(); err != nil {
					b.Fatal(err)
				}
				rows += benchBlock
			}
			m.report(rows, "row")
		})
	}
}

// goColumns are a block's columns as the slices that clickhouse-go takes.
func goColumns(tb testing.TB, blk *block) (names string, columns []any) {
	for i, c := range blk.record.Columns() {
		if i > 0 {
			names += ", "
		}
		names += quote(blk.columns[i].Name)
		nullable := strings.Contains(blk.columns[i].Type, "Nullable(")
		switch c := c.(type) {
		case *array.String:
			columns = append(columns, goColumn(c, nullable, c.Value))
		case *array.Float64:
			columns = append(columns, goColumn(c, nullable, c.Value))
		case *array.Float32:
			columns = append(columns, goColumn(c, nullable, c.Value))
		case *array.Boolean:
			columns = append(columns, goColumn(c, nullable, c.Value))
		case *array.Int32:
			columns = append(columns, goColumn(c, nullable, c.Value))
		case *array.Uint16:
			columns = append(columns, goColumn(c, nullable, c.Value))
		case *array.Uint32:
			columns = append(columns, goColumn(c, nullable, c.Value))
		case *array.Uint64:
			columns = append(columns, goColumn(c, nullable, c.Value))
		case *array.Timestamp:
			columns = append(columns, goColumn(c, nullable, func(i int) time.Time { return c.Value(i).ToTime(arrow.Microsecond) }))
		default:
			tb.Fatalf("column %s: %T", blk.columns[i].Name, c)
		}
	}
	return names, columns
}

func goColumn[T any](c arrow.Array, nullable bool, value func(int) T) any {
	plain, pointers := make([]T, c.Len()), make([]*T, c.Len())
	for i := range plain {
		plain[i] = value(i)
		if !c.IsNull(i) {
			pointers[i] = &plain[i]
		}
	}
	if nullable {
		return pointers
	}
	return plain
}

// BenchmarkWriter is the whole way from a log in memory to two tables: read,
// decode, insert, checkpoint; with roll-ups (rate: until they are complete, the
// pause before a pass included) and without. 6 samples fall into a minute of a
// device.
func BenchmarkWriter(b *testing.B) {
	bb := newBench(b)
	s, _ := bb.catalog.Schemas().Current("position")
	const n = 500_000
	for i := range n {
		if err := bb.log.Enqueue(b.Context(), benchEvent(i, s.Version()), func(err error) {
			if err != nil {
				b.Error(err)
			}
		}); err != nil {
			b.Fatal(err)
		}
	}
	for _, rolled := range []bool{false, true} {
		b.Run(fmt.Sprintf("rollups=%t", rolled), func(b *testing.B) {
			var m *meter
			messages := 0
			for b.Loop() {
				b.StopTimer()
				for _, table := range []string{"events", "position", "checkpoints", "_position_1m", "_position_1h"} {
					bb.exec("TRUNCATE TABLE IF EXISTS tacho." + table)
				}
				cfg := Config{Log: bb.log, Catalog: bb.catalog, Server: bb.server, RollUpEvery: time.Hour}
				if rolled {
					cfg.RollUpEvery = 0 // as usual
				}
				b.StartTimer()
				if m == nil {
					m = bb.meter(b)
				}
				w, err := New(cfg)
				if err != nil {
					b.Fatal(err)
				}
				ctx, cancel := context.WithCancel(b.Context())
				ended := make(chan error, 1)
				go func() { ended <- w.Run(ctx) }()
				bb.await(w)
				if rolled {
					bb.awaitRollUps()
				}
				cancel()
				if err := <-ended; err != nil {
					b.Fatal(err)
				}
				messages += n
			}
			m.report(messages, "message")
			bb.judge(0, n, n)
		})
	}
}

// BenchmarkBuild is the writer's own share: payload to sealed columns.
func BenchmarkBuild(b *testing.B) {
	bb := newBench(b)
	s, _ := bb.catalog.Schemas().Current("position")
	evs := make([]events.Event, 10_000)
	for i := range evs {
		evs[i] = benchEvent(i, s.Version())
	}
	r := newRepeats()
	mem := schemas.NewRecycler(memory.NewGoAllocator(), 256<<20)
	full := newBatch(mem)
	b.ReportAllocs()
	n := 0
	for b.Loop() {
		e := evs[n%len(evs)]
		n++
		e.Position.Seq = uint64(n)
		r.fold(&e)
		full.add(&e, s, nil, false)
		if full.rows >= 200_000 {
			for _, blk := range full.seal() {
				blk.release()
			}
			full = newBatch(mem)
		}
	}
}
