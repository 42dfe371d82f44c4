package api

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/apache/arrow/go/v15/arrow/array"
	"github.com/apache/arrow/go/v15/arrow/ipc"

	"github.com/tachograph/tachograph/events"
	"github.com/tachograph/tachograph/services/api/problem"
)

// A following is an answer that goes on.
type following struct {
	f     *fixture
	req   *http.Request
	resp  *http.Response
	lines *bufio.Reader
	close context.CancelFunc
}

func (f *fixture) follow(query string, header http.Header) *following {
	f.t.Helper()
	ctx, cancel := context.WithTimeout(f.t.Context(), time.Minute)
	f.t.Cleanup(cancel)
	req, err := http.NewRequestWithContext(ctx, "GET", f.url+"/v1/events?follow=true&"+query, nil)
	if err != nil {
		f.t.Fatal(err)
	}
	for name, values := range header {
		req.Header[name] = values
	}
	req.Header.Set("Authorization", "Bearer "+f.admin)
	resp, err := noRedirects.Do(req)
	if err != nil {
		f.t.Fatal(err)
	}
	f.t.Cleanup(func() { resp.Body.Close() })
	if resp.StatusCode != 200 {
		text, _ := io.ReadAll(resp.Body)
		f.t.Fatalf("%s: %d %s", query, resp.StatusCode, text)
	}
	return &following{f, req, resp, bufio.NewReader(resp.Body), cancel}
}

type followed struct {
	line
	Token     string
	Heartbeat time.Time
	Decoded   json.RawMessage
	Error     *problem.Problem
}

// next returns the next line and holds it against openapi.yaml.
func (w *following) next() followed {
	w.f.t.Helper()
	text, err := w.lines.ReadBytes('\n')
	if err != nil {
		w.f.t.Fatalf("%s: %v", w.req.URL, err)
	}
	conform(w.f.t, w.req, reply{status: 200, header: w.resp.Header, body: text})
	var l followed
	if err := json.Unmarshal(text, &l); err != nil {
		w.f.t.Fatalf("%s: %v", text, err)
	}
	return l
}

// event returns the next line that is no heartbeat, which a busy machine sees.
func (w *following) event() followed {
	w.f.t.Helper()
	l := w.next()
	for !l.Heartbeat.IsZero() {
		l = w.next()
	}
	return l
}

// A reader that breaks off anywhere and goes on with the token of the last event
// has every event of every partition once, history and live.
func TestFollow(t *testing.T) {
	f := newFixture(t)
	f.addDevice("car-0")
	store := func(i int) {
		f.append(fmt.Sprintf("car-%d", i%3), "position", fmt.Sprintf(`{"n":%d}`, i))
		if i%10 == 0 {
			f.addDevice(fmt.Sprintf("new-%d", i))
		}
	}
	for i := range 40 {
		store(i)
	}
	seen := map[string]bool{}
	last := map[string]uint64{}
	token := "beginning"
	for i := 40; len(seen) < 80+8+1+8; {
		w := f.follow("kind=all&from="+token, nil)
		for range 9 {
			if i < 80 {
				store(i)
				i++
			}
			l := w.event()
			for l.Kind == "schema" || l.Kind == "presence" { // built in
				l = w.event()
			}
			if seen[l.Position.String()] || l.Position.Seq <= last[fmt.Sprint(l.Position.Partition)] {
				t.Fatalf("%s came again, or late", l.Position)
			}
			seen[l.Position.String()], last[fmt.Sprint(l.Position.Partition)] = true, l.Position.Seq
			if l.Kind == "telemetry" || l.Kind == "registry" {
				token = l.Token
			}
			if len(seen) == 80+9 {
				break
			}
		}
		w.close()
		if len(seen) == 80+9 {
			break
		}
	}
}

