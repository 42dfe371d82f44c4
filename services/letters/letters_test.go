package letters

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/tachograph/tachograph/events"
	"github.com/tachograph/tachograph/events/jetlog"
	"github.com/tachograph/tachograph/projections"
	"github.com/tachograph/tachograph/projections/catalog"
	"github.com/tachograph/tachograph/projections/columnar"
	"github.com/tachograph/tachograph/projections/columnar/engine/enginetest"
	"github.com/tachograph/tachograph/projections/latest"
	"github.com/tachograph/tachograph/schemas"
)

func TestMain(m *testing.M) { enginetest.Main(m) }

// A stand is a log in a real nats-server, a real ClickHouse, and the writers
// between them.
type stand struct {
	t       *testing.T
	log     *jetlog.Log
	catalog *catalog.Catalog
	letters *Letters
	server  columnar.Server
	base    columnar.Config
	writers []*columnar.Writer
	js      jetstream.JetStream
}

func newStand(t *testing.T) *stand {
	t.Helper()
	dir := t.TempDir()
	srv, err := server.NewServer(&server.Options{Host: "127.0.0.1", Port: -1, JetStream: true, StoreDir: dir, NoLog: true, NoSigs: true})
	if err != nil {
		t.Fatal(err)
	}
	srv.Start()
	if !srv.ReadyForConnections(20 * time.Second) {
		t.Fatal("nats-server is not ready")
	}
	t.Cleanup(func() { srv.Shutdown(); srv.WaitForShutdown() })
	nc, err := nats.Connect(srv.ClientURL(), nats.ReconnectBufSize(-1))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	s := &stand{t: t}
	if s.js, err = jetstream.New(nc); err != nil {
		t.Fatal(err)
	}
	if s.log, err = jetlog.Open(t.Context(), jetlog.Config{Publish: nc, StoreDir: dir}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.log.Close() })
	logger := slog.New(slog.NewTextHandler(io.Discard, nil))
	if s.catalog, err = catalog.Open(t.Context(), s.log, logger); err != nil {
		t.Fatal(err)
	}
	e := enginetest.Start(t)
	user, password := e.Writer()
	s.server = columnar.Server{URL: "http://" + e.HTTPAddr(), User: user, Password: password}
	store, err := columnar.NewLetters(s.server)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { store.Close() })
	s.letters = New(s.log, s.catalog, store)
	s.base = columnar.Config{Log: s.log, Catalog: s.catalog, Server: s.server, MaxAge: 20 * time.Millisecond, RollUpEvery: 20 * time.Millisecond, Logger: logger}

	ctx, cancel := context.WithCancel(context.Background())
	var all sync.WaitGroup
	t.Cleanup(func() { cancel(); all.Wait() })
	all.Go(func() { _ = s.catalog.Run(ctx) }) // ends with ctx
	for _, p := range []uint16{0, events.ControlPartition} {
		c := s.base
		if c.Partition = p; p == events.ControlPartition {
			c.Views = []columnar.View{columnar.LetterView}
		}
		w, err := columnar.New(c)
		if err != nil {
			t.Fatal(err)
		}
		s.writers = append(s.writers, w)
		all.Go(func() {
			if err := w.Run(ctx); err != nil {
				t.Error(err)
			}
		})
	}
	return s
}

func (s *stand) schema(fields string) {
	s.t.Helper()
	text := `syntax = "proto3"; import "google/protobuf/timestamp.proto"; message Tyre { google.protobuf.Timestamp time = 1; ` + fields + ` }`
	if _, _, err := s.catalog.Add(s.t.Context(), "tyre", schemas.Source{Format: schemas.FormatProto, Text: text}); err != nil {
		s.t.Fatal(err)
	}
}

func (s *stand) send(device, payload string) {
	s.t.Helper()
	current, ok := s.catalog.Schemas().Current("tyre")
	if !ok {
		s.t.Fatal("no schema")
	}
	done := make(chan error, 1)
	err := s.log.Enqueue(s.t.Context(), events.Event{
		Stream: events.Stream{Kind: events.Telemetry, ID: device}, Type: "tyre", Schema: current.Version(),
		ID: events.DeriveID(device, "tyre", []byte(payload)), Payload: []byte(payload),
	}, func(err error) { done <- err })
	if err == nil {
		err = <-done
	}
	if err != nil {
		s.t.Fatal(err)
	}
}

