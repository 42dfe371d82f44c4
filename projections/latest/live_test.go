package latest

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"log/slog"
	"math/rand/v2"
	"net"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/tachograph/tachograph/events"
	"github.com/tachograph/tachograph/events/memlog"
	"github.com/tachograph/tachograph/projections/catalog"
	"github.com/tachograph/tachograph/schemas"
)

// A place with a log in memory and a bucket on a real server.
type site struct {
	t       testing.TB
	log     *memlog.Log
	catalog *catalog.Catalog
	js      jetstream.JetStream
	kv      jetstream.KeyValue
	logs    strings.Builder
	logger  *slog.Logger
}

var noon = time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)

func newSite(t testing.TB) *site {
	t.Helper()
	s := &site{t: t}
	s.logger = slog.New(slog.NewTextHandler(&s.logs, nil))
	s.log = memlog.New(memlog.Options{})
	t.Cleanup(func() { s.log.Close() })
	var err error
	if s.catalog, err = catalog.Open(t.Context(), s.log, slog.New(slog.DiscardHandler)); err != nil {
		t.Fatal(err)
	}
	_, s.js = startServer(t, t.TempDir(), 0)
	s.kv = s.bucket(BucketConfig(1))
	return s
}

func startServer(t testing.TB, dir string, port int) (*server.Server, jetstream.JetStream) {
	t.Helper()
	if port == 0 {
		port = server.RANDOM_PORT
	}
	srv, err := server.NewServer(&server.Options{Host: "127.0.0.1", Port: port, JetStream: true, StoreDir: dir, NoSigs: true})
	if err != nil {
		t.Fatal(err)
	}
	srv.Start()
	t.Cleanup(func() { srv.Shutdown(); srv.WaitForShutdown() })
	if !srv.ReadyForConnections(10 * time.Second) {
		t.Fatal("the server did not start")
	}
	nc, err := nats.Connect(srv.ClientURL(), nats.MaxReconnects(-1), nats.ReconnectWait(20*time.Millisecond))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	js, err := jetstream.New(nc, jetstream.WithDefaultTimeout(2*time.Second))
	if err != nil {
		t.Fatal(err)
	}
	return srv, js
}

// bucket makes the bucket anew.
func (s *site) bucket(cfg jetstream.KeyValueConfig) jetstream.KeyValue {
	s.t.Helper()
	_ = s.js.DeleteKeyValue(s.t.Context(), Bucket) // it may not be there
	// The server removes a stream's files while its flusher may still write one, and then refuses for a moment to make a
	// stream of that name.
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		kv, err := s.js.CreateKeyValue(s.t.Context(), cfg)
		if err == nil {
			return kv
		}
		if time.Now().After(deadline) {
			s.t.Fatal(err)
		}
	}
}

func (s *site) send(device, typ string, version uint32, payload string) events.Event {
	s.t.Helper()
	e := events.Event{Stream: events.Stream{Kind: events.Telemetry, ID: device}, Type: typ, ID: events.UniqueID(), Schema: version, Payload: []byte(payload)}
	if err := s.log.Enqueue(s.t.Context(), e, func(error) {}); err != nil {
		s.t.Fatal(err)
	}
	return e
}

func (s *site) config() Config {
	return Config{Log: s.log, Catalog: s.catalog, KV: s.kv, Flush: 2 * time.Millisecond, Logger: s.logger}
}

