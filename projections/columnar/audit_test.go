package columnar

import (
	"context"
	"fmt"
	"iter"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/tachograph/tachograph/events"
	"github.com/tachograph/tachograph/schemas"
)

func odd(more string) schemas.Source {
	return schemas.Source{Format: schemas.FormatProto, Text: `syntax = "proto3"; message Odd { map<string, double> m = 1; repeated int32 n = 2; optional bytes b = 3; enum G { A = 0; B = 1; } optional G g = 4; optional float f = 5; ` + more + `}`}
}

// traffic sends what a fleet may send: samples, batches, what does not decode as a
// whole or in part, what was sent before, and types that nobody knows.
func (s *stand) traffic(rnd *rand.Rand, from, n int) {
	s.t.Helper()
	var before [][3]string
	for i := range n {
		at := 1700000000000 + (from+i)*1000
		m := [3]string{fmt.Sprint("car-", rnd.IntN(4)), "position", fmt.Sprintf(`{"time":%d,"latitude":%d,"speed":%d.5,"mystery":%d}`, at, i%90, rnd.IntN(200), i)}
		switch rnd.IntN(12) {
		case 0:
			m[2] = fmt.Sprintf(`[{"time":%d,"speed":1},{"time":%d,"speed":"fast"},{"time":%d,"speed":3}]`, at, at+1, at+2)
		case 1:
			m[2] = fmt.Sprintf(`{"latitude":"north %d"}`, i)
		case 2:
			m[2] = fmt.Sprintf("{\"latitude\": \xff%d", i)
		case 3:
			m[1] = "nobody-knows"
		case 4, 5, 6:
			m[1], m[2] = "odd", fmt.Sprintf(`{"m":{"a":%d,"b":-0.0},"n":[1,%d],"b":"AP8=","g":"B","f":%d.25,"later":%d}`, i, i, i, i)
		case 7:
			if len(before) > 0 {
				m = before[rnd.IntN(len(before))]
			}
		}
		before = append(before, m)
		s.send(m[0], m[1], m[2])
	}
}

func (s *stand) audit() *AuditReport {
	s.t.Helper()
	report, err := (&Audit{Writer: s.replay.Writer, Log: s.log}).Run(s.t.Context())
	if err != nil {
		s.t.Fatal(err)
	}
	if len(report.Unchecked) > 0 {
		s.t.Errorf("unchecked: %v", report.Unchecked)
	}
	return report
}

// told are the differences in words, in order.
func told(r *AuditReport) (all []string) {
	for _, d := range r.Differences {
		all = append(all, strings.Join(strings.Fields(fmt.Sprint(d.Kind, " ", d.Table, " ", d.Place(), " ", strings.Join(d.Columns, " "))), " "))
	}
	slices.Sort(all)
	return all
}

// TestAudit: nothing differs after whatever a fleet may send, over a change of
// schema, in stretches of any size and while more is coming.
func TestAudit(t *testing.T) {
	long(t)
	s := newStandOf(t, 100*time.Millisecond)
	rnd := rand.New(rand.NewPCG(3, 26))
	if _, _, err := s.catalog.Add(t.Context(), "odd", odd("")); err != nil {
		t.Fatal(err)
	}
	s.traffic(rnd, 0, 400)
	if _, _, err := s.catalog.Add(t.Context(), "odd", odd("optional int64 later = 6;")); err != nil {
		t.Fatal(err)
	}
	s.traffic(rnd, 400, 400)
	letter := s.send("car-1", "position", `{"speed":"nine"}`) // and comes back
	at, err := s.log.Tail(t.Context(), 0)
	if err != nil {
		t.Fatal(err)
	}
	letter.Payload, letter.Received = []byte(`{"speed":9}`), time.Now()
	if _, err := s.log.Append(t.Context(), events.Fresh, events.LetterID{Position: at}.Replay(letter, letter.Schema)); err != nil {
		t.Fatal(err)
	}
	s.awaitAll()
	s.awaitRollUps()
	r := s.audit()
	for _, table := range []string{"position", "odd", "dead_letters", "dead_letter_outcomes", "events"} {
		i := slices.IndexFunc(r.Tables, func(a AuditedTable) bool { return a.Table == table })
		if want := s.query("SELECT count() FROM tacho." + table); i < 0 || fmt.Sprintf("(%d)", r.Tables[i].Rows) != want {
			t.Errorf("of %s %+v were compared, there are %s", table, r.Tables, want)
		}
	}
	if !r.Equal() || r.Parts == 0 || r.Buckets == 0 || r.Events < 800 || r.Absent+r.Expired > 0 || len(r.UpTo) != 2 {
		t.Errorf("%+v", r)
	}
	more := 1000
	busy := busyLog{s.log, func() {
		s.traffic(rnd, more, 2)
		more += 2
	}}
	for _, window := range []uint64{64, 1 << 20} { // stretches are of whole windows, or a part of one
		small := s.replay.Writer
		small.MaxRows = 400
		var phases []string
		r, err := (&Audit{Writer: small, Log: busy, window: window, Progress: func(p AuditProgress) { phases = append(phases, p.Phase) }}).Run(t.Context())
		if err != nil || !r.Equal() {
			t.Errorf("in windows of %d: %v %+v", window, err, r)
		}
		if got := slices.Compact(phases); !slices.Equal(got, []string{"parts", "events", "rollups"}) {
			t.Errorf("phases %v", got)
		}
	}
}