func (s *stand) query(sql string) string {
	s.t.Helper()
	conn, err := s.server.Open()
	if err != nil {
		s.t.Fatal(err)
	}
	defer conn.Close()
	var got string
	if err := conn.QueryRow(s.t.Context(), "SELECT arrayStringConcat(groupArray(x), ' ') FROM (SELECT toString(tuple(*)) AS x FROM ("+sql+"))").Scan(&got); err != nil {
		s.t.Fatalf("%s: %v", sql, err)
	}
	return got
}

// eventually waits until a query has an answer.
func (s *stand) eventually(sql, want string) {
	s.t.Helper()
	for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		got := s.query(sql)
		if got == want {
			return
		}
		if time.Now().After(deadline) {
			s.t.Fatalf("%s\ngot  %s\nwant %s", sql, got, want)
		}
	}
}

func (s *stand) await() {
	s.t.Helper()
	for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		behind := false
		for _, w := range s.writers {
			st := w.Status()
			behind = behind || !st.CaughtUp || st.Lag > 0
		}
		if !behind {
			return
		}
		if time.Now().After(deadline) {
			s.t.Fatalf("not caught up: %+v", s.writers[0].Status())
		}
	}
}

// outcomes are those of results, in order.
func outcomes(results []Result) string {
	var all []string
	for _, r := range results {
		all = append(all, string(r.Outcome))
	}
	return strings.Join(all, " ")
}

func (s *stand) replay(f columnar.LetterFilter, dry bool) string {
	s.t.Helper()
	results, err := s.letters.Replay(s.t.Context(), f, dry)
	if err != nil {
		s.t.Fatal(err)
	}
	return outcomes(results)
}