// start runs a projection until the test ends or stop is called.
func (s *site) start(cfg Config) (p *Projection, stop func() error) {
	s.t.Helper()
	p, err := New(cfg)
	if err != nil {
		s.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(s.t.Context())
	done := make(chan error, 1)
	go func() { done <- p.Run(ctx) }()
	return p, func() error { cancel(); return <-done }
}

func (s *site) eventually(what string, ok func() bool) {
	s.t.Helper()
	for range 1000 {
		if ok() {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	s.t.Fatalf("waited in vain: %s", what)
}

func (s *site) caughtUp(p *Projection) {
	s.t.Helper()
	s.eventually("caught up", func() bool { st := p.Status(); return st.CaughtUp && st.Lag == 0 && st.Position.Seq == st.Tail })
}

// documents are all of the bucket, by device.
func (s *site) documents() map[string]string {
	s.t.Helper()
	all := map[string]string{}
	keys, err := s.kv.Keys(s.t.Context())
	if err != nil && !errors.Is(err, jetstream.ErrNoKeysFound) {
		s.t.Fatal(err)
	}
	for _, key := range keys {
		if strings.HasPrefix(key, "=position.") {
			continue
		}
		e, err := s.kv.Get(s.t.Context(), key)
		if err != nil {
			s.t.Fatal(err)
		}
		device, err := events.Unescape(key)
		if err != nil {
			s.t.Fatal(err)
		}
		all[device] = string(e.Value())
	}
	return all
}

// folded is what the documents have to be.
func (s *site) folded() map[string]string {
	s.t.Helper()
	all := map[string]string{}
	for _, device := range devicesOf(s.all()) {
		state, err := Fold(device, s.log.Read(s.t.Context(), events.Stream{Kind: events.Telemetry, ID: device}, events.Latest), s.catalog.Schemas(), Rules{})
		if err != nil {
			s.t.Fatal(err)
		}
		all[device] = string(state.appendKept(nil))
	}
	return all
}

func (s *site) all() []events.Event {
	s.t.Helper()
	tail, err := s.log.Tail(s.t.Context(), 0)
	if err != nil {
		s.t.Fatal(err)
	}
	var evs []events.Event
	if tail.Seq == 0 {
		return nil
	}
	for e, err := range s.log.Follow(s.t.Context(), 0, events.Cursor{}) {
		if err != nil {
			s.t.Fatal(err)
		}
		if evs = append(evs, e); e.Position.Seq == tail.Seq {
			break
		}
	}
	return evs
}

func devicesOf(evs []events.Event) []string {
	var all []string
	for i := range evs {
		if d := evs[i].Stream.ID; !slices.Contains(all, d) {
			all = append(all, d)
		}
	}
	return all
}

func equal(t testing.TB, what string, got, want map[string]string) {
	t.Helper()
	for device := range want {
		if got[device] != want[device] {
			t.Fatalf("%s: %s\ngot  %s\nwant %s", what, device, got[device], want[device])
		}
	}
	if len(got) != len(want) {
		t.Fatalf("%s: %d documents, want %d", what, len(got), len(want))
	}
}

// A random message: sane and odd times, batches, partial samples, bad ones,
// types without a schema.
func message(r *rand.Rand) (typ string, version uint32, payload string) {
	sample := func() string {
		at := time.Now().Add(time.Duration(r.IntN(7200)-3600) * time.Second)
		switch r.IntN(12) {
		case 0:
			at = at.Add(30 * 24 * time.Hour)
		case 1:
			at = time.Date(1980, 1, 6, 0, 0, r.IntN(60), 0, time.UTC)
		}
		parts := []string{}
		if r.IntN(8) > 0 {
			parts = append(parts, fmt.Sprintf(`"time":%d`, at.Unix()*1000)) // coarse: some are equal
		}
		for _, f := range []string{"latitude", "longitude", "speed", "heading", "mystery"} {
			if r.IntN(2) == 0 {
				parts = append(parts, fmt.Sprintf(`"%s":%d.5`, f, r.IntN(80)))
			}
		}
		if r.IntN(6) == 0 {
			parts = append(parts, `"altitude":null`)
		}
		if r.IntN(10) == 0 {
			parts = append(parts, `"is_moving":"perhaps"`) // does not decode
		}
		return "{" + strings.Join(parts, ",") + "}"
	}
	switch r.IntN(8) {
	case 0:
		return fmt.Sprintf("alien_%d", r.IntN(70)), 0, sample()
	case 1:
		return "diagnostics", 1, fmt.Sprintf(`{"time":%d,"dtc_list":["P0%d"]}`, time.Now().UnixMilli()-int64(r.IntN(100000)), r.IntN(999))
	case 2:
		return "position", 1, "\x00 not a message"
	case 3, 4:
		all := make([]string, 1+r.IntN(5))
		for i := range all {
			all[i] = sample()
		}
		return "position", 1, "[" + strings.Join(all, ",") + "]"
	default:
		return "position", 1, sample()
	}
}

func (s *site) sendRandom(r *rand.Rand, n int) {
	for range n {
		typ, version, payload := message(r)
		s.send([]string{"car-1", "car 2", "ca.r>3", "*"}[r.IntN(4)], typ, version, payload)
	}
}

func TestLiveEqualsRebuildEqualsFold(t *testing.T) {
	s := newSite(t)
	r := rand.New(rand.NewPCG(1, 2))
	p, stop := s.start(s.config())
	for range 20 {
		s.sendRandom(r, 25)
		time.Sleep(time.Millisecond)
	}
	s.caughtUp(p)
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	want := s.folded()
	equal(t, "live", s.documents(), want)
	st := p.Status()
	if st.Events != 500 || st.Rows == 0 || st.Parked == 0 || st.Name != "latest" {
		t.Errorf("status %+v", st)
	}

	s.kv = s.bucket(BucketConfig(1))
	p, stop = s.start(s.config())
	s.caughtUp(p)
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	equal(t, "rebuilt", s.documents(), want)
}

func TestCrashesChangeNothing(t *testing.T) {
	for seed := range uint64(6) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			s := newSite(t)
			r := rand.New(rand.NewPCG(seed, 7))
			cfg := s.config()
			cfg.Devices = 2 // read back all the time
			crash := fmt.Errorf("crash: %w", errDamaged)
			for range 12 {
				s.sendRandom(r, 40)
				var left atomic.Int64
				left.Store(int64(r.IntN(14)))
				cfg.Fault = func(string) error {
					if left.Add(-1) < 0 {
						return crash
					}
					return nil
				}
				_, stop := s.start(cfg)
				time.Sleep(time.Duration(r.IntN(10)) * time.Millisecond)
				_ = stop() // crashed or not
			}
			cfg.Fault = nil
			p, stop := s.start(cfg)
			s.caughtUp(p)
			if err := stop(); err != nil {
				t.Fatal(err)
			}
			equal(t, "after crashes", s.documents(), s.folded())
		})
	}
}

