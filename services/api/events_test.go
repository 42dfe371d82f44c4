package api

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/tachograph/tachograph/events"
	"github.com/tachograph/tachograph/services/api/problem"
)

type line struct {
	ID, Type, Kind, Device string
	Time, Received         time.Time
	Position               events.Position
	Data                   json.RawMessage
	DataBase64             []byte `json:"data_base64"`
}

func (f *fixture) events(query string) []line {
	f.t.Helper()
	got := f.answered(call{method: "GET", path: "/v1/events?" + query, token: "admin"}, 200, nil)
	if media := got.header.Get("Content-Type"); media != "application/x-ndjson" {
		f.t.Errorf("content type %q", media)
	}
	return f.lines(got.body)
}

func (f *fixture) lines(body []byte) (all []line) {
	f.t.Helper()
	for text := range bytes.Lines(body) {
		var l line
		if err := json.Unmarshal(text, &l); err != nil {
			f.t.Fatalf("%s: %v", text, err)
		}
		all = append(all, l)
	}
	return all
}

func seqs(lines []line) string {
	var b strings.Builder
	for _, l := range lines {
		fmt.Fprintf(&b, "%d ", l.Position.Seq)
	}
	return strings.TrimSpace(b.String())
}

// Selecting by device, type, arrival, position and number.
func TestEvents(t *testing.T) {
	f := newFixture(t)
	start := time.Date(2026, 11, 23, 10, 0, 0, 0, time.UTC)
	for i := range 6 {
		at := start.Add(time.Duration(i) * time.Minute)
		f.now.Store(&at)
		f.append(fmt.Sprintf("car-%d", i%2), []string{"position", "cabin"}[i/3], fmt.Sprintf(`{"n":%d}`, i))
	}
	at := func(minute int) string {
		return url.QueryEscape(start.Add(time.Duration(minute) * time.Minute).Format(time.RFC3339))
	}
	for query, want := range map[string]string{
		"":                                    "1 2 3 4 5 6",
		"device=car-0":                        "1 3 5",
		"device=car-1":                        "2 4 6",
		"device=nobody":                       "",
		"message=cabin":                       "4 5 6",
		"device=car-0&message=cabin":          "5",
		"from=" + at(2):                       "3 4 5 6",
		"to=" + at(2):                         "1 2",
		"from=" + at(2) + "&to=" + at(4):      "3 4",
		"from=" + at(2) + "&to=" + at(2):      "",
		"device=car-1&from=" + at(2):          "4 6",
		"limit=2":                             "1 2",
		"after=1.0.4":                         "5 6",
		"device=car-0&after=1.0.1&limit=1":    "3",
		"after=1.0.6":                         "",
		"after=1.7.0":                         "",
		"kind=telemetry&device=car-0&limit=1": "1",
		"kind=dead":                           "",
		"kind=presence":                       "",
	} {
		if got := seqs(f.events(query)); got != want {
			t.Errorf("%s: %s, want %s", query, got, want)
		}
	}
	for _, query := range []string{
		"from=yesterday", "to=x", "from=2&to=1", "limit=0", "limit=-1", "limit=x", "after=1", "kind=nothing", "kind=", "device=", "message=",
		"data=hex", "devise=car-0", "device=a&device=b", "device=%ff", "%zz",
	} {
		f.refused(call{method: "GET", path: "/v1/events?" + query, token: "admin"}, problem.InvalidRequest)
	}
}

// Control facts are read the same way; credentials are not.
func TestControlEvents(t *testing.T) {
	f := newFixture(t)
	token := f.addDevice("car-1")
	for query, want := range map[string]string{
		"kind=registry":              "added",
		"kind=registry&device=car-1": "added",
		"kind=registry&device=car-2": "",
	} {
		var types []string
		for _, l := range f.events(query) {
			types = append(types, l.Type)
			if l.Device != "car-1" || l.Kind != "registry" {
				t.Errorf("%s: %+v", query, l)
			}
		}
		if got := strings.Join(types, " "); got != want {
			t.Errorf("%s: %q, want %q", query, got, want)
		}
	}
	registered := f.events("kind=schema&device=position")
	if len(registered) != 1 || registered[0].Device != "" {
		t.Errorf("schema events %+v", registered)
	}
	for _, query := range []string{"kind=credential", "kind=credential&device=car-1"} {
		f.refused(call{method: "GET", path: "/v1/events?" + query, token: "admin"}, problem.Forbidden)
	}
	everything := f.do(call{method: "GET", path: "/v1/events?kind=registry", token: "admin"})
	if bytes.Contains(everything.body, []byte(token)) || bytes.Contains(everything.body, []byte("sha256")) {
		t.Errorf("a credential got out: %s", everything.body)
	}
}

