package columnar

import (
	"context"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/tachograph/tachograph/events"
	"github.com/tachograph/tachograph/schemas"
)

// A bucket is what a roll-up must say, computed sample by sample.
type bucket struct {
	count          uint64
	min, max, sum  float64
	last, lastTime float64
}

func (b *bucket) add(at int64, v float64) {
	if b.count == 0 || v < b.min {
		b.min = v
	}
	if b.count == 0 || v > b.max {
		b.max = v
	}
	if b.count == 0 || float64(at) >= b.lastTime {
		b.last, b.lastTime = v, float64(at)
	}
	b.count++
	b.sum += v
}

// rollUpSite sends random samples and knows what the roll-ups must hold.
type rollUpSite struct {
	*bench
	random *rand.Rand
	want   map[string]map[string]*bucket // view, then device signal start
	sent   int
}

func newRollUpSite(t *testing.T, seed uint64) *rollUpSite {
	t.Logf("seed %d", seed)
	return &rollUpSite{bench: newBench(t), random: rand.New(rand.NewPCG(seed, 7)), want: map[string]map[string]*bucket{"position_1m": {}, "position_1h": {}}}
}

// sample sends one, late more often than not, sometimes twice or unreadable.
func (s *rollUpSite) sample() {
	s.sent++
	device := fmt.Sprintf("car-%d", s.random.IntN(3))
	at := int64(1_700_000_000_000) + int64(s.sent)*1000 - int64(s.random.IntN(7_200_000))
	switch s.random.IntN(12) {
	case 0:
		s.send(device, "position", `{"time":1,"speed":"fast"}`)
		return
	case 1: // a batch, with a speed in every other sample
		s.send(device, "position", fmt.Sprintf(`[{"time":%d,"speed":1,"latitude":-2.5},{"time":%d,"latitude":7}]`, at, at+1))
		s.note(device, "speed", at, 1)
		s.note(device, "latitude", at, -2.5)
		s.note(device, "latitude", at+1, 7)
		return
	}
	v := float64(s.random.IntN(1000)) / 4
	payload := fmt.Sprintf(`{"time":%d,"speed":%v,"heading":%d}`, at, v, s.sent)
	s.send(device, "position", payload)
	if s.random.IntN(6) == 0 {
		s.send(device, "position", payload)
	}
	s.note(device, "speed", at, v)
	s.note(device, "heading", at, float64(s.sent))
}

func (s *rollUpSite) note(device, signal string, at int64, v float64) {
	for view, seconds := range map[string]int64{"position_1m": 60, "position_1h": 3600} {
		key := fmt.Sprintf("%s %s %d", device, signal, at/1000/seconds*seconds)
		b := s.want[view][key]
		if b == nil {
			b = &bucket{}
			s.want[view][key] = b
		}
		b.add(at, v)
	}
}

// judge holds the roll-ups against what they must be.
func (s *rollUpSite) judge() {
	s.t.Helper()
	conn, err := s.server.Open()
	if err != nil {
		s.t.Fatal(err)
	}
	defer conn.Close()
	for view, want := range s.want {
		rows, err := conn.Query(s.t.Context(), "SELECT concat(device, ' ', signal, ' ', toString(toUnixTimestamp64Second(time))), count, min, max, avg, last, toFloat64(toUnixTimestamp64Milli(toDateTime64(last_time, 3))) FROM tacho."+view)
		if err != nil {
			s.t.Fatal(err)
		}
		n := 0
		for rows.Next() {
			var key string
			var got bucket
			var avg float64
			if err := rows.Scan(&key, &got.count, &got.min, &got.max, &avg, &got.last, &got.lastTime); err != nil {
				s.t.Fatal(err)
			}
			w := want[key]
			if w == nil || w.count != got.count || w.min != got.min || w.max != got.max || w.last != got.last || w.lastTime != got.lastTime || math.Abs(avg*float64(got.count)-w.sum) > 1e-6*math.Abs(w.sum)+1e-6 {
				s.t.Errorf("%s %s: %+v avg %v, want %+v", view, key, got, avg, w)
			}
			n++
		}
		if rows.Close(); rows.Err() != nil || n != len(want) {
			s.t.Fatalf("%s: %d buckets, want %d: %v", view, n, len(want), rows.Err())
		}
	}
}

