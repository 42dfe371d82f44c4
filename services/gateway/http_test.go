package gateway_test

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/tachograph/tachograph/events"
	"github.com/tachograph/tachograph/services/gateway"
	"github.com/tachograph/tachograph/services/gateway/gatewaytest"
)

// An httpClient posts telemetry as a device would.
type httpClient struct {
	t   testing.TB
	url string
}

type reply struct {
	Status      int
	ID          string
	Kept        bool
	Stored      int
	Undecodable int
	Refused     int
	Results     []struct {
		Line  int
		ID    string
		Kept  bool
		Error *struct{ Code, Message string }
	}
	Error *struct {
		Code, Message, Hint string
		Details             json.RawMessage
	}
	retryAfter string
}

func serveHTTP(t testing.TB, g *gateway.Gateway) httpClient {
	mux := http.NewServeMux()
	mux.Handle("POST /v1/devices/{id}/telemetry/{message}", g.TelemetryHandler())
	s := httptest.NewServer(mux)
	t.Cleanup(s.Close)
	return httpClient{t, s.URL}
}

func (c httpClient) post(device, message, token string, body io.Reader, header ...string) (r reply) {
	c.t.Helper()
	req, err := http.NewRequest("POST", c.url+"/v1/devices/"+device+"/telemetry/"+message, body)
	if err != nil {
		c.t.Fatal(err)
	}
	if token != "" {
		req.Header.Set("Authorization", "Bearer "+token)
	}
	req.Header.Set("Content-Type", "application/json")
	for i := 0; i+1 < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		c.t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		c.t.Fatal(err)
	}
	if err := json.Unmarshal(text, &r); err != nil {
		c.t.Fatalf("%d %s: %v", resp.StatusCode, text, err)
	}
	if r.Status = resp.StatusCode; (r.Error != nil) != (r.Status >= 400) {
		c.t.Errorf("%d with %s", r.Status, text)
	}
	if r.Error != nil && len(r.Error.Details) > 0 {
		if err := json.Unmarshal(r.Error.Details, &r); err != nil {
			c.t.Errorf("details %s: %v", r.Error.Details, err)
		}
	}
	r.retryAfter = resp.Header.Get("Retry-After")
	return r
}

func TestHTTP(t *testing.T) {
	eachLog(t, func(t *testing.T, log events.Log) {
		f := gatewaytest.Start(t, log, gateway.Limits{MaxPayload: 1000})
		c := serveHTTP(t, f.Gateway)
		token, other := f.Add(t, "car 1"), f.Add(t, "car-2")
		for _, test := range []struct {
			name, device, message, token, body string
			header                             []string
			status                             int
			code                               string
		}{
			{"json", "car%201", "position", token, position, nil, 200, ""},
			{"no content type", "car%201", "position", token, position, []string{"Content-Type", ""}, 200, ""},
			{"protobuf", "car%201", "position", token, "", []string{"Content-Type", "application/x-protobuf"}, 422, "undecodable_payload"},
			{"unknown type", "car%201", "whatever", token, "x", []string{"Content-Type", "application/octet-stream"}, 200, ""},
			{"undecodable", "car%201", "position", token, "{", nil, 422, "undecodable_payload"},
			{"too large", "car%201", "position", token, strings.Repeat("x", 1001), nil, 413, "payload_too_large"},
			{"bad type", "car%201", "No", token, position, nil, 400, "invalid_message_type"},
			{"reserved type", "car%201", "events", token, position, nil, 400, "invalid_message_type"},
			{"content type", "car%201", "position", token, position, []string{"Content-Type", "text/plain"}, 415, "unsupported_media"},
			{"form", "car%201", "position", token, position, []string{"Content-Type", "application/x-www-form-urlencoded"}, 415, "unsupported_media"},
			{"encoding", "car%201", "position", token, position, []string{"Content-Encoding", "br"}, 415, "unsupported_media"},
			{"no gzip", "car%201", "position", token, position, []string{"Content-Encoding", "gzip"}, 400, "invalid_body"},
			{"no token", "car%201", "position", "", position, nil, 401, "unauthenticated"},
			{"wrong token", "car%201", "position", token + "x", position, nil, 401, "unauthenticated"},
			{"not a bearer", "car%201", "position", token, position, []string{"Authorization", "Basic " + token}, 401, "unauthenticated"},
			{"other's token", "car%201", "position", other, position, nil, 403, "forbidden"},
			{"unknown device", "nobody", "position", token, position, nil, 403, "forbidden"},
		} {
			r := c.post(test.device, test.message, test.token, strings.NewReader(test.body), test.header...)
			if r.Status != test.status || r.Error != nil && (r.Error.Code != test.code || r.Error.Hint == "") {
				t.Errorf("%s: %+v %+v", test.name, r, r.Error)
			}
			if r.Status == 422 && (!r.Kept || !events.ValidID(r.ID)) {
				t.Errorf("%s: details %s", test.name, r.Error.Details)
			}
		}
		if got := len(f.Stored(t, "car 1")); got != 5 {
			t.Errorf("%d stored, want 5", got)
		}
		r := c.post("car%201", "position", token, strings.NewReader(position), "Message-Id", "boot-1_2")
		stored := f.Stored(t, "car 1")
		if last := stored[len(stored)-1]; r.ID != "boot-1_2" || last.ID != r.ID || string(last.Payload) != position {
			t.Errorf("%+v stored as %+v", r, last)
		}
	})
}