// What a device sent comes back byte for byte, whatever it was.
func TestPayloadsComeBack(t *testing.T) {
	f := newFixture(t)
	payloads := []string{
		`{"latitude":52.520000,"n":1e3}`, "{\n \"a\": 1\n}", ` 7 `, `{"a":1,"a":2}`, "not json", "\x0a\x02\x08\x01", "\xff\xfe", "", `"\ud800"`,
		`{"a":"<&>\u2028"}`, strings.Repeat("[", 50000) + strings.Repeat("]", 50000), "{\"error\":1}",
	}
	for _, p := range payloads {
		f.append("car-1", "position", p)
	}
	for _, query := range []string{"device=car-1", "device=car-1&data=base64"} {
		got := f.events(query)
		if len(got) != len(payloads) {
			t.Fatalf("%s: %d events, want %d", query, len(got), len(payloads))
		}
		for i, want := range payloads {
			if back := append(got[i].Data, got[i].DataBase64...); string(back) != want {
				t.Errorf("%s: %.40q came back as %.40q", query, want, back)
			}
			if strings.HasSuffix(query, "base64") && got[i].Data != nil {
				t.Errorf("%s: %.40q came as data", query, want)
			}
		}
	}
}

// time is the device's where it told one, in JSON or protobuf.
func TestEventTime(t *testing.T) {
	f := newFixture(t)
	f.append("car-1", "position", `{"time":"2026-11-23T09:00:00Z","latitude":1}`)
	f.append("car-1", "position", `{"latitude":1}`)
	done := make(chan error, 1)
	if err := f.log.Enqueue(t.Context(), events.Event{ // google.protobuf.Timestamp time = 1 {seconds: 1795424400}
		Stream: events.Stream{Kind: events.Telemetry, ID: "car-1"}, Type: "position", Schema: 1, ID: "proto",
		Payload: []byte("\x0a\x06\x08\x90\x81\x90\xd8\x06"),
	}, func(err error) { done <- err }); err != nil {
		t.Fatal(err)
	}
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	got := f.events("device=car-1")
	if len(got) != 3 {
		t.Fatalf("%d events", len(got))
	}
	want := time.Date(2026, 11, 23, 9, 0, 0, 0, time.UTC)
	if !got[0].Time.Equal(want) || !got[1].Time.Equal(got[1].Received) || !got[2].Time.Equal(want) {
		t.Errorf("times %v, %v (received %v), %v", got[0].Time, got[1].Time, got[1].Received, got[2].Time)
	}
}

// An error after the first line is the last line.
func TestEventsFailLate(t *testing.T) {
	f := newFixture(t)
	for range 3 {
		f.append("car-1", "position", `{}`)
	}
	n := 0
	f.step.Store(new(func(op string) error {
		if op != "follow" {
			return nil
		}
		if n++; n < 3 {
			return nil
		}
		return events.ErrClosed
	}))
	got := f.answered(call{method: "GET", path: "/v1/events", token: "admin"}, 200, nil)
	f.step.Store(nil)
	lines := bytes.Split(bytes.TrimSpace(got.body), []byte("\n"))
	if len(lines) != 3 {
		t.Fatalf("%d lines: %s", len(lines), got.body)
	}
	var last struct{ Error *problem.Problem }
	if err := json.Unmarshal(lines[2], &last); err != nil || last.Error == nil || last.Error.Code != problem.Unavailable {
		t.Errorf("last line %s: %v", lines[2], err)
	}
}

// A long read streams: lines come before the end is reached, and the reading
// ends when the client goes.
func TestEventsStream(t *testing.T) {
	f := newFixture(t)
	payload := `{"pad":"` + strings.Repeat("x", 1000) + `"}`
	for range 300 {
		f.append("car-1", "position", payload)
	}
	n := 0
	reached, release := make(chan struct{}), make(chan struct{})
	f.step.Store(new(func(op string) error {
		if op == "follow" {
			if n++; n == 300 {
				close(reached)
				<-release
			}
		}
		return nil
	}))
	defer f.step.Store(nil)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, "GET", f.url+"/v1/events", nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+f.admin)
	resp, err := noRedirects.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	<-reached
	lines := bufio.NewScanner(resp.Body)
	for range 100 {
		if !lines.Scan() {
			t.Fatalf("no line: %v", lines.Err())
		}
	}
	cancel()
	for lines.Scan() {
	}
	if !errors.Is(lines.Err(), context.Canceled) {
		t.Errorf("the answer ended with %v", lines.Err())
	}
	close(release)
}

func TestEventsHead(t *testing.T) {
	f := newFixture(t)
	got := f.do(call{method: "HEAD", path: "/v1/events", token: "admin"})
	if got.status != 200 || len(got.body) > 0 {
		t.Errorf("%d %s", got.status, got.body)
	}
}

// BenchmarkEvents reads a device's 10,000 events over a socket.
func BenchmarkEvents(b *testing.B) {
	f := newFixture(b)
	for i := range 10_000 {
		f.append("car-1", "position", fmt.Sprintf(`{"time":%d,"latitude":52.52,"longitude":13.40,"speed":48.5}`, 1795428000000+i))
	}
	b.ReportAllocs()
	for b.Loop() {
		req, err := http.NewRequestWithContext(b.Context(), "GET", f.url+"/v1/events?device=car-1", nil)
		if err != nil {
			b.Fatal(err)
		}
		req.Header.Set("Authorization", "Bearer "+f.admin)
		resp, err := noRedirects.Do(req)
		if err != nil {
			b.Fatal(err)
		}
		n := 0
		for lines := bufio.NewScanner(resp.Body); lines.Scan(); n++ {
		}
		resp.Body.Close()
		if n != 10_000 {
			b.Fatalf("%d lines", n)
		}
	}
	b.ReportMetric(10_000*float64(b.N)/b.Elapsed().Seconds(), "events/s")
}