// TestReplay: letters that a later schema can read come back once, into the
// message table, the roll-ups and the latest state; the others stay. A rebuild
// from nothing has the same rows everywhere.
func TestReplay(t *testing.T) {
	s := newStand(t)
	s.schema("int32 mileage = 2;")
	s.send("car-1", `{"time":1700000000000,"mileage":1}`)
	s.send("car-1", `{"time":1700000060000,"mileage":3000000000}`) // letter 1.0.2-0
	s.send("car-2", `[{"time":1700000000000,"mileage":2},{"time":1700000001000,"mileage":4000000000},{"mileage":5000000000}]`)
	s.send("car-1", `{"mileage":`) // 1.0.4-0
	s.send("car-2", `[{"time":1700000002000,"mileage":6000000000},{"time":1700000003000,"mileage":"far"}]`)
	s.await()
	const states = "SELECT letter, state, replayed_by, note FROM tacho.dead_letter_states ORDER BY _seq, _row"
	s.eventually(states, "('1.0.2-0','parked',0,'') ('1.0.3-1','parked',0,'') ('1.0.3-2','parked',0,'') ('1.0.4-0','parked',0,'') ('1.0.5-0','parked',0,'') ('1.0.5-1','parked',0,'')")
	before := s.query("SELECT table, epoch, max(seq) FROM tacho.checkpoints WHERE partition = 0 AND table = 'events' GROUP BY ALL")

	// The same schema reads no more than it did.
	if got, want := s.replay(columnar.LetterFilter{}, false), strings.TrimSpace(strings.Repeat("undecodable ", 6)); got != want {
		t.Errorf("by the same schema: %s", got)
	}
	s.schema("int64 mileage = 2;")
	const want = "replayable replayable replayable undecodable replayable undecodable"
	if got := s.replay(columnar.LetterFilter{}, true); got != want {
		t.Errorf("dry: %s", got)
	}
	if got := s.query("SELECT table, epoch, max(seq) FROM tacho.checkpoints WHERE partition = 0 AND table = 'events' GROUP BY ALL"); got != before {
		t.Errorf("the checkpoint went from %s to %s", before, got)
	}
	if tail, err := s.log.Tail(t.Context(), 0); err != nil || tail.Seq != 5 {
		t.Fatalf("the log ends at %v: %v", tail, err)
	}

	// Many at once, and again: each letter comes back once.
	var mu sync.Mutex
	count := map[Code]int{}
	var all sync.WaitGroup
	for range 4 {
		all.Go(func() {
			results, err := s.letters.Replay(t.Context(), columnar.LetterFilter{}, false)
			if err != nil {
				t.Error(err)
			}
			mu.Lock()
			defer mu.Unlock()
			for _, r := range results {
				count[r.Outcome]++
			}
		})
	}
	all.Wait()
	if count[Replayed] != 4 || count[WasReplayed] != 12 || count[Undecodable] != 8 {
		t.Errorf("%v", count)
	}
	s.await()
	s.eventually(states, "('1.0.2-0','replayed',2,'') ('1.0.3-1','replayed',2,'') ('1.0.3-2','replayed',2,'') ('1.0.4-0','parked',0,'') ('1.0.5-0','replayed',2,'') ('1.0.5-1','parked',0,'')")
	const rows = "SELECT device, mileage FROM tacho.tyre ORDER BY mileage"
	const sums = "('car-1',1) ('car-2',2) ('car-1',3000000000) ('car-2',4000000000) ('car-2',5000000000) ('car-2',6000000000)"
	s.eventually(rows, sums)
	// The arrival is that of the letter's message; a sample without a time has it.
	s.eventually("SELECT received = (SELECT received FROM tacho.events WHERE _seq = 3 AND _partition = 0), time = received FROM tacho.tyre WHERE mileage = 5000000000", "(1,1)")
	s.eventually("SELECT device, sum(count), max(max) FROM tacho.tyre_1h WHERE signal = 'mileage' GROUP BY device ORDER BY device", "('car-1',2,3000000000) ('car-2',4,6000000000)")
	s.eventually("SELECT count() FROM tacho.dead_letters", "(6)")
	past := &latest.Past{Log: s.log, Catalog: s.catalog}
	state, err := past.At(t.Context(), "car-1", time.Now())
	if err != nil {
		t.Fatal(err)
	}
	if sig, ok := state.Signal("tyre", "mileage"); !ok || string(sig.Value) != "3000000000" {
		t.Errorf("latest state: %+v", sig)
	}

	// Drops: one that is parked, not one that is back; and not twice.
	drop := func(f columnar.LetterFilter, dry bool) string {
		results, err := s.letters.Drop(t.Context(), f, "never", dry)
		if err != nil {
			t.Fatal(err)
		}
		return outcomes(results)
	}
	two := columnar.LetterFilter{Device: "car-1"}
	if got := drop(two, true); got != "was_replayed droppable" {
		t.Errorf("dry drop: %s", got)
	}
	if got := drop(two, false); got != "was_replayed dropped" {
		t.Errorf("drop: %s", got)
	}
	if got := drop(two, false); got != "was_replayed was_dropped" {
		t.Errorf("drop again: %s", got)
	}
	if got := s.replay(two, false); got != "was_replayed was_dropped" {
		t.Errorf("replay of what was dropped: %s", got)
	}
	s.eventually("SELECT letter, note FROM tacho.dead_letter_states WHERE state = 'dropped'", "('1.0.4-0','never')")

	s.rebuilt()
	s.audited()
}

// audited holds every row of every table, the roll-ups' too, against the log.
func (s *stand) audited() {
	s.t.Helper()
	audit := columnar.Audit{Writer: s.base, Log: s.log}
	report, err := audit.Run(s.t.Context())
	if err != nil {
		s.t.Fatal(err)
	}
	if report.Total != 0 || len(report.Unchecked) != 0 || report.Buckets == 0 {
		s.t.Errorf("audit: %+v", report)
	}
}

// rebuilt builds all tables anew beside those that serve and wants the same rows.
func (s *stand) rebuilt() {
	s.t.Helper()
	s.await()
	replay := columnar.Replay{Writer: s.base, Partitions: []uint16{0, events.ControlPartition}}
	reports, err := replay.Build(s.t.Context(), projections.Order{Dry: true}, func(projections.Progress) {})
	if err != nil {
		s.t.Fatal(err)
	}
	seen := map[string]bool{}
	for _, r := range reports {
		seen[r.Table] = true
		if !r.Equal() {
			s.t.Errorf("rebuilt: %+v", r)
		}
	}
	for _, table := range []string{"tyre", "events", "dead_letters", "dead_letter_outcomes"} {
		if !seen[table] {
			s.t.Errorf("table %s was not compared", table)
		}
	}
}

