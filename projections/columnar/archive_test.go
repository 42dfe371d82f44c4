package columnar

import (
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/tachograph/tachograph/events"
	"github.com/tachograph/tachograph/projections"
	"github.com/tachograph/tachograph/projections/history"
)

// described is an event as far as the archive has to know it.
func described(e events.Event) string {
	return fmt.Sprintf("%s %q %q %q %s %d %q %s", e.Position, e.Stream, e.Type, e.Stream.Name, e.ID, e.Schema, e.Payload, e.Received.Truncate(time.Microsecond).Format(time.RFC3339Nano))
}

// TestArchive: ClickHouse has of every event what the log has of it, control
// facts and hashes of tokens as well; what it lacks is named, unless that was
// removed on purpose.
func TestArchive(t *testing.T) {
	long(t)
	b := newBench(t)
	for i := range 20 {
		b.send(fmt.Sprintf("car.%d ä\xff", i%3), "position", fmt.Sprintf(`{"time":%d,"speed":1}`, 1700000000000+i/2*1000)) // some twice
		b.send("car-1", "blob", "\x00\xff\xfe not text "+fmt.Sprint(i))
	}
	b.send("car-1", "position", `{"time":`)
	letter := events.LetterID{Position: events.Position{Epoch: 1, Seq: 41}}
	b.append(letter.Replay(events.Event{Stream: events.Stream{ID: "car-1"}, Type: "position", Payload: []byte(`{"time":1}`), Received: time.Date(2026, 1, 2, 3, 4, 5, 678000, time.UTC)}, 1))
	b.append(events.Event{Stream: events.Stream{Kind: events.Credential, ID: "car-1"}, Type: "issued", ID: "secret-1", Payload: []byte("hash")})
	b.append(events.Event{Stream: events.Stream{Kind: events.Shadow, ID: "car-1", Name: "door.s ä"}, Type: "desired", ID: "shadow-1", Schema: 7, Payload: []byte("{}")})
	for _, seq := range []uint64{1, 2, 17, 18, 30} { // before anybody has read them
		if err := b.log.Erase(t.Context(), events.Position{Epoch: 1, Seq: seq}); err != nil {
			t.Fatal(err)
		}
	}
	for _, p := range []uint16{0, events.ControlPartition} {
		w, stop := b.start(p, nil)
		b.await(w)
		if err := stop(); err != nil {
			t.Fatal(err)
		}
	}
	a := &Archive{Server: b.server, stretch: 7}
	all := func(partition uint16, after uint64) (got []string, last error) {
		t.Helper()
		tail, err := b.log.Tail(t.Context(), partition)
		if err != nil {
			t.Fatal(err)
		}
		for e, err := range a.Events(t.Context(), events.Position{Epoch: 1, Partition: partition, Seq: after}, tail.Seq) {
			if err != nil {
				return got, err
			}
			got = append(got, described(e))
		}
		return got, nil
	}
	logged := func(partition uint16, after uint64) (want []string) {
		for e, err := range b.log.Inspect(t.Context(), partition, after+1, 1<<62) {
			if err != nil {
				t.Fatal(err)
			}
			want = append(want, described(e))
		}
		return want
	}
	for _, p := range []uint16{0, events.ControlPartition} {
		for _, after := range []uint64{0, 1, 20} {
			if got, err := all(p, after); err != nil || !slices.Equal(got, logged(p, after)) || len(got) == 0 && after < 20 {
				t.Fatalf("partition %d after %d: %v\n got %q\nwant %q", p, after, err, got, logged(p, after))
			}
		}
	}
	var stream []string
	for e, err := range a.Stream(t.Context(), events.Stream{Kind: events.Telemetry, ID: "car-1"}, events.Position{Epoch: 1, Seq: 9}, 42) {
		if err != nil {
			t.Fatal(err)
		}
		stream = append(stream, described(e))
	}
	if want := slices.DeleteFunc(logged(0, 9), func(s string) bool { return !strings.Contains(s, `"telemetry/car-1`) }); !slices.Equal(stream, want) || len(want) < 10 {
		t.Errorf("\n got %q\nwant %q", stream, want)
	}

	for since, want := range map[time.Time]uint64{{}: 3, time.Now().Add(-time.Minute): 3, time.Now().Add(time.Hour): 0} {
		if seq, ok, err := a.First(t.Context(), events.Position{Epoch: 1, Seq: 40}, since); err != nil || seq != want || ok != (want > 0) {
			t.Errorf("since %s: %d, %v, %v", since, seq, ok, err)
		}
	}

	// A device is forgotten: its rows go, and it is known that they had to.
	if err := b.log.Erase(t.Context(), events.Position{Epoch: 1, Seq: 4}); err != nil {
		t.Fatal(err)
	}
	b.exec("ALTER TABLE tacho.events DELETE WHERE _partition = 0 AND _seq = 4 SETTINGS mutations_sync = 2")
	var missing *history.MissingError
	if err := a.Whole(t.Context(), events.Position{Epoch: 1}, 42); !errors.As(err, &missing) || missing.First.Seq != 4 || missing.Last != 4 || missing.Count != 1 {
		t.Errorf("%v", err)
	}
	if got, err := all(0, 0); !errors.As(err, &missing) || len(got) != 0 {
		t.Errorf("%q, %v", got, err)
	}
	b.exec("INSERT INTO tacho._absent VALUES (1, 0, 4, 4)")
	if got, err := all(0, 0); err != nil || !slices.Equal(got, logged(0, 0)) {
		t.Errorf("%q, %v", got, err)
	}

	// The oldest are gone: what there is begins later.
	b.exec("ALTER TABLE tacho.events DELETE WHERE _partition = 0 AND _seq < 10 SETTINGS mutations_sync = 2")
	var truncated *events.TruncatedError
	if err := a.Whole(t.Context(), events.Position{Epoch: 1}, 42); !errors.As(err, &truncated) || truncated.Oldest.Seq != 10 {
		t.Errorf("%v", err)
	}
	b.exec("ALTER TABLE tacho.events DELETE WHERE _partition = 0 AND _seq = 20 SETTINGS mutations_sync = 2")
	if err := a.Whole(t.Context(), events.Position{Epoch: 1, Seq: 9}, 42); !errors.As(err, &missing) || missing.First.Seq != 20 {
		t.Errorf("%v", err)
	}
	a.Keep = time.Nanosecond
	if err := a.Whole(t.Context(), events.Position{Epoch: 1, Seq: 9}, 42); !errors.As(err, &truncated) || truncated.Oldest.Seq != 21 {
		t.Errorf("%v", err)
	}
}

