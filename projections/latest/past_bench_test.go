package latest

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/tachograph/tachograph/events"
	"github.com/tachograph/tachograph/events/jetlog"
	"github.com/tachograph/tachograph/projections/catalog"
)

// A longDrive is a device with a long history in a log on JetStream: a sample each
// 100 ms by its clock; after each 50,000 it is in a tunnel, and what it measured
// there comes when it is out again, after 600 newer ones; some single samples are
// as old as the device. Beside it are a tenth as many events of other devices.
type longDrive struct {
	log         *jetlog.Log
	js          jetstream.JetStream
	kv          jetstream.KeyValue
	catalog     *catalog.Catalog
	snapshots   *Snapshots
	site        *site
	first, last time.Time // samples, by the device's clock
	began, end  time.Time // arrivals
}

const (
	driveEvery  = 100 * time.Millisecond
	tunnelEvery = 50_000
	tunnel      = 2_400 // samples that wait for the end of it
	outside     = 600   // that come before them
)

// measured is the number of the sample that the i-th message carries.
func measured(i, n int, random *rand.Rand) int {
	if random.IntN(100_000) == 0 {
		return random.IntN(i + 1)
	}
	switch at := i % tunnelEvery; {
	case i/tunnelEvery == n/tunnelEvery, at >= tunnel+outside:
		return i
	case at < outside:
		return i + tunnel
	}
	return i - outside
}

// newLongDrive fills a log with n messages of car-1, or goes on with the one that
// TACHO_PAST_DIR names, and waits until they are folded.
func newLongDrive(b *testing.B, n int) *longDrive {
	dir := os.Getenv("TACHO_PAST_DIR")
	if dir == "" {
		dir = b.TempDir()
	}
	d := &longDrive{site: newSite(b)}
	srv, js := startServer(b, dir, 0)
	connect := func() *nats.Conn {
		nc, err := nats.Connect(srv.ClientURL())
		if err != nil {
			b.Fatal(err)
		}
		b.Cleanup(nc.Close)
		return nc
	}
	var err error
	if d.log, err = jetlog.Open(b.Context(), jetlog.Config{Publish: connect(), Read: connect(), Durability: jetlog.OS, Logger: d.site.logger}); err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { d.log.Close() })
	d.js, d.site.js = js, js
	if d.catalog, err = catalog.Open(b.Context(), d.log, d.site.logger); err != nil {
		b.Fatal(err)
	}
	current, _ := builtIn(b).Current("position")
	if _, _, err := d.catalog.Add(b.Context(), "position", current.Source()); err != nil {
		b.Fatal(err)
	}
	if d.kv, err = js.CreateOrUpdateKeyValue(b.Context(), BucketConfig(1)); err != nil {
		b.Fatal(err)
	}
	if d.snapshots, err = OpenSnapshots(b.Context(), js, 1, 0); err != nil {
		b.Fatal(err)
	}
	p, stop := d.site.start(Config{Log: d.log, Catalog: d.catalog, KV: d.kv, Snapshots: d.snapshots, Logger: d.site.logger})
	bounds, err := d.log.Bounds(b.Context(), 0)
	if err != nil {
		b.Fatal(err)
	}
	base := time.Date(2026, 11, 1, 0, 0, 0, 0, time.UTC)
	d.first, d.last = base, base.Add(time.Duration(n-1)*driveEvery)
	if bounds.Newest.Seq == 0 {
		d.fill(b, n, base)
	}
	for deadline := time.Now().Add(time.Hour); ; time.Sleep(50 * time.Millisecond) {
		if st := p.Status(); st.CaughtUp && st.Tail > 0 && st.Position.Seq == st.Tail {
			break
		}
		if time.Now().After(deadline) {
			b.Fatal("not folded within an hour")
		}
	}
	if err := stop(); err != nil {
		b.Fatal(err)
	}
	d.began, d.end = d.arrivals(b)
	return d
}