// rolledWriter starts a writer that rolls up all the time.
func (s *rollUpSite) rolledWriter(fault func(string) error) (w *Writer, stop func() error) {
	s.t.Helper()
	w, err := New(Config{Log: s.log, Catalog: s.catalog, Server: s.server, MaxAge: 5 * time.Millisecond, RollUpEvery: time.Millisecond, Fault: fault})
	if err != nil {
		s.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() {
		ended <- w.Run(ctx)
	}()
	return w, func() error { cancel(); return <-ended }
}

// settle waits until the roll-ups have everything.
func (s *rollUpSite) settle(w *Writer) {
	s.t.Helper()
	s.await(w)
	tail, err := s.log.Tail(s.t.Context(), 0)
	if err != nil {
		s.t.Fatal(err)
	}
	for deadline := time.Now().Add(3 * time.Minute); ; time.Sleep(10 * time.Millisecond) {
		var seq uint64
		s.scan("SELECT max(seq) FROM tacho.checkpoints WHERE table = '_rollups'", &seq)
		if seq == tail.Seq {
			return
		}
		if time.Now().After(deadline) {
			s.t.Fatalf("roll-ups at %d of %d: %+v", seq, tail.Seq, w.Status())
		}
	}
}

// TestRollUps: exact under late data, repeats, batches, unknown outcomes at every
// step, writers that stop and start, and an engine killed with -9.
func TestRollUps(t *testing.T) {
	s := newRollUpSite(t, uint64(time.Now().UnixNano()))
	lost := errors.New("lost")
	rounds := 8
	if testing.Short() {
		rounds = 3
	}
	for round := range rounds {
		faults := rand.New(rand.NewPCG(s.random.Uint64(), 1)) // the writer's goroutine's own
		_, stop := s.rolledWriter(func(step string) error {
			if (strings.Contains(step, "roll") || strings.HasPrefix(step, "sent")) && faults.IntN(10) == 0 {
				return lost // after a step is done it ends the writer, as a crash would
			}
			return nil
		})
		for range 60 {
			s.sample()
			if s.random.IntN(20) == 0 {
				time.Sleep(10 * time.Millisecond)
			}
		}
		time.Sleep(time.Duration(s.random.IntN(500)) * time.Millisecond)
		if round%3 == 1 {
			if p, err := os.FindProcess(s.engine.PID()); err == nil {
				_ = p.Kill() // it may still be dead from the last time
			}
		}
		if err := stop(); err != nil && !errors.Is(err, lost) {
			t.Fatal(err)
		}
	}
	w, stop := s.rolledWriter(nil)
	s.settle(w)
	s.judge()
	if err := stop(); err != nil {
		t.Fatal(err)
	}
}

// TestRollUpsOfAStart: after a start only types with samples that the roll-ups lack are
// passed over, and what came while no writer ran is among them.
func TestRollUpsOfAStart(t *testing.T) {
	b := newBench(t)
	moment := 1_700_000_000_000
	passes := func(sent ...string) string {
		t.Helper()
		for _, typ := range sent {
			moment++
			b.send("car-1", typ, fmt.Sprintf(`{"time":%d,"speed":5,"hvac_ambient_air_temperature":20}`, moment))
		}
		var passes []string
		w, stop := b.start(0, func(step string) error { // steps are the writer's goroutine's
			if view, ok := strings.CutPrefix(step, "roll up "); ok && !strings.HasSuffix(view, " done") {
				passes = append(passes, view)
			}
			return nil
		})
		b.await(w)
		b.awaitRollUps()
		if err := stop(); err != nil {
			t.Fatal(err)
		}
		return strings.Join(passes, " ")
	}
	for _, c := range []struct{ sent, want string }{
		{"position", "position_1m position_1h"},
		{"cabin", "cabin_1m cabin_1h"},
		{"nonesuch", ""},
		{"position cabin", "cabin_1m cabin_1h position_1m position_1h"},
	} {
		if got := passes(strings.Fields(c.sent)...); got != c.want {
			t.Errorf("with new samples of %s the passes were %q, not %q", c.sent, got, c.want)
		}
	}
	for _, view := range []string{"position_1m", "cabin_1h"} {
		if got := b.query("SELECT sum(count) FROM tacho." + view); got != "(2)" {
			t.Errorf("%s has %s samples", view, got)
		}
	}
}

// TestRollUpsOutliveSamples: a sample that comes late for a bucket whose samples
// have expired is added to it.
func TestRollUpsOutliveSamples(t *testing.T) {
	long(t)
	s := newRollUpSite(t, 1)
	w, stop := s.rolledWriter(nil)
	for range 100 {
		s.sample()
	}
	s.settle(w)
	s.exec("TRUNCATE TABLE tacho.position")
	for range 100 {
		s.sample()
	}
	s.settle(w)
	s.judge()
	if err := stop(); err != nil {
		t.Fatal(err)
	}
}

// TestRollUpsOfWholeNumbers: integers are as they were beyond 2^53, in a column
// that gets wider, in one that comes later, and at times before 1970; of two
// samples at the same time the later in the log is the last, also over a split.
func TestRollUpsOfWholeNumbers(t *testing.T) {
	long(t)
	s := &rollUpSite{bench: newBench(t)}
	w, stop := s.rolledWriter(nil)
	add := func(fields string) {
		t.Helper()
		src := schemas.Source{Format: schemas.FormatProto, Text: `syntax = "proto3"; import "google/protobuf/timestamp.proto"; message Meter { google.protobuf.Timestamp time = 1; ` + fields + ` }`}
		if _, _, err := s.catalog.Add(t.Context(), "meter", src); err != nil {
			t.Fatal(err)
		}
	}
	add("optional uint32 turns = 2; optional uint64 total = 3;")
	s.send("car", "meter", `{"time":"2024-01-01T00:00:01Z","turns":4294967295,"total":"18446744073709551615"}`)
	s.send("car", "meter", `{"time":"2024-01-01T00:00:01Z","turns":7,"total":"18446744073709551614"}`)
	s.settle(w)
	add("optional int64 turns = 2; optional uint64 total = 3; optional double level = 4;")
	s.send("car", "meter", `{"time":"2024-01-01T00:00:00.5Z","turns":"-9007199254740993","level":-0.25}`)
	s.send("car", "meter", `{"time":"1950-05-01T00:00:59Z","turns":"9223372036854775807"}`)
	s.settle(w)
	s.expect("SELECT toString(time), turns_count, turns_min, turns_max, turns_last, toString(turns_last_time), total_max, total_last, total_avg, level_last FROM tacho.meter_1m_wide ORDER BY time",
		"('1950-05-01 00:00:00',1,9223372036854775807,9223372036854775807,9223372036854775807,'1950-05-01 00:00:59.000000',NULL,NULL,NULL,NULL) "+
			"('2024-01-01 00:00:00',3,-9007199254740993,4294967295,7,'2024-01-01 00:00:01.000000',18446744073709551615,18446744073709551614,18446744073709552000,-0.25)")
	s.expect("SELECT signal, count, min, max, avg, last FROM tacho.meter_1h WHERE device = 'car' AND time > '2000-01-01' AND signal = 'level'", "('level',1,-0.25,-0.25,-0.25,-0.25)")

	mover := "car-0"
	for n := 1; events.NewLayout(2).PartitionOf(events.Slot(mover)) == 0; n++ {
		mover = fmt.Sprint("car-", n)
	}
	s.send(mover, "meter", `{"time":"2024-01-01T00:00:01Z","turns":8}`)
	s.settle(w)
	if err := errors.Join(stop(), s.log.Split(2)); err != nil {
		t.Fatal(err)
	}
	s.send(mover, "meter", `{"time":"2024-01-01T00:00:01Z","turns":7}`) // another partition's first
	w, stop = s.start(1, nil)
	s.await(w)
	s.awaitRollUps()
	s.expect(fmt.Sprintf("SELECT turns_count, turns_max, turns_last FROM tacho.meter_1m_wide WHERE device = '%s'", mover), "(2,8,7)")
	if err := stop(); err != nil {
		t.Fatal(err)
	}
}

// TestRollUpsOfADamagedPart: samples that cannot be read stop the roll-ups, not
// what still comes in; once they can be read the roll-ups are as they should be.
func TestRollUpsOfADamagedPart(t *testing.T) {
	long(t)
	b := newBench(t)
	w, stop := b.start(0, nil)
	b.drive(0, 50)
	b.await(w)
	b.awaitRollUps()
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	hold := make(chan struct{})
	w, stop = b.start(0, func(step string) error { // until the part is damaged
		if strings.HasPrefix(step, "roll up") {
			<-hold
		}
		return nil
	})
	b.exec("ALTER TABLE tacho.position MODIFY SETTING max_bytes_to_merge_at_max_space_in_pool = 1")
	b.drive(50, 50)
	for deadline := time.Now().Add(3 * time.Minute); b.query("SELECT max(seq) FROM tacho.checkpoints WHERE partition = 0 AND table = 'events'") == "(50)"; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("nothing new is inserted")
		}
	}
	var path string
	b.scan("SELECT argMax(path, min_block_number) FROM system.parts WHERE database = 'tacho' AND table = 'position' AND active", &path)
	there, err := os.ReadFile(path + "data.bin")
	if err != nil {
		t.Fatal(err)
	}
	for at := 10; at < len(there); at += 40 { // whatever column a pass needs
		flipByte(t, path+"data.bin", func([]byte) int { return at })
	}
	close(hold)
	for deadline := time.Now().Add(3 * time.Minute); !strings.Contains(w.Status().LastError, "is damaged"); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%+v", w.Status())
		}
	}
	b.drive(100, 50)
	b.await(w)
	f, err := os.OpenFile(path+"data.bin", os.O_RDWR, 0)
	if err == nil {
		_, err = f.WriteAt(there, 0)
	}
	if err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	b.judge(0, 150, 150)
	b.judgeRollUps()
	if err := stop(); err != nil {
		t.Fatal(err)
	}
}