func zipped(text string) io.Reader {
	var b bytes.Buffer
	w := gzip.NewWriter(&b)
	_, _ = io.WriteString(w, text)
	_ = w.Close()
	return &b
}

func TestHTTPLines(t *testing.T) {
	eachLog(t, func(t *testing.T, log events.Log) {
		f := gatewaytest.Start(t, log, gateway.Limits{MaxPayload: 1000, MaxBody: 100_000, MaxLines: 500})
		c := serveHTTP(t, f.Gateway)
		token := f.Add(t, "car-1")
		lines := func(body io.Reader, header ...string) reply {
			return c.post("car-1", "position", token, body, append(header, "Content-Type", "application/x-ndjson; charset=utf-8")...)
		}

		r := lines(strings.NewReader("{\"latitude\":1}\r\n\n{\"latitude\":2}\n{\"latitude\":3}"))
		if r.Status != 200 || r.Stored != 3 || len(r.Results) != 3 || r.Results[1].Line != 3 || r.Results[2].ID == "" {
			t.Errorf("%+v", r)
		}
		stored := f.Stored(t, "car-1")
		for i, want := range []string{`{"latitude":1}`, `{"latitude":2}`, `{"latitude":3}`} {
			if string(stored[i].Payload) != want || stored[i].ID != r.Results[i].ID {
				t.Errorf("line %d stored as %+v", i, stored[i])
			}
		}

		r = lines(zipped("{\"latitude\":4}\nnot json\n{\"latitude\":5}\n"), "Content-Encoding", "gzip")
		if r.Status != 207 || r.Stored != 3 || r.Undecodable != 1 || !r.Results[1].Kept || r.Results[1].Error.Code != "undecodable_payload" || r.Results[1].Line != 2 || r.Results[2].Error != nil {
			t.Errorf("%+v", r)
		}

		r = lines(strings.NewReader("{\"latitude\":6}\n" + strings.Repeat("x", 1001) + "\n" + strings.Repeat("y", 70_000) + "\n{\"latitude\":7}"))
		if r.Status != 413 || r.Stored != 2 || r.Refused != 2 || r.Results[1].Error.Code != "payload_too_large" || r.Results[2].Error.Code != "payload_too_large" || r.Results[3].Error != nil {
			t.Errorf("%+v %+v", r, r.Error)
		}

		for _, empty := range []string{"", "\n\n\r\n"} {
			if r := lines(strings.NewReader(empty)); r.Status != 200 || r.Results == nil || len(r.Results) != 0 {
				t.Errorf("%+v", r)
			}
		}

		before := len(f.Stored(t, "car-1"))
		r = lines(strings.NewReader(strings.Repeat("{}\n", 501)))
		if r.Status != 413 || r.Stored != 500 || len(f.Stored(t, "car-1"))-before != 500 {
			t.Errorf("too many lines: %d, %d stored, %+v", r.Status, r.Stored, r.Error)
		}
		r = lines(zipped(strings.Repeat(" ", 10_000_000)), "Content-Encoding", "gzip") // a bomb
		if r.Status != 413 {
			t.Errorf("bomb: %+v %+v", r, r.Error)
		}
		half, err := io.ReadAll(zipped("{\"latitude\":8}\n{\"latitude\":9}\n"))
		if err != nil {
			t.Fatal(err)
		}
		if r = lines(bytes.NewReader(half[:len(half)-6]), "Content-Encoding", "gzip"); r.Status != 400 || r.Error.Code != "invalid_body" {
			t.Errorf("torn body: %+v %+v", r, r.Error)
		}
	})
}