// What is asked for comes, and nothing else.
func TestFollowSelects(t *testing.T) {
	f := newFixture(t)
	f.append("car-0", "position", `{"n":0}`)
	f.append("car-1", "cabin", `{"n":1}`)
	moment := time.Now().UTC()
	f.append("car-1", "position", `{"n":2}`)
	since := url.QueryEscape(moment.Format(time.RFC3339Nano))
	all := map[string]*following{}
	for _, query := range []string{"", "from=now", "device=car-1&type=position", "type=cabin&from=beginning", "device=car-0&from=now", "from=" + since, "from=1.0.2", "limit=2", "kind=registry&device=car-9"} {
		all[query] = f.follow(query, nil)
	}
	f.append("car-0", "position", `{"n":3}`)
	f.append("car-1", "cabin", `{"n":4}`)
	f.append("car-1", "position", `{"n":5}`)
	f.addDevice("car-8")
	f.addDevice("car-9")
	for query, want := range map[string]string{
		"": "1 2 3 4 5 6", "from=now": "4 5 6", "device=car-1&type=position": "3 6", "type=cabin&from=beginning": "2 5",
		"device=car-0&from=now": "4", "from=" + since: "3 4 5 6", "from=1.0.2": "3 4 5 6", "limit=2": "1 2",
	} {
		var got []line
		for range strings.Fields(want) {
			got = append(got, all[query].event().line)
		}
		if seqs(got) != want {
			t.Errorf("%s: %s, want %s", query, seqs(got), want)
		}
	}
	if l := all["kind=registry&device=car-9"].event(); l.Device != "car-9" || l.Type != "added" {
		t.Errorf("registry: %+v", l)
	}
	if _, err := all["limit=2"].lines.ReadByte(); err != io.EOF {
		t.Errorf("after the limit: %v", err)
	}
	for _, query := range []string{"to=5", "after=1.0.1", "from=1", "from=1.0", "from=x", "from=", "from=1.256.1", "kind=all&from=1.0.1", "format=xml", "follow=maybe", "type=a&message=b"} {
		if query == "from=1" { // epoch milliseconds
			continue
		}
		f.refused(call{method: "GET", path: "/v1/events?follow=true&" + query, token: "admin"}, problem.InvalidRequest)
	}
}

// Positions that the log doesn't have are told apart from bad requests, with
// what there is.
func TestUnknownPosition(t *testing.T) {
	f := newFixture(t)
	f.append("car-0", "position", `{"n":0}`)
	f.append("car-0", "position", `{"n":1}`)
	for _, follow := range []string{"", "&follow=true"} {
		for _, from := range []string{"1.0.3", "2.0.1", "1.0.2.another"} {
			p := f.refused(call{method: "GET", path: "/v1/events?from=" + from + follow, token: "admin"}, problem.UnknownPosition)
			if got := fmt.Sprint(p.Details["oldest"], p.Details["newest"]); got != "map[epoch:1 partition:0 seq:1] map[epoch:1 partition:0 seq:2]" {
				t.Errorf("%s: details %s", from, got)
			}
		}
		f.failing("locate", &events.TruncatedError{Oldest: events.Position{Epoch: 1, Seq: 7}}, func() {
			p := f.refused(call{method: "GET", path: "/v1/events?from=1.0.1" + follow, token: "admin"}, problem.HistoryTruncated)
			if got := fmt.Sprint(p.Details["oldest"]); got != "map[epoch:1 partition:0 seq:7]" {
				t.Errorf("details %s", got)
			}
		})
	}
}

