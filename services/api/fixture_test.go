package api

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/tachograph/tachograph/events"
	"github.com/tachograph/tachograph/events/memlog"
	"github.com/tachograph/tachograph/projections"
	"github.com/tachograph/tachograph/projections/catalog"
	"github.com/tachograph/tachograph/projections/columnar"
	"github.com/tachograph/tachograph/projections/columnar/engine"
	"github.com/tachograph/tachograph/projections/forgotten"
	"github.com/tachograph/tachograph/projections/latest"
	"github.com/tachograph/tachograph/services/api/problem"
	"github.com/tachograph/tachograph/services/auth"
	"github.com/tachograph/tachograph/services/commands"
	"github.com/tachograph/tachograph/services/gateway"
	asking "github.com/tachograph/tachograph/services/query"
	"github.com/tachograph/tachograph/services/retention"
	"github.com/tachograph/tachograph/services/roster"
	"github.com/tachograph/tachograph/services/shadows"
)

// A fixture is the whole API over a log in memory and a bucket of an embedded
// NATS server, called over a real socket. Every answer it gets is held against
// openapi.yaml.
type fixture struct {
	t        testing.TB
	log      *memlog.Log
	catalog  *catalog.Catalog
	devices  *auth.Directory
	commands *commands.Commands
	roster   *roster.Roster
	kv       jetstream.KeyValue
	nats     *server.Server
	url      string
	admin    string
	analyst  string
	handler  http.Handler
	logged   *logBuffer
	asked    *engine.Engine // with withQueries
	asks     *asking.Client
	server   columnar.Server // of withReplays

	fault atomic.Pointer[faultOf] // what the log's next steps answer
	step  atomic.Pointer[func(op string) error]
	now   atomic.Pointer[time.Time]
	ready atomic.Pointer[[]string]
	hold  atomic.Pointer[holding] // where reads wait
}

type holding struct {
	entered chan<- struct{}
	release <-chan struct{}
}

type faultOf struct {
	op  string
	err error
}

type idleRunner struct{ status projections.Status }

func (r idleRunner) Name() string                  { return r.status.Name }
func (r idleRunner) Run(ctx context.Context) error { <-ctx.Done(); return nil }
func (r idleRunner) Status() projections.Status    { return r.status }

// A logBuffer is a bytes.Buffer for several goroutines.
type logBuffer struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (b *logBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.Write(p)
}

func (b *logBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.String()
}

func (f *fixture) logger() *slog.Logger { return slog.New(slog.NewTextHandler(f.logged, nil)) }