// 2xx comes only after the log has answered; a full log is 503 with the time to
// wait.
func TestHTTPAfterTheLog(t *testing.T) {
	log := &gatewaytest.HeldLog{Log: newMemlog(t)}
	f := gatewaytest.Start(t, log, gateway.Limits{})
	c := serveHTTP(t, f.Gateway)
	token := f.Add(t, "car-1")
	log.Hold()
	answered := make(chan reply, 2)
	go func() { answered <- c.post("car-1", "position", token, strings.NewReader(position)) }()
	go func() {
		answered <- c.post("car-1", "position", token, strings.NewReader("{}\n{}\n"), "Content-Type", "application/x-ndjson")
	}()
	gatewaytest.Eventually(t, "all are on their way", func() bool { return log.Held() == 3 })
	select {
	case r := <-answered:
		t.Errorf("answered %+v before the log", r)
	case <-time.After(50 * time.Millisecond):
	}
	log.Release(-1)
	for range 2 {
		if r := <-answered; r.Status != 200 {
			t.Errorf("%+v", r)
		}
	}
	log.Refuse(fmt.Errorf("append: %w", events.ErrFull))
	for _, kind := range []string{"application/json", "application/x-ndjson"} {
		if r := c.post("car-1", "position", token, strings.NewReader("{}"), "Content-Type", kind); r.Status != 503 || r.Error.Code != "log_full" || r.retryAfter == "" {
			t.Errorf("%+v %+v", r, r.Error)
		}
	}
	log.Refuse(fmt.Errorf("append: %w", events.ErrUnknown))
	if r := c.post("car-1", "position", token, strings.NewReader("{}")); r.Status != 504 || r.Error.Code != "outcome_unknown" {
		t.Errorf("%+v %+v", r, r.Error)
	}
}

func TestHTTPRates(t *testing.T) {
	f := gatewaytest.Start(t, newMemlog(t), gateway.Limits{MessagesPerSecond: 10})
	c := serveHTTP(t, f.Gateway)
	token := f.Add(t, "car-1")
	r := c.post("car-1", "position", token, strings.NewReader(strings.Repeat("{}\n", 20)), "Content-Type", "application/x-ndjson")
	if r.Status != 429 || r.Stored < 10 || r.Stored > 12 || r.Error.Code != "too_many_requests" || r.retryAfter == "" {
		t.Errorf("%+v %+v", r, r.Error)
	}
}

// A tapLog remembers what came in since it was last asked.
type tapLog struct {
	events.Log
	got []events.Event
}

func (l *tapLog) Enqueue(ctx context.Context, e events.Event, done func(error)) error {
	l.got = append(l.got, e)
	return l.Log.Enqueue(ctx, e, done)
}

// FuzzNDJSON: whatever the body, each line that was promised is stored, once and
// as it came.
func FuzzNDJSON(f *testing.F) {
	for _, body := range []string{"{}", "{}\n{}", "\n\n", "x\r\n{\"latitude\":1}", strings.Repeat("y", 300), "\x00\xff\n"} {
		f.Add([]byte(body))
	}
	log := &tapLog{Log: newMemlog(f)}
	fix := gatewaytest.Start(f, log, gateway.Limits{MaxPayload: 200, MaxLines: 50, MaxBody: 5000, MessagesPerSecond: 1e9, BytesPerSecond: 1e12})
	token := fix.Add(f, "car-1")
	h := fix.TelemetryHandler()
	mux := http.NewServeMux()
	mux.Handle("POST /v1/devices/{id}/telemetry/{message}", h)
	f.Fuzz(func(t *testing.T, body []byte) {
		log.got = nil
		req := httptest.NewRequest("POST", "/v1/devices/car-1/telemetry/position", bytes.NewReader(body))
		req.Header.Set("Authorization", "Bearer "+token)
		req.Header.Set("Content-Type", "application/x-ndjson")
		w := httptest.NewRecorder()
		mux.ServeHTTP(w, req)
		var r reply
		if err := json.Unmarshal(w.Body.Bytes(), &r); err != nil {
			t.Fatalf("%d %s: %v", w.Code, w.Body, err)
		}
		if r.Error != nil {
			if err := json.Unmarshal(r.Error.Details, &r); err != nil {
				t.Fatal(err)
			}
		}
		stored := log.got
		if len(stored) != r.Stored {
			t.Fatalf("%d stored, %d promised", len(stored), r.Stored)
		}
		lines := bytes.Split(body, []byte("\n"))
		next := 0
		for _, result := range r.Results {
			if result.Error != nil && !result.Kept {
				continue
			}
			if want := bytes.TrimRight(lines[result.Line-1], "\r"); !bytes.Equal(stored[next].Payload, want) || stored[next].ID != result.ID {
				t.Errorf("line %d %q stored as %q", result.Line, want, stored[next].Payload)
			}
			next++
		}
	})
}
