package api

import (
	"bufio"
	"context"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/tachograph/tachograph/services/api/problem"
)

func TestUnrouted(t *testing.T) {
	f := newFixture(t)
	for _, path := range []string{"/", "/v1", "/v1/", "/v1/devices/", "/v1//devices", "/v1/devices/a/../b", "/v1/devices/a/b", "/metrics/", "/v1/devices/a/telemetry/"} {
		f.refused(call{method: "GET", path: path, token: "admin"}, problem.NotFound)
	}
	for path, allow := range map[string]string{
		"/v1/devices":                  "GET, HEAD, POST",
		"/v1/devices/a":                "DELETE, GET, HEAD",
		"/v1/devices/a/token":          "POST",
		"/v1/devices/a/telemetry/bump": "POST",
		"/healthz":                     "GET, HEAD",
	} {
		got := f.do(call{method: "PATCH", path: path, token: "admin"})
		if got.status != 405 || got.header.Get("Allow") != allow {
			t.Errorf("PATCH %s: %d, allow %q, want %q", path, got.status, got.header.Get("Allow"), allow)
		}
	}
}

func TestHeaders(t *testing.T) {
	f := newFixture(t)
	for sent, kept := range map[string]bool{"abc-1.2_X": true, "": false, "a b": false, strings.Repeat("x", 65): false, "ä": false} {
		got := f.do(call{method: "GET", path: "/healthz", header: http.Header{"X-Request-Id": {sent}}})
		if id := got.header.Get("X-Request-Id"); (id == sent) != kept || id == "" {
			t.Errorf("request id %q: answered %q", sent, id)
		}
	}
	for _, path := range []string{"/healthz", "/nowhere", "/v1/devices"} {
		got := f.do(call{method: "GET", path: path})
		for _, name := range []string{"X-Request-Id", "X-Content-Type-Options", "Content-Security-Policy", "Referrer-Policy", "Cache-Control"} {
			if got.header.Get(name) == "" {
				t.Errorf("%s: no header %s", path, name)
			}
		}
	}
}

// A panic is answered as internal, logged with its request, and harms nobody else.
func TestPanic(t *testing.T) {
	f := newFixture(t)
	a := &api{mux: http.NewServeMux(), metrics: newMetrics(), logger: f.logger()}
	a.mux.HandleFunc("GET /boom", func(http.ResponseWriter, *http.Request) { panic("boom") })
	a.mux.HandleFunc("GET /half", func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "half"); panic("boom") })
	srv := httptest.NewServer(a)
	defer srv.Close()
	resp, err := http.Get(srv.URL + "/boom")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != 500 || !strings.Contains(string(body), `"internal"`) || strings.Contains(string(body), "boom") {
		t.Errorf("%d %s %v", resp.StatusCode, body, err)
	}
	if !strings.Contains(f.logged.String(), "boom") || !strings.Contains(f.logged.String(), resp.Header.Get("X-Request-Id")) {
		t.Errorf("log %s", f.logged)
	}
	if resp, err := http.Get(srv.URL + "/half"); err == nil {
		defer resp.Body.Close()
		if body, err := io.ReadAll(resp.Body); err == nil {
			t.Errorf("half an answer passed for a whole one: %q", body)
		}
	}
}

// A body that does not come in time is a timeout, in the error body.
func TestSlowBody(t *testing.T) {
	f := newFixture(t)
	srv := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_ = http.NewResponseController(w).SetReadDeadline(time.Now().Add(50 * time.Millisecond))
		f.handler.ServeHTTP(w, r)
	}))
	srv.Start()
	defer srv.Close()
	conn, err := (&net.Dialer{}).DialContext(t.Context(), "tcp", srv.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := io.WriteString(conn, "POST /v1/devices HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer "+f.admin+"\r\nContent-Length: 100\r\n\r\n{"); err != nil {
		t.Fatal(err)
	}
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != 408 || !strings.Contains(string(body), `"timeout"`) {
		t.Errorf("%d %s %v", resp.StatusCode, body, err)
	}
}

// Metrics name routes, never paths.
func TestMetrics(t *testing.T) {
	f := newFixture(t)
	f.addDevice("car-secret")
	f.do(call{method: "GET", path: "/v1/devices/car-secret", token: "admin"})
	f.do(call{method: "GET", path: "/nowhere/car-secret"})
	f.do(call{method: "BREW", path: "/healthz"})
	got := f.do(call{method: "GET", path: "/metrics"})
	text := string(got.body)
	for _, want := range []string{
		`tacho_http_requests_total{method="GET",route="GET /v1/devices/{id}",status="200"} 1`,
		`tacho_http_requests_total{method="GET",route="none",status="404"} 1`,
		`tacho_http_requests_total{method="other",route="none",status="405"} 1`,
		`tacho_http_requests_in_flight 1`,
	} {
		if !strings.Contains(text, want) {
			t.Errorf("no %s in\n%s", want, text)
		}
	}
	if strings.Contains(text, "car-secret") {
		t.Error("a device's id became a label")
	}
}

// A request whose client has gone ends; nothing is answered, nothing logged as
// a defect.
func TestClientGone(t *testing.T) {
	f := newFixture(t)
	entered, release := make(chan struct{}, 1), make(chan struct{})
	f.hold.Store(&holding{entered: entered, release: release})
	ctx, cancel := context.WithCancel(t.Context())
	req, err := http.NewRequestWithContext(ctx, "GET", f.url+"/v1/events?device=car-1", nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+f.admin)
	gone := make(chan struct{})
	go func() {
		defer close(gone)
		if resp, err := noRedirects.Do(req); err == nil {
			resp.Body.Close()
			t.Error("answered")
		}
	}()
	<-entered
	cancel()
	<-gone
	close(release)
	f.hold.Store(nil)
	f.answered(call{method: "GET", path: "/healthz"}, 200, nil)
}