func (b *bench) append(e events.Event) {
	b.t.Helper()
	if _, err := b.log.Append(b.t.Context(), events.Fresh, e); err != nil {
		b.t.Fatal(err)
	}
}

// rebase makes all control facts the log's base, so that they can be purged, and
// returns the position of the newest.
func (b *bench) rebase() events.Position {
	b.t.Helper()
	base, err := b.log.Base(b.t.Context())
	if err != nil {
		b.t.Fatal(err)
	}
	tail, err := b.log.Tail(b.t.Context(), events.ControlPartition)
	if err != nil || tail.Seq == 0 {
		b.t.Fatal(tail, err)
	}
	var all []events.Event
	for e, err := range events.Facts(b.t.Context(), b.log, events.Cursor{}) {
		if err != nil {
			b.t.Fatal(err)
		}
		if all = append(all, e); e.Position == tail {
			break
		}
	}
	if err := b.log.Rebase(b.t.Context(), base, tail, func(yield func(events.Event, error) bool) {
		for _, e := range all {
			if !yield(e, nil) {
				return
			}
		}
	}); err != nil {
		b.t.Fatal(err)
	}
	return tail
}

// TestReplayOfPurgedLog: a log of which little is left is replayed from the archive
// and goes on in the log; what is built equals what served, and an undo brings the
// tables of before up to date by what served meanwhile, though the log has purged
// that, too.
func TestReplayOfPurgedLog(t *testing.T) {
	long(t)
	s := newStandOn(t, 0, func(b *bench) events.Log {
		return history.New(b.log, &Archive{Server: b.server, stretch: 16}, nil, slog.New(slog.DiscardHandler))
	})
	for n := range 60 {
		s.position(n)
		s.position(n / 2) // some come again
	}
	s.send("car-1", "position", `{"latitude":"north"}`)
	s.awaitAll()
	purge := func(seq uint64) {
		t.Helper()
		facts := s.rebase()
		for _, upTo := range []events.Position{{Epoch: 1, Seq: seq}, facts} {
			if _, err := s.log.Purge(t.Context(), upTo); err != nil {
				t.Fatal(err)
			}
		}
	}
	purge(100)
	for n := 60; n < 70; n++ {
		s.position(n)
	}
	s.awaitAll()
	compare := func() map[string]projections.TableReport {
		t.Helper()
		reports, err := s.replay.Build(t.Context(), projections.Order{Dry: true}, silent)
		if err != nil {
			t.Fatal(err)
		}
		differ := map[string]projections.TableReport{}
		for _, r := range reports {
			if !r.Equal() {
				differ[r.Table] = r
			}
		}
		if len(reports) < 4 {
			t.Fatalf("%+v", reports)
		}
		return differ
	}
	if d := compare(); len(d) > 0 {
		t.Fatalf("%+v", d)
	}
	s.exec("ALTER TABLE tacho.position UPDATE speed = 999 WHERE latitude = 8 SETTINGS mutations_sync = 2")
	if d := compare(); len(d) != 1 || d["position"].Changed != 1 {
		t.Fatalf("%+v", d)
	}
	if _, err := s.replay.Build(t.Context(), projections.Order{}, silent); err != nil {
		t.Fatal(err)
	}
	whole := "(70,70,69)"
	s.expect("SELECT count(), uniqExact(_seq), max(speed) FROM tacho.position", whole)
	for n := 70; n < 90; n++ {
		s.position(n)
	}
	s.awaitAll()
	purge(145) // what came since is in the tables that serve now, and not in those of before
	if err := s.replay.Undo(t.Context()); err != nil {
		t.Fatal(err)
	}
	s.position(90)
	s.awaitAll()
	s.expect("SELECT count(), uniqExact(_seq), max(speed) FROM tacho.position", "(91,91,999)")
	s.expect("SELECT count(), uniqExact(_seq), countIf(repeat) FROM tacho.events WHERE _partition = 0", "(152,152,60)")
	s.exec("ALTER TABLE tacho.position UPDATE speed = 8 WHERE latitude = 8 SETTINGS mutations_sync = 2")
	if d := compare(); len(d) > 0 {
		t.Fatalf("%+v", d)
	}
	s.exec("ALTER TABLE tacho.events DELETE WHERE _partition = 0 AND _seq = 50 SETTINGS mutations_sync = 2")
	s.exec("DROP DATABASE tacho_replay SYNC")
	var missing *history.MissingError
	if err := s.replay.Check(t.Context()); !errors.As(err, &missing) || missing.First.Seq != 50 {
		t.Errorf("%v", err)
	}
	if _, err := s.replay.Build(t.Context(), projections.Order{Dry: true}, silent); !errors.As(err, &missing) {
		t.Errorf("%v", err)
	}
}
