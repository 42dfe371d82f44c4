package node

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/apache/arrow/go/v15/arrow/array"
	"github.com/apache/arrow/go/v15/arrow/ipc"

	"github.com/tachograph/tachograph/events"
	"github.com/tachograph/tachograph/projections"
	"github.com/tachograph/tachograph/projections/latest"
	"github.com/tachograph/tachograph/services/replays"
)

// store appends a position of a device past the gateway and returns what came of it.
func store(t *testing.T, n *Node, device string, i int) error {
	t.Helper()
	payload := fmt.Appendf(nil, `{"time":%d,"speed":%d,"note":%q}`, 1700000000000+i*1000, i, strings.Repeat("x", 400))
	e := events.Event{
		Stream: events.Stream{Kind: events.Telemetry, ID: device}, Type: "position", Schema: 1,
		ID: events.DeriveID(device, "position", payload), Payload: payload,
	}
	done := make(chan error, 1)
	if err := n.appends.Enqueue(t.Context(), e, func(err error) { done <- err }); err != nil {
		return err
	}
	return <-done
}

// awaitFolded waits until every projection has the whole log.
func awaitFolded(t *testing.T, n *Node) {
	t.Helper()
	for deadline := time.Now().Add(3 * time.Minute); ; time.Sleep(20 * time.Millisecond) {
		behind := ""
		for _, r := range n.runners {
			if s := r.Status(); !s.CaughtUp || s.Lag > 0 {
				behind = fmt.Sprintf("%+v", s)
			}
		}
		if behind == "" {
			return
		}
		if time.Now().After(deadline) {
			t.Fatal("not caught up: ", behind)
		}
	}
}

// replayOnce runs a replay to its end.
func replayOnce(t *testing.T, n *Node, name string, dry bool) replays.Status {
	t.Helper()
	r := n.replays[name]
	if err := r.Check(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := r.Start(projections.Order{Dry: dry}); err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(3 * time.Minute); r.Status().State == replays.Running; time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%+v", r.Status())
		}
	}
	if s := r.Status(); s.State != replays.Done {
		t.Fatalf("%+v", s)
	}
	return r.Status()
}