func newFixture(t testing.TB, options ...func(*fixture, *Config)) *fixture {
	t.Helper()
	f := &fixture{t: t, logged: new(logBuffer)}
	f.log = memlog.New(memlog.Options{
		Now: func() time.Time {
			if at := f.now.Load(); at != nil {
				return *at
			}
			return time.Now()
		},
		Fault: func(op string) error {
			if hold := f.hold.Load(); hold != nil && (op == "read" || op == "inspect") {
				hold.entered <- struct{}{}
				<-hold.release
			}
			if step := f.step.Load(); step != nil {
				return (*step)(op)
			}
			if fault := f.fault.Load(); fault != nil && fault.op == op {
				return fault.err
			}
			return nil
		},
	})
	ctx, cancel := context.WithCancel(context.Background())
	logger := slog.New(slog.NewTextHandler(io.Discard, nil))
	var err error
	if f.catalog, err = catalog.Open(ctx, f.log, logger); err != nil {
		t.Fatal(err)
	}
	if f.devices, err = auth.Open(ctx, f.log, logger); err != nil {
		t.Fatal(err)
	}
	fleet, err := shadows.Open(ctx, shadows.Config{Log: f.log, Now: func() time.Time {
		if at := f.now.Load(); at != nil {
			return *at
		}
		return time.Now()
	}})
	if err != nil {
		t.Fatal(err)
	}
	orders, err := commands.Open(ctx, commands.Config{Log: f.log, Limits: commands.Limits{Open: openCommands}, Known: func(id string) bool { _, ok := f.devices.Get(id); return ok }})
	if err != nil {
		t.Fatal(err)
	}
	f.commands = orders
	if f.roster, err = roster.Open(ctx, roster.Config{Log: f.log}); err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	admin, err := auth.AdminToken(dir)
	if err != nil {
		t.Fatal(err)
	}
	token, err := os.ReadFile(filepath.Join(dir, "admin.token"))
	if err != nil {
		t.Fatal(err)
	}
	f.admin = strings.TrimSpace(string(token))
	analyst, err := auth.AnalystToken(dir)
	if err != nil {
		t.Fatal(err)
	}
	if token, err = os.ReadFile(filepath.Join(dir, auth.AnalystFile)); err != nil {
		t.Fatal(err)
	}
	f.analyst = strings.TrimSpace(string(token))
	f.openBucket()

	ledger, err := forgotten.Open(ctx, f.log)
	if err != nil {
		t.Fatal(err)
	}
	following := make(chan struct{}, 6)
	go func() { _ = ledger.Run(ctx, f.log); following <- struct{}{} }() // ends with ctx
	go func() { _ = f.roster.Run(ctx); following <- struct{}{} }()      // ends with ctx
	go func() { _ = orders.Run(ctx); following <- struct{}{} }()        // ends with ctx
	go func() { _ = fleet.Run(ctx); following <- struct{}{} }()         // ends with ctx
	go func() { _ = f.catalog.Run(ctx); following <- struct{}{} }()     // ends with ctx
	go func() { _ = f.devices.Run(ctx); following <- struct{}{} }()

	c := Config{
		Log: f.log, Catalog: f.catalog, Auth: f.devices, Admin: admin, Analyst: analyst, KV: f.kv, Past: &latest.Past{Log: f.log, Catalog: f.catalog}, Shadows: fleet, Commands: orders, Roster: f.roster,
		Forgetter: retention.NewForgetter(retention.ForgetConfig{Log: f.log, Ledger: ledger, Logger: logger}),
		Janitor:   retention.New(retention.Config{Log: f.log, Keep: time.Hour, Logger: logger}),
		Telemetry: gateway.New(gateway.Config{Log: f.log, Catalog: f.catalog, Auth: f.devices, Metrics: prometheus.NewRegistry()}).TelemetryHandler(),
		Ready: func() (bool, []string) {
			if why := f.ready.Load(); why != nil {
				return false, *why
			}
			return true, nil
		},
		Metrics: prometheus.NewRegistry(),
		Runners: []projections.Runner{idleRunner{projections.Status{Name: "latest", Tail: 3, Lag: 1}}},
		Logger:  f.logger(),
	}
	for _, option := range options {
		option(f, &c)
	}
	h := New(c)
	f.handler = h
	srv := httptest.NewUnstartedServer(h)
	srv.Config = Server(h, logger)
	srv.Start()
	f.url = srv.URL
	t.Cleanup(func() {
		srv.Close()
		cancel()
		for range cap(following) {
			<-following
		}
		if err := f.log.Close(); err != nil {
			t.Error(err)
		}
	})
	return f
}

func (f *fixture) openBucket() {
	f.t.Helper()
	srv, err := server.NewServer(&server.Options{DontListen: true, JetStream: true, StoreDir: f.t.TempDir(), NoSigs: true})
	if err != nil {
		f.t.Fatal(err)
	}
	srv.Start()
	if !srv.ReadyForConnections(10 * time.Second) {
		f.t.Fatal("nats-server is not ready")
	}
	nc, err := nats.Connect("", nats.InProcessServer(srv))
	if err != nil {
		f.t.Fatal(err)
	}
	js, err := jetstream.New(nc)
	if err != nil {
		f.t.Fatal(err)
	}
	f.kv, err = js.CreateKeyValue(f.t.Context(), jetstream.KeyValueConfig{Bucket: "latest"})
	if err != nil {
		f.t.Fatal(err)
	}
	f.nats = srv
	f.t.Cleanup(func() {
		nc.Close()
		srv.Shutdown()
		srv.WaitForShutdown()
	})
}