// Silence is broken, as NDJSON and as Arrow, and the token stays good.
func TestHeartbeat(t *testing.T) {
	f := newFixture(t)
	f.handler.(*api).beat = 20 * time.Millisecond
	f.append("car-0", "position", `{"n":0}`)
	w := f.follow("", nil)
	token := ""
	for l := w.next(); ; l = w.next() {
		if l.Token != "" && l.Heartbeat.IsZero() {
			token = l.Token
			continue
		}
		if l.Token != token || time.Since(l.Heartbeat) > time.Minute {
			t.Errorf("heartbeat %+v, the event's token was %s", l, token)
		}
		break
	}
	r, err := ipc.NewReader(f.follow("from=now&format=arrow", nil).resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Release()
	if !r.Next() || r.Record().NumRows() != 0 {
		t.Errorf("no heartbeat: %v", r.Err())
	}
}

// Who takes nothing is not read for, and hinders nobody.
func TestFollowSlowly(t *testing.T) {
	f := newFixture(t)
	var read atomic.Int64
	f.step.Store(new(func(op string) error {
		if op == "follow" {
			read.Add(1)
		}
		return nil
	}))
	const n = 400
	w := f.follow("device=car-0", nil)
	pad := strings.Repeat("x", 64<<10)
	for i := range n {
		f.append("car-0", "position", fmt.Sprintf(`{"n":%d,"pad":"%s"}`, i, pad))
	}
	fast := f.follow("device=car-0", nil)
	for range n {
		fast.event()
	}
	fast.close()
	// The fast one has read all n; what the slow one, the fixture's own
	// followers of telemetry (none) and sockets took is the rest.
	if extra := read.Load() - n; extra > n/2 {
		t.Errorf("%d of %d events were read for a client that takes none", extra, n)
	}
	for i := range n {
		if l := w.event(); l.Position.Seq != uint64(i+1) {
			t.Fatalf("event %d is %s", i+1, l.Position)
		}
	}
}

// So many may follow, and a place is free again when one goes.
func TestFollowersAreLimited(t *testing.T) {
	f := newFixture(t)
	var all []*following
	for range eventFollowers {
		all = append(all, f.follow("from=now", nil))
	}
	p := f.refused(call{method: "GET", path: "/v1/events?follow=true", token: "admin"}, problem.TooManyRequests)
	if p.Details["limit"] != float64(eventFollowers) {
		t.Errorf("details %v", p.Details)
	}
	f.events("") // whoever only reads has places of his own
	all[0].close()
	for {
		got, _ := f.send(call{method: "GET", path: "/v1/events?follow=true&limit=1&from=beginning&kind=schema", token: "admin"})
		if got.status == 200 {
			break
		}
	}
}

// An error ends the answer: as the last line, or by breaking an Arrow stream off.
func TestFollowFails(t *testing.T) {
	f := newFixture(t)
	f.append("car-0", "position", `{"n":0}`)
	w, arrow := f.follow("", nil), f.follow("format=arrow", nil)
	w.event()
	r, err := ipc.NewReader(arrow.resp.Body)
	if err != nil || !r.Next() {
		t.Fatalf("no record: %v", err)
	}
	f.failing("follow", events.ErrClosed, func() {
		f.append("car-0", "position", `{"n":1}`)
		if l := w.event(); l.Error == nil || l.Error.Code != problem.Unavailable {
			t.Errorf("last line %+v", l)
		}
		if r.Next() || r.Err() == nil {
			t.Error("the Arrow stream ended as if it were whole")
		}
	})
}

// Where an answer begins is told before its first event, so that who begins now
// and loses the connection at once misses nothing.
func TestTokenOfTheBeginning(t *testing.T) {
	f := newFixture(t)
	f.append("car-0", "position", `{"n":0}`)
	w := f.follow("from=now", nil)
	token := w.resp.Header.Get(tokenHeader)
	w.close()
	f.append("car-0", "position", `{"n":1}`)
	if l := f.follow("from="+token, nil).event(); l.Position.Seq != 2 {
		t.Errorf("after %s: %+v", token, l)
	}
	for _, query := range []string{"format=arrow&from=now", "from=beginning&limit=1", "kind=all"} {
		got := f.answered(call{method: "GET", path: "/v1/events?" + query, token: "admin"}, 200, nil)
		if _, err := events.ParseCursors(got.header.Get(tokenHeader)); err != nil {
			t.Errorf("%s: %v", query, err)
		}
	}
}

// A process that stops ends its followers, whole.
func TestFollowStops(t *testing.T) {
	f := newFixture(t)
	f.append("car-0", "position", `{"n":0}`)
	w := f.follow("", nil)
	w.event()
	f.handler.(*api).Stop()
	if _, err := w.lines.ReadByte(); err != io.EOF {
		t.Errorf("ended with %v", err)
	}
}

// Protobuf is decoded where its schema is known, and its bytes are there on demand.
func TestDecoded(t *testing.T) {
	f := newFixture(t)
	const proto = "\x0a\x06\x08\x90\x81\x90\xd8\x06" // time {seconds: 1795424400}
	store := func(schema uint32, payload string) {
		done := make(chan error, 1)
		err := f.log.Enqueue(t.Context(), events.Event{
			Stream: events.Stream{Kind: events.Telemetry, ID: "car-1"}, Type: "position", Schema: schema, ID: events.UniqueID(), Payload: []byte(payload),
		}, func(err error) { done <- err })
		if err == nil {
			err = <-done
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	store(1, proto)
	store(1, strings.Repeat("\x7a\x08"+proto, 2)) // a batch
	store(1, "\xff\xff")
	store(0, proto)
	store(1, `{"latitude":1}`)
	many := strings.Repeat("\x7a\x08"+proto, decodedRows+1)
	store(1, many)
	store(1, proto) // by a fresh batch
	const sample = `{"time":"2026-11-23T09:00:00Z"}`
	for i, want := range []struct{ data, decoded, bytes string }{
		{decoded: sample}, {decoded: "[" + sample + "," + sample + "]"}, {bytes: "\xff\xff"}, {bytes: proto}, {data: `{"latitude":1}`}, {bytes: many}, {decoded: sample},
	} {
		for _, form := range []string{"json", "both", "base64"} {
			w := f.follow(fmt.Sprintf("limit=1&data=%s&from=1.0.%d", form, i), nil)
			l := w.event()
			switch {
			case form == "json" && (string(l.Data) != want.data || string(l.Decoded) != want.decoded || string(l.DataBase64) != want.bytes),
				form == "both" && (string(l.Data) != want.data || string(l.Decoded) != want.decoded || len(l.DataBase64) == 0),
				form == "base64" && (l.Data != nil || l.Decoded != nil || len(l.DataBase64) == 0):
				t.Errorf("event %d as %s: %s %s %q", i, form, l.Data, l.Decoded, l.DataBase64)
			}
		}
	}
}

// The Arrow stream holds what NDJSON does.
func TestEventsAsArrow(t *testing.T) {
	f := newFixture(t)
	for i := range 10_000 {
		f.append(fmt.Sprintf("car-%d", i%7), "position", fmt.Sprintf(`{"time":"2026-11-23T09:00:00Z","n":%d}`, i))
	}
	f.append("\xff", "position", "\x00\xff")
	want := f.events("")
	for _, way := range []struct {
		query  string
		header http.Header
	}{{"data=both&format=arrow", nil}, {"data=both", http.Header{"Accept": {"text/html, " + arrowMedia}}}} {
		got := f.answered(call{method: "GET", path: "/v1/events?" + way.query, token: "admin", header: way.header}, 200, nil)
		r, err := ipc.NewReader(strings.NewReader(string(got.body)))
		if err != nil {
			t.Fatal(err)
		}
		n, batches := 0, 0
		for ; r.Next(); batches++ {
			rec := r.Record()
			for row := range int(rec.NumRows()) {
				text := func(col int) string { return rec.Column(col).(*array.String).Value(row) }
				w := want[n]
				at := rec.Column(7).(*array.Timestamp).Value(row)
				if text(1) != w.ID || text(2) != w.Kind || text(3) != w.Device || rec.Column(11).(*array.Uint64).Value(row) != w.Position.Seq ||
					int64(at) != w.Time.UnixMicro() || text(0) != w.Position.String()+"."+w.ID ||
					w.Data != nil && (text(12) != string(w.Data) || string(rec.Column(13).(*array.Binary).Value(row)) != string(w.Data)) {
					t.Fatalf("row %d of batch %d is not %+v", row, batches, w)
				}
				n++
			}
		}
		if r.Err() != nil || n != len(want) || batches < 3 {
			t.Errorf("%d rows of %d in %d batches: %v", n, len(want), batches, r.Err())
		}
		r.Release()
	}
	// Followed, events come while the next is not there yet, and the token goes on.
	w := f.follow("from=1.0.9999", http.Header{"Accept": {arrowMedia}})
	r, err := ipc.NewReader(w.resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Release()
	for n := 0; n < 2; {
		if !r.Next() {
			t.Fatal(r.Err())
		}
		n += int(r.Record().NumRows())
	}
	f.append("car-1", "position", `{}`)
	if !r.Next() || r.Record().NumRows() != 1 {
		t.Fatalf("live: %v", r.Err())
	}
	w.close()
	if r.Next() || !errors.Is(r.Err(), context.Canceled) {
		t.Errorf("closed: %v", r.Err())
	}
}

// BenchmarkFollow follows 10,000 events over a socket, in both formats.
func BenchmarkFollow(b *testing.B) {
	f := newFixture(b)
	for i := range 10_000 {
		f.append(fmt.Sprintf("car-%d", i%100), "position", fmt.Sprintf(`{"time":%d,"latitude":52.52,"longitude":13.40,"speed":48.5}`, 1795428000000+i))
	}
	for _, format := range []string{"ndjson", "arrow"} {
		b.Run(format, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				w := f.follow("limit=10000&format="+format, nil)
				if n, err := io.Copy(io.Discard, w.resp.Body); err != nil || n < 1_000_000 {
					b.Fatal(n, err)
				}
				w.close()
			}
			b.ReportMetric(10_000*float64(b.N)/b.Elapsed().Seconds(), "events/s")
		})
	}
}
