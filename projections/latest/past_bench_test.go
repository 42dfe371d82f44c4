package latest

import (
	"fmt"
	"os"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/tachograph/tachograph/events"
	"github.com/tachograph/tachograph/events/jetlog"
)

// BenchmarkPast looks at random moments of a device with a long history, TACHO_EVENTS
// of them (1,000,000; 10,000,000 is what issue-sized figures are made with), beside
// a tenth as many of other devices, by snapshots; then once by the whole fold, which
// must give the same.
func BenchmarkPast(b *testing.B) {
	n := 1_000_000
	if text := os.Getenv("TACHO_EVENTS"); text != "" {
		var err error
		if n, err = strconv.Atoi(text); err != nil {
			b.Fatal(err)
		}
	}
	s := newSite(b)
	srv, js := startServer(b, b.TempDir(), 0)
	connect := func() *nats.Conn {
		nc, err := nats.Connect(srv.ClientURL())
		if err != nil {
			b.Fatal(err)
		}
		b.Cleanup(nc.Close)
		return nc
	}
	log, err := jetlog.Open(b.Context(), jetlog.Config{Publish: connect(), Read: connect(), Durability: jetlog.OS, Logger: s.logger})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { log.Close() })
	s.js = js
	s.kv = s.bucket(BucketConfig(1))
	snapshots, err := OpenSnapshots(b.Context(), js, 1, 0)
	if err != nil {
		b.Fatal(err)
	}
	registry := builtIn(b)
	current, _ := registry.Current("position")
	if _, _, err := s.catalog.Add(b.Context(), "position", current.Source()); err != nil {
		b.Fatal(err)
	}
	p, stop := s.start(Config{Log: log, Catalog: s.catalog, KV: s.kv, Snapshots: snapshots, Logger: s.logger})
	began := time.Now()
	sent := began.Add(-time.Duration(n) * 100 * time.Millisecond)
	for i := range n {
		device := "car-1"
		if i%11 == 10 {
			device = "car-" + strconv.Itoa(2+i%97)
		}
		payload := fmt.Appendf(nil, `{"time":%d,"latitude":%.6f,"longitude":13.4,"altitude":34.5,"heading":%d,"speed":%.1f,"accuracy":3.5}`,
			sent.Add(time.Duration(i)*100*time.Millisecond).UnixMilli(), 52+float64(i%10000)/1e4, i%360, float64(i%1300)/10)
		e := events.Event{Stream: events.Stream{Kind: events.Telemetry, ID: device}, Type: "position", Schema: 1, ID: events.DeriveID(device, "position", payload), Payload: payload}
		if err := log.Enqueue(b.Context(), e, func(error) {}); err != nil {
			b.Fatal(err)
		}
	}
	s.caughtUp(p)
	ended := time.Now()
	if err := stop(); err != nil {
		b.Fatal(err)
	}
	past := &Past{Log: log, Catalog: s.catalog, Snapshots: snapshots, Logger: s.logger}
	var times []time.Duration
	at := began
	b.ResetTimer()
	for i := 0; b.Loop(); i++ {
		at = began.Add(ended.Sub(began) * time.Duration(1+(i*37)%100) / 100)
		from := time.Now()
		state, err := past.At(b.Context(), "car-1", at)
		if err != nil || state.Events == 0 {
			b.Fatal(state.Events, err)
		}
		times = append(times, time.Since(from))
	}
	b.StopTimer()
	slices.Sort(times)
	b.ReportMetric(float64(times[len(times)/2].Microseconds())/1000, "p50-ms")
	b.ReportMetric(float64(times[len(times)-1].Microseconds())/1000, "max-ms")
	from := time.Now()
	if err := past.Verify(b.Context(), "car-1", at); err != nil {
		b.Fatal(err)
	}
	b.ReportMetric(float64(time.Since(from).Milliseconds()), "whole-ms")
}