func TestPositionLost(t *testing.T) {
	s := newSite(t)
	r := rand.New(rand.NewPCG(3, 3))
	s.sendRandom(r, 100)
	p, stop := s.start(s.config())
	s.caughtUp(p)
	_ = stop()
	early, err := s.kv.Get(t.Context(), positionKey(0))
	if err != nil {
		t.Fatal(err)
	}
	s.sendRandom(r, 100)
	p, stop = s.start(s.config())
	s.caughtUp(p)
	_ = stop()
	want := s.folded()
	for _, rollback := range []func(){
		func() { _, err = s.kv.Put(t.Context(), positionKey(0), early.Value()) },
		func() { err = s.kv.Purge(t.Context(), positionKey(0)) },
	} {
		if rollback(); err != nil {
			t.Fatal(err)
		}
		p, stop = s.start(s.config())
		s.caughtUp(p)
		_ = stop()
		equal(t, "after a lost position", s.documents(), want)
	}
}

func TestConflatesWrites(t *testing.T) {
	s := newSite(t)
	cfg := s.config()
	cfg.Flush = 200 * time.Millisecond
	p, stop := s.start(cfg)
	defer func() { _ = stop() }()
	began := time.Now()
	for i := range 200 {
		s.send("car-1", "position", 1, fmt.Sprintf(`{"speed":%d}`, i))
		time.Sleep(2 * time.Millisecond)
	}
	s.caughtUp(p)
	took := time.Since(began)
	e, err := s.kv.Get(t.Context(), "car-1")
	if err != nil {
		t.Fatal(err)
	}
	if writes, most := int(e.Revision()), 2*(2+int(took/cfg.Flush)); writes > most { // of the document and of the position
		t.Errorf("%d writes in %v, want at most %d", writes, took, most)
	}
	if state, err := Read(t.Context(), s.kv, "car-1"); err != nil {
		t.Error(err)
	} else if speed, _ := state.Signal("position", "speed"); string(speed.Value) != "199" {
		t.Errorf("speed %s", speed.Value)
	}
}