// TestPurgedLog: a full log refuses, the janitor makes room by what everybody
// has, and everything goes on without what was purged, also after a restart: looks at
// the past, replays and a view that was lost have it from the archive.
func TestPurgedLog(t *testing.T) {
	if testing.Short() {
		t.Skip("long, and most of it is ClickHouse's and the disk's: make test runs this")
	}
	t.Parallel()
	c := defaults(t, "--keep-log", "1h")
	c.LogBytes = 120_000 // block files of 32 KB
	n := startNode(t, c)
	for _, device := range []string{"car-1", "car-2"} {
		if _, err := n.auth.Add(t.Context(), device); err != nil {
			t.Fatal(err)
		}
	}
	sent := 0
	fill := func() {
		t.Helper()
		for {
			err := store(t, n, fmt.Sprint("car-", sent%2+1), sent)
			if errors.Is(err, events.ErrFull) {
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			sent++
		}
	}
	fill()
	awaitFolded(t, n)
	bounds := func() events.Bounds {
		t.Helper()
		b, err := n.log.Bounds(t.Context(), 0)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	if err := n.janitor.Pass(t.Context(), time.Now()); err != nil || bounds().Oldest.Seq != 1 {
		t.Fatalf("what is young was purged: %+v, %v", bounds(), err)
	}
	middle, before := time.Now(), sent
	if err := n.janitor.Pass(t.Context(), time.Now().Add(2*time.Hour)); err != nil {
		t.Fatal(err)
	}
	oldest := bounds().Oldest
	if oldest.Seq < uint64(sent)/2 || oldest.Seq > uint64(sent) {
		status, _ := n.janitor.Status(t.Context())
		t.Fatalf("%d events, the oldest left is %s: %+v", sent, oldest, status)
	}
	last := sent - 1
	if err := store(t, n, fmt.Sprint("car-", last%2+1), last); err != nil { // there is room again; this is a repeat
		t.Fatal(err)
	}
	fill()
	awaitFolded(t, n)

	check := func(n *Node, repeats int) {
		t.Helper()
		awaitRows(t, n, "SELECT count(), uniqExact(_seq), countIf(repeat) FROM tacho.events WHERE kind = 'telemetry'", fmt.Sprintf("%d\t%[1]d\t%d", sent+repeats, repeats))
		awaitRows(t, n, "SELECT count(), uniqExact(_seq) FROM tacho.position", fmt.Sprintf("%d\t%[1]d", sent))
		awaitRows(t, n, "SELECT sum(count) FROM tacho.position_1m WHERE signal = 'speed'", fmt.Sprint(sent))
		total := uint64(0)
		for _, device := range []string{"car-1", "car-2"} {
			state, err := latest.Read(t.Context(), n.views, device)
			if err != nil {
				t.Fatal(err)
			}
			total += state.Events
			if speed, _ := state.Signal("position", "speed"); string(speed.Value) != fmt.Sprint(sent-1) && string(speed.Value) != fmt.Sprint(sent-2) {
				t.Errorf("%s: speed %s of %d", device, speed.Value, sent)
			}
		}
		if total != uint64(sent+repeats) {
			t.Errorf("the states have %d events, sent were %d and %d again", total, sent, repeats)
		}
		// What needs what was purged has it from the archive.
		state, err := n.past.At(t.Context(), "car-1", middle)
		if want := uint64(before/2 + before%2); err != nil || state.Events != want && state.Events != uint64(before/2) {
			t.Errorf("a look at the past: %d events of about %d, %v", state.Events, want, err)
		}
		if err := n.past.Verify(t.Context(), "car-1", time.Now()); err != nil { // also without snapshots
			t.Error(err)
		}
		subscribers(t, n, uint64(sent+repeats))
	}
	check(n, 1)
	stopNode(t, n)

	n = startNode(t, c)
	awaitFolded(t, n)
	last = sent - 1
	if err := n.janitor.Pass(t.Context(), time.Now().Add(2*time.Hour)); err != nil {
		t.Fatal(err)
	}
	oldest = bounds().Oldest
	if err := store(t, n, fmt.Sprint("car-", last%2+1), last); err != nil { // the same again, over a restart
		t.Fatal(err)
	}
	check(n, 2)
	// A replay builds what served, a deleted bucket fills again.
	for name, tables := range map[string]int{"latest": 1, "columnar": 4} {
		s := replayOnce(t, n, name, true)
		if len(s.Tables) < tables {
			t.Errorf("%s: %+v", name, s)
		}
		for _, r := range s.Tables {
			if !r.Equal() || r.New == 0 && (r.Table == "latest" || r.Table == "position" || r.Table == "events") {
				t.Errorf("%s: %+v", name, r)
			}
		}
	}
	documents := func() string {
		t.Helper()
		var all string
		for _, device := range []string{"car-1", "car-2"} {
			state, err := latest.Read(t.Context(), n.views, device)
			if err != nil {
				t.Fatal(err)
			}
			all += string(state.AppendJSON(nil))
		}
		return all
	}
	want := documents()
	resume, err := n.restartable[0][1].Pause(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	keys, err := n.views.Keys(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, key := range keys {
		if err := n.views.Purge(t.Context(), key); err != nil {
			t.Fatal(err)
		}
	}
	resume()
	if err := store(t, n, "car-3", sent); err != nil { // so that the view is behind until it has folded it
		t.Fatal(err)
	}
	awaitFolded(t, n)
	if got := documents(); got != want {
		t.Errorf("folded anew\n got %s\nwant %s", got, want)
	}
	status, err := n.janitor.Status(context.Background())
	if err != nil || status[0].Purged != oldest.Seq-1 || status[0].HeldBy != "" {
		t.Errorf("%+v, %v", status, err)
	}
}

// subscribers read what was purged, and on, each event once: over HTTP from the
// beginning, after a position, since a time, of one device and of a type, to the end and followed.
func subscribers(t *testing.T, n *Node, newest uint64) {
	t.Helper()
	bounds, err := n.log.Bounds(t.Context(), 0)
	if err != nil {
		t.Fatal(err)
	}
	if bounds.Oldest.Seq < 30 || bounds.Oldest.Seq > newest {
		t.Fatalf("%+v of %d", bounds, newest)
	}
	admin, err := os.ReadFile(n.addrs.AdminTokenFile)
	if err != nil {
		t.Fatal(err)
	}
	type line struct {
		Device   string
		Token    string
		Received time.Time
		Position events.Position
		Error    json.RawMessage
	}
	read := func(query string, each func(line)) {
		t.Helper()
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+n.addrs.HTTP+"/v1/events?"+query, nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Authorization", "Bearer "+strings.TrimSpace(string(admin)))
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		if resp.StatusCode != http.StatusOK {
			b, _ := io.ReadAll(resp.Body)
			t.Fatalf("%s: %s: %s", query, resp.Status, b)
		}
		if strings.Contains(query, "arrow") {
			rows, err := ipc.NewReader(resp.Body)
			if err != nil {
				t.Fatal(err)
			}
			defer rows.Release()
			for rows.Next() {
				for i := range int(rows.Record().NumRows()) {
					each(line{Device: rows.Record().Column(3).(*array.String).Value(i), Position: events.Position{Seq: rows.Record().Column(11).(*array.Uint64).Value(i)}})
				}
			}
			if err := rows.Err(); err != nil {
				t.Fatal(err)
			}
			return
		}
		lines := bufio.NewScanner(resp.Body)
		lines.Buffer(nil, 1<<20)
		for lines.Scan() {
			var l line
			if err := json.Unmarshal(lines.Bytes(), &l); err != nil || l.Error != nil {
				t.Fatalf("%s: %s %v", query, lines.Bytes(), err)
			}
			each(l)
		}
		if err := lines.Err(); err != nil {
			t.Fatal(err)
		}
	}
	tenth := line{}
	var of []uint64 // of car-1
	last := uint64(0)
	read("from=beginning", func(l line) {
		if last++; l.Position.Seq != last {
			t.Fatalf("from the beginning: %d follows %d", l.Position.Seq, last-1)
		}
		if last == 10 {
			tenth = l
		}
		if l.Device == "car-1" {
			of = append(of, last)
		}
	})
	if last != newest || len(of) < 20 {
		t.Fatalf("%d of %d events, %d of car-1", last, newest, len(of))
	}
	after := func(seq uint64) (n int) {
		for _, s := range of {
			if s > seq {
				n++
			}
		}
		return n
	}
	for _, format := range []string{"ndjson", "arrow"} {
		for _, begin := range []string{"from=" + tenth.Token, "from=1.0.10", "after=1.0.10", "from=" + tenth.Received.Add(time.Microsecond).Format(time.RFC3339Nano)} {
			for _, follow := range []bool{false, true} {
				for _, only := range []string{"", "&type=position", "&device=car-1"} {
					want, query := int(newest-10), begin+only+"&format="+format
					if strings.Contains(only, "device") {
						want = after(10)
					}
					if follow {
						query += fmt.Sprintf("&follow=true&limit=%d", want)
					}
					if follow && strings.HasPrefix(begin, "after") {
						continue // it can't be
					}
					n, last := 0, uint64(10)
					read(query, func(l line) {
						if n++; l.Position.Seq <= last || !strings.Contains(only, "device") && l.Position.Seq != last+1 {
							t.Fatalf("%s: %d follows %d", query, l.Position.Seq, last)
						}
						last = l.Position.Seq
					})
					if n != want {
						t.Errorf("%s: %d events, want %d", query, n, want)
					}
				}
			}
		}
	}
}