// TestFilters selects letters by everything there is.
func TestFilters(t *testing.T) {
	s := newStand(t)
	s.schema("int32 mileage = 2;")
	var times []time.Time
	for i := range 6 {
		s.send(fmt.Sprint("car-", i%2), []string{`{"mileage":"far"}`, `{"mileage":`, `[]`}[i/2])
		s.await()
	}
	all, err := s.letters.List(t.Context(), columnar.LetterFilter{})
	if err != nil || len(all) != 6 {
		t.Fatalf("%d letters: %v", len(all), err)
	}
	for _, d := range all {
		times = append(times, d.Received)
		payload, err := s.letters.Payload(t.Context(), d)
		if err != nil || uint64(len(payload)) != d.Size || d.State != columnar.Parked || d.Schema != 1 || d.Message != "tyre" {
			t.Errorf("%+v %q: %v", d, payload, err)
		}
	}
	for want, f := range map[string]columnar.LetterFilter{
		"1 3 5":       {Device: "car-0"},
		"3 4":         {Reason: "truncated"},
		"4":           {Reason: "truncated", Device: "car-1"},
		"1 2 3 4 5 6": {Message: "tyre", State: columnar.Parked},
		"1 2":         {Limit: 2},
		"5 6":         {After: all[3].ID},
		"3":           {ID: all[2].ID},
		"2 3":         {From: times[1], To: times[3]},
		"3 4 5 6":     {From: times[1].Add(time.Nanosecond)},
		"":            {Device: "'; DROP DATABASE tacho; --"},
	} {
		got, err := s.letters.List(t.Context(), f)
		if err != nil {
			t.Fatal(err)
		}
		var seqs []string
		for _, d := range got {
			seqs = append(seqs, fmt.Sprint(d.ID.Position.Seq))
		}
		if strings.Join(seqs, " ") != want {
			t.Errorf("%+v: %v, want %s", f, seqs, want)
		}
	}
	if _, err := s.letters.Payload(t.Context(), columnar.Letter{Device: "nobody"}); err == nil {
		t.Error("a letter that is not there has a payload")
	}
	if !slices.IsSortedFunc(all, func(a, b columnar.Letter) int { return int(a.ID.Position.Seq) - int(b.ID.Position.Seq) }) {
		t.Error("not in order")
	}
}

// TestPurged: what the log has forgotten the tables know. A letter that came back
// does not come back again, one that was never tried still can.
func TestPurged(t *testing.T) {
	s := newStand(t)
	s.schema("int32 mileage = 2;")
	s.send("car-1", `{"time":1700000000000,"mileage":3000000000}`) // 1.0.1-0
	s.send("car-1", `{"time":1700000001000,"mileage":4000000000}`) // 1.0.2-0
	s.schema("int64 mileage = 2;")
	s.await()
	one := columnar.LetterFilter{ID: events.LetterID{Position: events.Position{Epoch: 1, Seq: 1}}}
	if got := s.replay(one, false); got != "replayed" {
		t.Fatal(got)
	}
	s.await()
	s.eventually("SELECT letter FROM tacho.dead_letter_states WHERE state = 'replayed'", "('1.0.1-0')")
	tail, err := s.log.Tail(t.Context(), 0)
	if err != nil {
		t.Fatal(err)
	}
	stream, err := s.js.Stream(t.Context(), "TELEMETRY_0")
	if err != nil {
		t.Fatal(err)
	}
	if err := stream.Purge(t.Context(), jetstream.WithPurgeSequence(tail.Seq+1)); err != nil { // beyond the whole file that Log.Purge keeps
		t.Fatal(err)
	}
	if got := s.replay(one, false); got != "was_replayed" {
		t.Errorf("of what was purged: %s", got)
	}
	if got := s.replay(columnar.LetterFilter{}, false); got != "was_replayed replayed" {
		t.Errorf("all: %s", got)
	}
	if got := s.replay(columnar.LetterFilter{State: columnar.Parked}, false); got != "was_replayed" && got != "" {
		t.Errorf("again: %s", got)
	}
	s.await()
	s.eventually("SELECT device, mileage FROM tacho.tyre ORDER BY mileage", "('car-1',3000000000) ('car-1',4000000000)")
}