func TestDivergedLogStops(t *testing.T) {
	s := newSite(t)
	run := func(want error) {
		t.Helper()
		p, err := New(s.config())
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		err = p.Run(ctx)
		if !errors.Is(err, want) || !strings.Contains(err.Error(), "remedy") || p.Status().LastError == "" || p.Status().CaughtUp {
			t.Fatalf("got %v and %+v", err, p.Status())
		}
	}
	for i := range 10 {
		s.send("car-1", "position", 1, fmt.Sprintf(`{"speed":%d}`, i))
	}
	p, stop := s.start(s.config())
	s.caughtUp(p)
	_ = stop()

	s.log.Truncate(0, 8) // shorter than the view
	run(events.ErrDiverged)
	s.send("car-1", "position", 1, `{"speed":100}`)
	s.send("car-1", "position", 1, `{"speed":101}`) // as long, but another
	run(events.ErrDiverged)

	// The documents are ahead of a position that is still right.
	early, err := json.Marshal(events.Cursor{Position: s.all()[4].Position, ID: s.all()[4].ID})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.kv.Put(t.Context(), positionKey(0), early); err != nil {
		t.Fatal(err)
	}
	doc, err := s.kv.Get(t.Context(), "car-1")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.kv.Put(t.Context(), "car-1", doc.Value()); err != nil {
		t.Fatal(err)
	}
	run(events.ErrDiverged)
	run(events.ErrDiverged) // again: stopping has not hidden it
	s.log.Truncate(0, 7)
	run(events.ErrDiverged)
}

// purged is a log that has lost its beginning.
type purged struct{ events.Log }

func (purged) Follow(context.Context, uint16, events.Cursor) iter.Seq2[events.Event, error] {
	return func(yield func(events.Event, error) bool) {
		yield(events.Event{}, &events.TruncatedError{Oldest: events.Position{Epoch: 1, Seq: 100}})
	}
}

func (purged) Bounds(context.Context, uint16) (events.Bounds, error) {
	return events.Bounds{Oldest: events.Position{Epoch: 1, Seq: 100}, Newest: events.Position{Epoch: 1, Seq: 100}}, nil
}

func TestPurgedLogStops(t *testing.T) {
	s := newSite(t)
	cfg := s.config()
	cfg.Log = purged{s.log}
	p, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	err = p.Run(t.Context())
	if truncated := (*events.TruncatedError)(nil); !errors.As(err, &truncated) || !strings.Contains(err.Error(), "remedy") {
		t.Errorf("got %v", err)
	}
}

func TestDamagedDocumentStops(t *testing.T) {
	s := newSite(t)
	if _, err := s.kv.Put(t.Context(), "car-1", []byte(`{"device":`)); err != nil {
		t.Fatal(err)
	}
	s.send("car-1", "position", 1, `{"speed":1}`)
	p, err := New(s.config())
	if err != nil {
		t.Fatal(err)
	}
	if err := p.Run(t.Context()); err == nil || !strings.Contains(err.Error(), "delete") {
		t.Errorf("got %v", err)
	}
}

func TestBucketDownLosesNothing(t *testing.T) {
	s := newSite(t)
	dir := t.TempDir()
	srv, js := startServer(t, dir, 0)
	s.js = js
	s.kv = s.bucket(BucketConfig(1))
	r := rand.New(rand.NewPCG(4, 4))
	p, stop := s.start(s.config())
	s.sendRandom(r, 50)
	s.caughtUp(p)
	port := srv.Addr().(*net.TCPAddr).Port
	srv.Shutdown()
	srv.WaitForShutdown()
	s.sendRandom(r, 50)
	s.eventually("a failure is told", func() bool { st := p.Status(); return st.Errors > 0 && !st.CaughtUp && st.LastError != "" })
	startServer(t, dir, port)
	s.caughtUp(p)
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	equal(t, "after an outage", s.documents(), s.folded())
}

