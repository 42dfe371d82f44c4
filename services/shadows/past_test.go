package shadows_test

import (
	"context"
	"fmt"
	"iter"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/tachograph/tachograph/events"
	"github.com/tachograph/tachograph/events/memlog"
	"github.com/tachograph/tachograph/projections/shadow"
	"github.com/tachograph/tachograph/services/shadows"
)

var pastShadow = events.Stream{Kind: events.Shadow, ID: "car-1"}

// longHistory appends n facts of one shadow, many at a time, and before each lot
// calls tick.
func longHistory(t testing.TB, log events.Log, n, lot int, tick func()) {
	t.Helper()
	for from := 0; from < n; from += lot {
		tick()
		var facts []events.Event
		for i := from; i < min(n, from+lot); i++ {
			section := "reported"
			if i%7 == 0 {
				section = "desired"
			}
			payload := fmt.Sprintf(`{"version":%d,"at":%d,"by":"device",%q:{"s%d":%d,"mode":{"level":%d}}}`, i+1, 1_700_000_000_000+i, section, i%40, i, i%9)
			facts = append(facts, events.Event{Stream: pastShadow, Type: shadow.TypeUpdated, ID: events.UniqueID(), Payload: []byte(payload)})
		}
		if _, err := log.Append(t.Context(), events.Any, facts...); err != nil {
			t.Fatal(err)
		}
	}
}

// wholeFold is the shadow at a time by all of its facts.
func wholeFold(t testing.TB, log events.Log, at time.Time) (doc shadow.Document, position events.Position) {
	t.Helper()
	for e, err := range log.Read(t.Context(), pastShadow, events.Latest) {
		if err != nil {
			t.Fatal(err)
		}
		if e.Received.After(at) {
			break
		}
		f, err := shadow.ParseFact(e.Type, e.Payload)
		if err != nil {
			t.Fatal(err)
		}
		doc, position = doc.Evolve(f), e.Position
	}
	return doc, position
}

// A counting log counts what is read of single streams.
type counting struct {
	events.Log
	after *uint64
}

func (c counting) ReadAfter(ctx context.Context, s events.Stream, after, upTo events.Position) iter.Seq2[events.Event, error] {
	*c.after = after.Seq
	return c.Log.ReadAfter(ctx, s, after, upTo)
}

// TestPast: a look at the past of a shadow with a long history begins near the
// moment and is the whole fold, though clocks go backwards; its history can be
// read from anywhere.
func TestPast(t *testing.T) {
	const n, lot = 40_000, 100
	now := time.Date(2026, 11, 1, 0, 0, 0, 0, time.UTC)
	began, began2 := now, 0
	log := memlog.New(memlog.Options{Now: func() time.Time { return now }})
	t.Cleanup(func() { log.Close() })
	random := rand.New(rand.NewPCG(1, 2))
	longHistory(t, log, n, lot, func() {
		began2++
		now = now.Add(time.Minute)
		if began2%50 == 0 {
			now = now.Add(-10 * time.Minute)
		}
	})
	after := uint64(0)
	s := open(t, counting{log, &after}, shadows.Limits{})
	var positions []events.Position
	for e, err := range log.Read(t.Context(), pastShadow, events.Latest) {
		if err != nil {
			t.Fatal(err)
		}
		positions = append(positions, e.Position)
	}
	near := 0
	for i := range 12 {
		at := began.Add(time.Duration(random.Int64N(int64(now.Sub(began)))))
		if i == 0 {
			at = began
		}
		doc, position, err := s.At(t.Context(), "car-1", "", at)
		want, there := wholeFold(t, log, at)
		if err != nil || position != there || string(doc.Get(0, "")) != string(want.Get(0, "")) {
			t.Fatalf("at %s: %v, %v and %v\n%s\n%s", at, err, position, there, doc.Get(0, ""), want.Get(0, ""))
		}
		if there.Seq > 0 && there.Seq-after < n/32 {
			near++
		}
	}
	if near < 9 {
		t.Errorf("%d of 12 looks began near their moment", near)
	}
	for range 5 {
		i := random.IntN(n)
		var got []events.Position
		for c, err := range s.History(t.Context(), "car-1", "", positions[i]) {
			if err != nil || c.Document.Version != uint64(i+2+len(got)) {
				t.Fatal(c.Document.Version, i, err)
			}
			if got = append(got, c.Position); len(got) == 3 {
				break
			}
		}
		if want := positions[i+1 : min(n, i+4)]; !slices.Equal(got, want) {
			t.Errorf("after %d: %v, want %v", i, got, want)
		}
	}
}

// BenchmarkPast looks at random moments of a shadow of 100,000 versions in a log on
// JetStream, beside one whole fold of it.
func BenchmarkPast(b *testing.B) {
	log := jetLog(b)
	began := time.Now()
	longHistory(b, log, 100_000, 1000, func() {})
	ended := time.Now()
	s := open(b, log, shadows.Limits{})
	whole := time.Now()
	wholeFold(b, log, ended)
	b.ReportMetric(float64(time.Since(whole).Microseconds())/1000, "whole-ms")
	random := rand.New(rand.NewPCG(1, 2))
	var times []time.Duration
	for b.Loop() {
		from := time.Now()
		if _, _, err := s.At(b.Context(), "car-1", "", began.Add(time.Duration(random.Int64N(int64(ended.Sub(began)))))); err != nil {
			b.Fatal(err)
		}
		times = append(times, time.Since(from))
	}
	slices.Sort(times)
	for name, share := range map[string]int{"p50-ms": 50, "p99-ms": 99, "max-ms": 100} {
		b.ReportMetric(float64(times[(len(times)-1)*share/100].Microseconds())/1000, name)
	}
}