// A busyLog gets more events while it is inspected.
type busyLog struct {
	events.Inspector
	more func()
}

func (l busyLog) Inspect(ctx context.Context, partition uint16, from, to uint64) iter.Seq2[events.Event, error] {
	return func(yield func(events.Event, error) bool) {
		for e, err := range l.Inspector.Inspect(ctx, partition, from, to) {
			if !yield(e, err) {
				return
			}
			if e.Position.Seq%20 == 0 {
				l.more()
			}
		}
	}
}

// TestAuditHarm: what somebody does to the tables is named, each with its place,
// and nothing else is.
func TestAuditHarm(t *testing.T) {
	long(t)
	s := newStandOf(t, time.Hour)
	if _, _, err := s.catalog.Add(t.Context(), "odd", odd("")); err != nil {
		t.Fatal(err)
	}
	for n := range 60 { // 1.0.1 ... position at odd, odd at even sequences
		s.position(n)
		s.send("car-2", "odd", fmt.Sprintf(`{"m":{"a":%d},"g":"B"}`, n))
	}
	s.send("car-3", "position", `{"latitude":"north"}`) // 121
	s.awaitAll()
	known := told(s.audit())
	if len(known) > 0 {
		t.Fatal(known)
	}
	small := s.replay.Writer
	small.MaxRows = 20
	ways := []*Audit{ // whole, in stretches of windows, and in stretches that are none
		{Writer: s.replay.Writer, Log: s.log}, {Writer: small, Log: s.log, window: 8}, {Writer: small, Log: s.log},
	}
	const now = " SETTINGS mutations_sync = 2"
	for n, harm := range []struct {
		sql  string
		want []string
	}{
		{"ALTER TABLE tacho.position DELETE WHERE _seq = 11" + now, []string{"missing_row position 1.0.11"}},
		{"ALTER TABLE tacho.position UPDATE speed = 999, latitude = NULL WHERE _seq = 13" + now, []string{"altered_row position 1.0.13 latitude speed"}},
		{"INSERT INTO tacho.odd SELECT * FROM tacho.odd WHERE _seq IN (8, 10)", []string{"doubled_row odd 1.0.10", "doubled_row odd 1.0.8"}},
		{"INSERT INTO tacho.odd SELECT * REPLACE (77 AS _row) FROM tacho.odd WHERE _seq = 20 LIMIT 1", []string{"extra_row odd 1.0.20 sample 77"}},
		{"ALTER TABLE tacho.odd UPDATE m = map('a', toFloat64(1)) WHERE _seq = 30" + now, []string{"altered_row odd 1.0.30 m"}},
		{"ALTER TABLE tacho.events DELETE WHERE _seq = 121 AND _partition = 0" + now, []string{"missing_row events 1.0.121"}},
		{"ALTER TABLE tacho.events UPDATE payload = replaceOne(payload, '5', '6') WHERE _seq = 11 AND _partition = 0" + now, []string{"altered_row events 1.0.11 payload"}},
		{"ALTER TABLE tacho.dead_letters DELETE WHERE 1" + now, []string{"missing_row dead_letters 1.0.121"}},
		{"INSERT INTO tacho.position SELECT * REPLACE (7 AS _partition) FROM tacho.position WHERE _seq IN (51, 53)", []string{"foreign_row position 1.7.51-53"}},
		{"ALTER TABLE tacho.odd DROP COLUMN g", []string{"missing_column odd g"}},
	} {
		s.exec(harm.sql)
		var fresh []string
		r, err := ways[n%len(ways)].Run(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		now := told(r)
		for _, d := range now {
			if !slices.Contains(known, d) {
				fresh = append(fresh, d)
			}
		}
		if known = now; !slices.Equal(fresh, harm.want) {
			t.Errorf("after %s: %q, want %q", harm.sql, fresh, harm.want)
		}
	}
	few := &Audit{Writer: s.replay.Writer, Log: s.log, Most: 3}
	if r, err := few.Run(t.Context()); err != nil || len(r.Differences) != 3 || r.Total < 12 || r.Counts[DoubledRow] != 2 {
		t.Errorf("at most 3: %+v, %v", r, err)
	}
}

// TestAuditRollUps: a bucket that is not what its samples make is named, and one
// whose samples have been deleted after their time is none.
func TestAuditRollUps(t *testing.T) {
	long(t)
	s := newStandOf(t, 100*time.Millisecond)
	for n := range 100 {
		s.position(n)
	}
	s.awaitAll()
	s.awaitRollUps()
	s.exec("ALTER TABLE tacho._position_1m UPDATE max_speed = 200 WHERE time = toDateTime64(1700000040, 0, 'UTC') SETTINGS mutations_sync = 2")
	s.exec("ALTER TABLE tacho._position_1h DELETE WHERE 1 SETTINGS mutations_sync = 2")
	r := s.audit()
	if got := told(r); len(got) != 2 || r.Counts[RollUp] != 2 || !strings.HasPrefix(got[0], "rollup position_1h 1.0.") || !strings.HasPrefix(got[1], "rollup position_1m 1.0.") {
		t.Errorf("%q", got)
	}
	s.exec("ALTER TABLE tacho.position DELETE WHERE speed < 50 SETTINGS mutations_sync = 2")
	kept := &Audit{Writer: s.replay.Writer, Log: s.log}
	kept.Writer.Keep.Samples = time.Second
	for deadline := time.Now().Add(3 * time.Minute); ; time.Sleep(100 * time.Millisecond) {
		r, err := kept.Run(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if r.Expired == 50 && r.Counts[MissingRow] == 0 && r.Counts[RollUp] <= 2 {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("%+v", r)
		}
	}
}

// TestAuditLogShorter: a log that came back without its tail is told, with what
// the tables have of it, which is judged all the same.
func TestAuditLogShorter(t *testing.T) {
	long(t)
	s := newStandOf(t, time.Hour)
	for n := range 40 {
		s.position(n)
	}
	s.awaitAll()
	s.exec("ALTER TABLE tacho.position DELETE WHERE _seq = 38 SETTINGS mutations_sync = 2")
	if _, err := s.pause(t.Context()); err != nil { // a writer would end over it
		t.Fatal(err)
	}
	s.log.Truncate(0, 30)
	r := s.audit()
	if got := told(r); !slices.Equal(got, []string{"log_shorter 1.0.31-40", "missing_row position 1.0.38"}) || r.Total != 11 {
		t.Errorf("%q", got)
	}
}

// TestAuditDetached: a part that ClickHouse cannot load when it starts is put
// aside by it, silently; the audit tells of the part and of the rows.
func TestAuditDetached(t *testing.T) {
	long(t)
	s := newStandOf(t, time.Hour)
	for n := range 20 {
		s.position(n)
	}
	s.awaitAll()
	resume, err := s.pause(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer resume()
	var path string
	s.scan("SELECT any(path) FROM system.parts WHERE database = 'tacho' AND table = 'position' AND active", &path)
	var rows uint64
	s.scan("SELECT any(rows) FROM system.parts WHERE database = 'tacho' AND table = 'position' AND active AND path = '"+path+"'", &rows)
	if err := os.Truncate(path+"checksums.txt", 20); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Kill(s.engine.PID(), syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(3 * time.Minute); ; time.Sleep(50 * time.Millisecond) {
		r, err := (&Audit{Writer: s.replay.Writer, Log: s.log}).Run(t.Context())
		if err == nil {
			if r.Counts[DetachedPart] != 1 || r.Counts[MissingRow] != rows || r.Total != rows+1 {
				t.Errorf("%q", told(r))
			}
			return
		}
		if time.Now().After(deadline) {
			t.Fatal(err)
		}
	}
}

// TestAuditPurged: where the log was purged, events stands for it; where that is
// gone too, nothing can be said of the other tables, nor of what repeats.
func TestAuditPurged(t *testing.T) {
	long(t)
	s := newStandOf(t, time.Hour)
	for n := range 60 {
		s.position(n % 40) // 1.0.41 and later are repeats
	}
	s.send("car-2", "position", `{"latitude":"north"}`)
	s.awaitAll()
	s.exec("ALTER TABLE tacho.position DELETE WHERE _seq IN (15, 25) SETTINGS mutations_sync = 2")
	if _, err := s.log.Purge(t.Context(), events.Position{Epoch: 1, Seq: 20}); err != nil {
		t.Fatal(err)
	}
	gone := []string{"missing_row position 1.0.15", "missing_row position 1.0.25"}
	if r := s.audit(); r.Purged != 20 || !slices.Equal(told(r), gone) {
		t.Errorf("purged: %+v", r)
	}
	s.exec("ALTER TABLE tacho.events DELETE WHERE _seq <= 17 AND _partition = 0 SETTINGS mutations_sync = 2")
	if r := s.audit(); r.Purged != 20 || !slices.Equal(told(r), gone[1:]) {
		t.Errorf("purged and expired: %+v", r)
	}
	if err := s.log.Erase(t.Context(), events.Position{Epoch: 1, Seq: 30}); err != nil {
		t.Fatal(err)
	}
	if r := s.audit(); !slices.Equal(told(r), append([]string{"missing_in_log 1.0.30"}, gone[1:]...)) {
		t.Errorf("erased in the log alone: %+v", r)
	}
	s.exec("ALTER TABLE tacho.events DELETE WHERE _seq = 30 AND _partition = 0 SETTINGS mutations_sync = 2")
	if r := s.audit(); r.Absent != 1 || !slices.Equal(told(r), []string{"extra_row position 1.0.30", gone[1]}) {
		t.Errorf("erased, but for its row: %+v", r)
	}
	s.exec("ALTER TABLE tacho.position DELETE WHERE _seq = 30 SETTINGS mutations_sync = 2")
	if r := s.audit(); r.Absent != 1 || !slices.Equal(told(r), gone[1:]) {
		t.Errorf("erased everywhere: %+v", r)
	}
	purging := busyLog{s.log, func() { // at 1.0.40, and again
		if _, err := s.log.Purge(t.Context(), events.Position{Epoch: 1, Seq: 50}); err != nil {
			t.Error(err)
		}
	}}
	r, err := (&Audit{Writer: s.replay.Writer, Log: purging}).Run(t.Context())
	if err != nil || r.Purged != 30 || !slices.Equal(told(r), gone[1:]) {
		t.Errorf("purged meanwhile: %+v, %v", r, err)
	}
}

// TestAuditPart: one flipped byte of a part, compact or wide, is named with the
// positions that it costs, once, and what is not in that part is still compared.
func TestAuditPart(t *testing.T) {
	long(t)
	s := newStandOf(t, 100*time.Millisecond)
	some := func(from int) {
		for n := range 30 {
			s.position(from + n)
		}
		s.awaitAll()
		s.awaitRollUps()
	}
	some(0)
	s.exec("OPTIMIZE TABLE tacho.position FINAL") // one compact part
	s.exec("ALTER TABLE tacho.position MODIFY SETTING min_bytes_for_wide_part = 0, min_rows_for_wide_part = 0, max_bytes_to_merge_at_max_space_in_pool = 1")
	some(100)
	s.exec("INSERT INTO tacho.position SELECT * FROM tacho.position WHERE _seq = 60")
	kinds := []string{"Compact", "Wide"}
	for n, kind := range kinds {
		var path, part string
		var first, last uint64
		where := "database = 'tacho' AND table = 'position' AND active AND part_type = '" + kind + "'"
		s.scan("SELECT argMin(path, min_block_number) FROM system.parts WHERE "+where, &path)
		s.scan("SELECT argMin(name, min_block_number) FROM system.parts WHERE "+where, &part)
		s.scan("SELECT min(_seq) FROM tacho.position WHERE _part = '"+part+"'", &first)
		s.scan("SELECT max(_seq) FROM tacho.position WHERE _part = '"+part+"'", &last)
		flipByte(t, path+[]string{"data.bin", "speed.bin"}[n], func(data []byte) int { return len(data) / 2 })
		r, err := (&Audit{Writer: s.replay.Writer, Log: s.log}).Run(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		i := slices.IndexFunc(r.Differences, func(d Difference) bool { return d.Part == part })
		// The double of 1.0.60 stands for it once its own part is broken; what is rolled up cannot be read.
		if i < 0 || len(r.Differences) != 2 || r.Counts[DoubledRow] != uint64(1-n) || len(r.Unchecked) != 2 {
			t.Fatalf("%s: %q %q", kind, told(r), r.Unchecked)
		}
		d := r.Differences[i]
		if d.Kind != BrokenPart || d.Seq != first || d.Last != last || d.Count != last-first+1 || !strings.Contains(d.Detail, "hecksum") {
			t.Errorf("%s: %+v, want %d to %d", kind, d, first, last)
		}
		if len(d.Columns) != 1 || kind == "Wide" && d.Columns[0] != "speed" {
			t.Errorf("%s: columns %v", kind, d.Columns)
		}
	}
}