// A call is a request and, once made, its answer.
type call struct {
	method, path string
	token        string // "admin" stands for the admin token
	body         string
	header       http.Header
}

type reply struct {
	status int
	header http.Header
	body   []byte
}

// do makes the call and holds the answer against openapi.yaml.
func (f *fixture) do(c call) reply {
	f.t.Helper()
	got, req := f.send(c)
	conform(f.t, req, got)
	return got
}

func (f *fixture) send(c call) (reply, *http.Request) {
	f.t.Helper()
	req, err := http.NewRequestWithContext(f.t.Context(), c.method, f.url+c.path, strings.NewReader(c.body))
	if err != nil {
		f.t.Fatal(err)
	}
	for name, values := range c.header {
		req.Header[name] = values
	}
	switch c.token {
	case "":
	case "admin":
		req.Header.Set("Authorization", "Bearer "+f.admin)
	default:
		req.Header.Set("Authorization", "Bearer "+c.token)
	}
	resp, err := noRedirects.Do(req)
	if err != nil {
		f.t.Fatalf("%s %s: %v", c.method, c.path, err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		f.t.Fatalf("%s %s: %v", c.method, c.path, err)
	}
	return reply{resp.StatusCode, resp.Header, body}, req
}

var noRedirects = &http.Client{
	CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
}

// refused makes the call and wants it refused with the code.
func (f *fixture) refused(c call, code problem.Code) *problem.Problem {
	f.t.Helper()
	got := f.do(c)
	var body struct{ Error *problem.Problem }
	if err := json.Unmarshal(got.body, &body); err != nil || body.Error == nil {
		f.t.Fatalf("%s %s: %d %s, want %s", c.method, c.path, got.status, got.body, code)
	}
	if body.Error.Code != code || got.status != code.Status() {
		f.t.Errorf("%s %s: %d %s, want %d %s", c.method, c.path, got.status, got.body, code.Status(), code)
	}
	return body.Error
}

// answered makes the call, wants the status and decodes the answer.
func (f *fixture) answered(c call, status int, into any) reply {
	f.t.Helper()
	got := f.do(c)
	if got.status != status {
		f.t.Fatalf("%s %s: %d %s, want %d", c.method, c.path, got.status, got.body, status)
	}
	if into != nil {
		if err := json.Unmarshal(got.body, into); err != nil {
			f.t.Fatalf("%s %s: %v in %s", c.method, c.path, err, got.body)
		}
	}
	return got
}

// addDevice adds a device and returns its token.
func (f *fixture) addDevice(id string) string {
	f.t.Helper()
	body, err := json.Marshal(map[string]string{"id": id})
	if err != nil {
		f.t.Fatal(err)
	}
	var d deviceToken
	f.answered(call{method: "POST", path: "/v1/devices", token: "admin", body: string(body)}, 201, &d)
	return d.Token
}

// append stores a telemetry event as the gateway would.
func (f *fixture) append(device, message, payload string) {
	f.t.Helper()
	done := make(chan error, 1)
	err := f.log.Enqueue(f.t.Context(), events.Event{
		Stream: events.Stream{Kind: events.Telemetry, ID: device}, Type: message,
		ID: events.UniqueID(), Payload: []byte(payload),
	}, func(err error) { done <- err })
	if err == nil {
		err = <-done
	}
	if err != nil {
		f.t.Fatal(err)
	}
}

// failing makes the log's steps fail while do runs.
func (f *fixture) failing(op string, err error, do func()) {
	f.fault.Store(&faultOf{op, err})
	defer f.fault.Store(nil)
	do()
}