func (d *longDrive) fill(b *testing.B, n int, base time.Time) {
	random := rand.New(rand.NewPCG(1, 2))
	failed := make(chan error, 1)
	send := func(device string, number int) {
		payload := fmt.Appendf(nil, `{"time":%d,"latitude":%.6f,"longitude":13.4,"altitude":34.5,"heading":%d,"speed":%.1f,"accuracy":3.5}`,
			base.Add(time.Duration(number)*driveEvery).UnixMilli(), 52+float64(number%10000)/1e4, number%360, float64(number%1300)/10)
		e := events.Event{Stream: events.Stream{Kind: events.Telemetry, ID: device}, Type: "position", Schema: 1, ID: events.DeriveID(device, "position", payload), Payload: payload}
		if err := d.log.Enqueue(b.Context(), e, func(err error) {
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
	for i := range n {
		send("car-1", measured(i, n, random))
		if i%10 == 9 {
			send("car-"+strconv.Itoa(2+i/10%97), i)
		}
		select {
		case err := <-failed:
			b.Fatal(err)
		default:
		}
	}
}

// arrivals are those of the log's first and last event.
func (d *longDrive) arrivals(b *testing.B) (first, last time.Time) {
	bounds, err := d.log.Bounds(b.Context(), 0)
	if err != nil {
		b.Fatal(err)
	}
	at := bounds.Newest
	at.Seq--
	for _, from := range []events.Position{{}, at} {
		for e, err := range d.log.ReadAfter(b.Context(), events.Stream{Kind: events.Telemetry, ID: "car-1"}, from, events.Latest) {
			if err != nil {
				b.Fatal(err)
			}
			if last = e.Received; first.IsZero() {
				first = last
			}
			break
		}
	}
	return first.Truncate(time.Microsecond), last.Truncate(time.Microsecond)
}

// BenchmarkPast looks at random moments of a device with a long history, TACHO_EVENTS
// of it (1,000,000; 10,000,000 is what issue-sized figures are made with), as the log
// knew it and by the device's clock. Then several looks are held against the whole
// fold. TACHO_PAST_DIR names a folder where the log stays for the next run.
func BenchmarkPast(b *testing.B) {
	n := 1_000_000
	if text := os.Getenv("TACHO_EVENTS"); text != "" {
		var err error
		if n, err = strconv.Atoi(text); err != nil {
			b.Fatal(err)
		}
	}
	d := newLongDrive(b, n)
	past := &Past{Log: d.log, Catalog: d.catalog, Snapshots: d.snapshots, Logger: d.site.logger}
	random := rand.New(rand.NewPCG(3, 4))
	for _, by := range []struct {
		name     string
		from, to time.Time
		look     func(at time.Time) (State, error)
	}{
		{"arrival", d.began, d.end, func(at time.Time) (State, error) { return past.At(b.Context(), "car-1", at) }},
		{"device", d.first, d.last, func(at time.Time) (State, error) { return past.ByDevice(b.Context(), "car-1", at) }},
	} {
		moment := func() time.Time {
			return by.from.Add(time.Duration(random.Int64N(int64(by.to.Sub(by.from)) + 1))).Truncate(time.Microsecond)
		}
		b.Run(by.name, func(b *testing.B) {
			var times []time.Duration
			for b.Loop() {
				at := moment()
				from := time.Now()
				state, err := by.look(at)
				if err != nil || state.Events == 0 && by.name == "device" {
					b.Fatal(at, state.Events, err)
				}
				times = append(times, time.Since(from))
			}
			slices.Sort(times)
			for name, share := range map[string]int{"p50-ms": 50, "p99-ms": 99, "max-ms": 100} {
				b.ReportMetric(float64(times[(len(times)-1)*share/100].Microseconds())/1000, name)
			}
		})
		b.Run(by.name+"/equal", func(b *testing.B) {
			if os.Getenv("TACHO_PAST_EQUAL") == "" && n > 1_000_000 {
				b.Skip("TACHO_PAST_EQUAL is not set: the whole fold takes minutes")
			}
			for b.Loop() {
				d.equal(b, by.name, []time.Time{moment(), moment(), moment(), moment(), by.from, by.to}, by.look)
			}
		})
	}
}

// equal holds looks against whole folds, which share one reading of the log.
func (d *longDrive) equal(b *testing.B, by string, moments []time.Time, look func(time.Time) (State, error)) {
	type whole struct {
		state  State
		folder *folder
	}
	var all []*whole
	for _, at := range moments {
		rules := Rules{}
		if by == "device" {
			rules.Until = at
		}
		all = append(all, &whole{State{Device: "car-1"}, newFolder(rules)})
	}
	schema, ok := d.catalog.Schemas().Version("position", 1)
	if !ok {
		b.Fatal(errors.New("no schema"))
	}
	for e, err := range d.log.Read(b.Context(), events.Stream{Kind: events.Telemetry, ID: "car-1"}, events.Latest) {
		if err != nil {
			b.Fatal(err)
		}
		for i, w := range all {
			if by == "arrival" && e.Received.Truncate(time.Microsecond).After(moments[i]) { // as an archive keeps it
				continue
			}
			if w.folder.add(&w.state, &e, schema); w.folder.pending >= foldBytes {
				w.folder.evolve()
			}
		}
	}
	for i, w := range all {
		w.folder.evolve()
		short, err := look(moments[i])
		if err != nil {
			b.Fatal(err)
		}
		if got, want := string(short.AppendJSON(nil)), string(w.state.AppendJSON(nil)); got != want {
			b.Fatalf("by %s at %s:\nsnapshots %s\nwhole     %s", by, moments[i], got, want)
		}
	}
}