// One document that the bucket will never take must not hold up the others.
func TestTooLargeDocument(t *testing.T) {
	s := newSite(t)
	cfg := BucketConfig(1)
	cfg.MaxValueSize = 1000
	s.kv = s.bucket(cfg)
	s.send("huge", "alien", 0, `{"x":"`+strings.Repeat("x", 2000)+`"}`)
	s.send("fine", "alien", 0, `{"x":1}`)
	p, stop := s.start(s.config())
	s.caughtUp(p)
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	if docs := s.documents(); len(docs) != 1 || docs["fine"] == "" || p.Status().Errors == 0 || !strings.Contains(s.logs.String(), "device=huge") {
		t.Errorf("documents %v, status %+v", docs, p.Status())
	}
}

func TestNewNamesAllProblems(t *testing.T) {
	_, err := New(Config{Flush: -1})
	if err == nil || !strings.Contains(err.Error(), "needed") || !strings.Contains(err.Error(), "negative") {
		t.Errorf("got %v", err)
	}
}

func TestTwoWritersAgree(t *testing.T) {
	s := newSite(t)
	r := rand.New(rand.NewPCG(9, 9))
	a, stopA := s.start(s.config())
	b, stopB := s.start(s.config())
	for range 20 {
		s.sendRandom(r, 20)
		time.Sleep(time.Millisecond)
	}
	s.caughtUp(a)
	s.caughtUp(b)
	if err := errors.Join(stopA(), stopB()); err != nil {
		t.Fatal(err)
	}
	equal(t, "two writers", s.documents(), s.folded())
}

func TestWatch(t *testing.T) {
	s := newSite(t)
	_, stop := s.start(s.config())
	defer func() { _ = stop() }()
	s.send("car/1", "position", 1, `{"speed":1}`)
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	next, end := iter.Pull2(Watch(ctx, s.kv, "car/1"))
	defer end()
	everyone, endAll := iter.Pull2(Watch(ctx, s.kv))
	defer endAll()
	for want := 1; want <= 3; want++ {
		for _, pull := range []func() (State, error, bool){next, everyone} {
			state, err, ok := pull()
			if err != nil || !ok {
				t.Fatal(err, ok)
			}
			if speed, _ := state.Signal("position", "speed"); string(speed.Value) != fmt.Sprint(want) || state.Device != "car/1" {
				t.Fatalf("got %s of %s, want %d", speed.Value, state.Device, want)
			}
		}
		s.send("car/1", "position", 1, fmt.Sprintf(`{"speed":%d}`, want+1))
	}
	if _, err := Read(t.Context(), s.kv, "nobody"); !errors.Is(err, jetstream.ErrKeyNotFound) {
		t.Errorf("got %v", err)
	}
}

// A schema that this process learns of later holds the fold up, not down.
func TestWaitsForSchema(t *testing.T) {
	s := newSite(t)
	s.send("car-1", "position", 1, `{"speed":1}`)
	s.send("car-1", "gauge", 1, `{"level":5}`)
	p, stop := s.start(s.config())
	defer func() { _ = stop() }()
	src := schemas.Source{Format: schemas.FormatJSONSchema, Text: `{"type":"object","properties":{"level":{"type":"integer"}}}`}
	if _, _, err := s.catalog.Add(t.Context(), "gauge", src); err != nil {
		t.Fatal(err)
	}
	s.caughtUp(p)
	if state, err := Read(t.Context(), s.kv, "car-1"); err != nil {
		t.Error(err)
	} else if level, _ := state.Signal("gauge", "level"); string(level.Value) != "5" {
		t.Errorf("level %s", level.Value)
	}
}
