package api

import (
	"context"
	"errors"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/tachograph/tachograph/events"
	"github.com/tachograph/tachograph/services/api/problem"
)

const tyre = `syntax = "proto3"; message Tyre { double pressure = 1; }`

// TestContract provokes every documented status of every route, and every code
// of the table.
func TestContract(t *testing.T) {
	if testing.Short() {
		t.Skip("long, and one call after another: make test runs this")
	}
	hold := make(chan struct{})
	f := newFixture(t, withReplays(hold), withQueries(contractLimits))
	car := f.addDevice("car-1")
	f.append("car-1", "position", `{"latitude":52.5}`)
	if _, err := f.kv.Put(t.Context(), events.Escape("car-1"), []byte(stateOfCar1)); err != nil {
		t.Fatal(err)
	}
	codes := map[problem.Code]bool{}
	refused := func(c call, code problem.Code) {
		t.Helper()
		codes[code] = true
		f.refused(c, code)
	}
	admin := func(method, path, body string) call {
		return call{method: method, path: path, token: "admin", body: body}
	}

	// What every admin call refuses alike.
	for _, c := range []struct{ method, path string }{
		{"POST", "/v1/devices"}, {"GET", "/v1/devices"}, {"GET", "/v1/devices/car-1"}, {"DELETE", "/v1/devices/car-1"},
		{"POST", "/v1/devices/car-1/token"}, {"GET", "/v1/devices/car-1/state"}, {"POST", "/v1/schemas"}, {"GET", "/v1/schemas"},
		{"GET", "/v1/devices/car-1/shadow"}, {"POST", "/v1/devices/car-1/shadow"}, {"DELETE", "/v1/devices/car-1/shadow"},
		{"GET", "/v1/devices/car-1/shadow/history"}, {"GET", "/v1/devices/car-1/shadows"}, {"GET", "/v1/shadows/pending"},
		{"POST", "/v1/devices/car-1/commands"}, {"GET", "/v1/devices/car-1/commands"}, {"GET", "/v1/devices/car-1/commands/x"},
		{"DELETE", "/v1/devices/car-1/commands/x"}, {"GET", "/v1/devices/car-1/commands/x/events"}, {"POST", "/v1/commands"},
		{"GET", "/v1/schemas/position"}, {"GET", "/v1/events"}, {"GET", "/v1/projections"}, {"GET", "/v1/query"}, {"POST", "/v1/query"}, {"GET", "/v1/query/x"}, {"GET", "/v1/log"},
		{"POST", "/v1/forget"}, {"GET", "/v1/forget"}, {"GET", "/v1/forget/x"},
		{"POST", "/v1/replays/columnar"}, {"GET", "/v1/replays/columnar"}, {"DELETE", "/v1/replays/columnar"}, {"POST", "/v1/replays/columnar/undo"}, {"POST", "/v1/replays/columnar/discard"},
		{"GET", "/v1/dead-letters"}, {"GET", "/v1/dead-letters/1.0.1-0"}, {"POST", "/v1/dead-letters/replay"}, {"POST", "/v1/dead-letters/drop"},
		{"POST", "/v1/verify"},
	} {
		refused(call{method: c.method, path: c.path}, problem.Unauthenticated)
		refused(call{method: c.method, path: c.path, token: "tacho_wrong"}, problem.Unauthenticated)
		switch c.path {
		default:
			refused(call{method: c.method, path: c.path, token: f.analyst}, problem.Forbidden)
		case "/v1/query/x":
			refused(call{method: c.method, path: c.path, token: f.analyst}, problem.QueryNotFound)
		case "/v1/query":
			refused(call{method: c.method, path: c.path, token: f.analyst}, problem.InvalidRequest) // there is no statement
		}
		refused(call{method: c.method, path: c.path + "?nonsense=1", token: "admin"}, problem.InvalidRequest)
		if own := strings.HasPrefix(c.path, "/v1/devices/car-1/s"); !own {
			refused(call{method: c.method, path: c.path, token: car}, problem.Forbidden)
		} else {
			refused(call{method: c.method, path: strings.Replace(c.path, "car-1", "car-9", 1), token: car}, problem.Forbidden)
		}
	}

	// Devices.
	f.answered(admin("POST", "/v1/devices", `{"id":"car-2"}`), 201, nil)
	refused(admin("POST", "/v1/devices", `{"id":"car-2"}`), problem.DeviceExists)
	refused(admin("POST", "/v1/devices", `{"id":`), problem.InvalidBody)
	refused(admin("POST", "/v1/devices", `{"id":"a/b"}`), problem.InvalidDeviceID)
	refused(admin("POST", "/v1/devices", `{"id":"`+strings.Repeat("x", deviceBytes)+`"}`), problem.PayloadTooLarge)
	refused(call{method: "POST", path: "/v1/devices", token: "admin", body: `x`,
		header: http.Header{"Content-Encoding": {"gzip"}}}, problem.UnsupportedMedia)
	refused(call{method: "POST", path: "/v1/devices", token: "admin", body: `x`,
		header: http.Header{"Content-Type": {"image/png"}}}, problem.UnsupportedMedia)
	f.answered(admin("GET", "/v1/devices", ""), 200, nil)
	f.answered(admin("GET", "/v1/devices/car-1", ""), 200, nil)
	f.answered(admin("POST", "/v1/devices/car-2/token", ""), 200, nil)
	for _, c := range []struct{ method, path string }{
		{"GET", ""}, {"DELETE", ""}, {"POST", "/token"}, {"GET", "/state"},
		{"GET", "/shadow"}, {"POST", "/shadow"}, {"DELETE", "/shadow"}, {"GET", "/shadow/history"}, {"GET", "/shadows"},
		{"POST", "/commands"}, {"GET", "/commands"}, {"GET", "/commands/x"}, {"DELETE", "/commands/x"}, {"GET", "/commands/x/events"},
	} {
		refused(admin(c.method, "/v1/devices/nobody"+c.path, ""), problem.DeviceNotFound)
		refused(admin(c.method, "/v1/devices/a%2Fb"+c.path, ""), problem.InvalidDeviceID)
	}
	f.answered(admin("GET", "/v1/devices/car-1/state", ""), 200, nil)
	refused(admin("GET", "/v1/devices/car-2/state", ""), problem.StateNotFound)
	f.answered(call{method: "GET", path: "/v1/devices/car-1/state", token: car}, 200, nil)
	refused(call{method: "GET", path: "/v1/devices/car-2/state", token: car}, problem.Forbidden)
	etag := f.do(admin("GET", "/v1/devices/car-1/state", "")).header.Get("ETag")
	f.answered(call{method: "GET", path: "/v1/devices/car-1/state", token: "admin", header: http.Header{"If-None-Match": {etag}}}, 304, nil)

	shadowContract(t, f, car, refused)
	letterContract(f, refused)
	verifyContract(f, refused)
	replayContract(f, hold, refused)
	commandContract(t, f, refused)
	askContract(f, refused)
	forgetContract(f, refused)

	// Telemetry: the gateway's answers, by the same document and table.
	lines := http.Header{"Content-Type": {"application/x-ndjson"}}
	send := func(path, token, body string, header http.Header) call {
		return call{method: "POST", path: "/v1/devices/" + path, token: token, body: body, header: header}
	}
	f.answered(send("car-1/telemetry/position", car, `{"latitude":1}`, asJSON), 200, nil)
	f.answered(send("car-1/telemetry/position", car, "{\"latitude\":1}\n{\"latitude\":2}\n", lines), 200, nil)
	f.answered(send("car-1/telemetry/position", car, "{\"latitude\":1}\n{\"latitude\":\n", lines), 207, nil)
	refused(send("car-1/telemetry/position", car, `{"latitude":"north"}`, asJSON), problem.UndecodablePayload)
	refused(send("car-1/telemetry/position", "", `{}`, asJSON), problem.Unauthenticated)
	refused(send("car-2/telemetry/position", car, `{}`, asJSON), problem.Forbidden)
	refused(send("car-1/telemetry/Position", car, `{}`, asJSON), problem.InvalidMessageType)
	refused(send("car-1/telemetry/position", car, `{}`, http.Header{"Content-Type": {"image/png"}}), problem.UnsupportedMedia)
	refused(send("car-1/telemetry/position", car, strings.Repeat(" ", 2<<20), asJSON), problem.PayloadTooLarge)
	f.failing("enqueue", events.ErrFull, func() {
		refused(send("car-1/telemetry/position", car, `{"latitude":1}`, asJSON), problem.LogFull)
		refused(send("car-1/telemetry/position", car, `{"latitude":1}`, lines), problem.LogFull)
	})

	// Schemas.
	f.answered(admin("POST", "/v1/schemas?name=tyre", tyre), 201, nil)
	f.answered(admin("POST", "/v1/schemas?name=tyre", tyre), 200, nil)
	refused(admin("POST", "/v1/schemas?name=tyre", strings.Replace(tyre, "double", "string", 1)), problem.IncompatibleSchema)
	refused(admin("POST", "/v1/schemas?name=events", tyre), problem.InvalidMessageType)
	refused(admin("POST", "/v1/schemas?name=broken", `syntax = "proto3"; message {`), problem.InvalidSchema)
	refused(admin("POST", "/v1/schemas", `[]`), problem.InvalidBody)
	refused(admin("POST", "/v1/schemas", strings.Repeat("x", schemaBytes+1)), problem.PayloadTooLarge)
	refused(call{method: "POST", path: "/v1/schemas", token: "admin", body: `x`,
		header: http.Header{"Content-Type": {"video/mp4"}}}, problem.UnsupportedMedia)
	f.answered(admin("GET", "/v1/schemas", ""), 200, nil)
	f.answered(admin("GET", "/v1/schemas/tyre", ""), 200, nil)
	refused(admin("GET", "/v1/schemas/nothing", ""), problem.SchemaNotFound)

	// Events.
	f.answered(admin("GET", "/v1/events?device=car-1", ""), 200, nil)
	refused(admin("GET", "/v1/events?kind=credential", ""), problem.Forbidden)
	f.failing("locate", &events.TruncatedError{}, func() {
		refused(admin("GET", "/v1/events?device=car-1", ""), problem.HistoryTruncated)
	})
	refused(admin("GET", "/v1/events?from=1.0.99999", ""), problem.UnknownPosition)
	f.failing("read", events.ErrClosed, func() {
		refused(admin("GET", "/v1/events?device=car-1", ""), problem.Unavailable)
	})
	f.failing("read", errors.New("disk is on fire"), func() {
		refused(admin("GET", "/v1/events?device=car-1", ""), problem.Internal)
	})
	holdReaders(t, f, func() { refused(admin("GET", "/v1/events", ""), problem.TooManyRequests) })

	// A log that takes nothing, or does not tell whether it did.
	writes := []call{
		admin("POST", "/v1/devices", `{"id":"car-3"}`),
		admin("POST", "/v1/devices/car-2/token", ""),
		admin("DELETE", "/v1/devices/car-2", ""),
		admin("POST", "/v1/devices/car-1/shadow", `{"state":{"desired":{"full":1}}}`),
		admin("DELETE", "/v1/devices/car-1/shadow?name=kept", ""),
		admin("POST", "/v1/devices/car-1/commands", `{"name":"honk"}`),
		admin("POST", "/v1/schemas?name=wheel", tyre),
		admin("POST", "/v1/forget", `{"device":"car-1"}`),
	}
	for _, c := range writes {
		f.failing("append", events.ErrFull, func() { refused(c, problem.LogFull) })
		f.failing("append", events.ErrUnknown, func() { refusedAny(f, c, codes, problem.OutcomeUnknown) })
	}

	// Operation.
	f.answered(call{method: "GET", path: "/healthz"}, 200, nil)
	f.answered(call{method: "GET", path: "/readyz"}, 200, nil)
	why := []string{"clickhouse: not reachable"}
	f.ready.Store(&why)
	refused(call{method: "GET", path: "/readyz"}, problem.NotReady)
	f.ready.Store(nil)
	f.do(call{method: "GET", path: "/metrics"})
	f.do(call{method: "GET", path: "/openapi.yaml"})
	f.answered(admin("GET", "/v1/projections", ""), 200, nil)
	purgeContract(f, refused)
	refused(call{method: "GET", path: "/v2"}, problem.NotFound)
	refused(call{method: "PUT", path: "/v1/devices"}, problem.MethodNotAllowed)

	f.addDevice("car-4")
	f.answered(admin("DELETE", "/v1/devices/car-1", ""), 204, nil)
	f.nats.Shutdown()
	refused(admin("GET", "/v1/devices/car-4/state", ""), problem.Unavailable)

	everyStatusSeen(t)
	// TestSlowBody; and auth and catalog decide again by themselves, so that
	// problem's own test is where a conflict is seen.
	others := []problem.Code{problem.Timeout, problem.Conflict}
	for code := range problem.Codes() {
		if !codes[code] && !slices.Contains(others, code) {
			t.Errorf("code %s: no call provokes it", code)
		}
	}
}

// refusedAny makes a call whose outcome the log does not tell. The packages
// below may look and find that it did happen; then it is a success or a conflict.
func refusedAny(f *fixture, c call, codes map[problem.Code]bool, code problem.Code) {
	f.t.Helper()
	got := f.do(c)
	if got.status/100 == 2 {
		return
	}
	if got.status != code.Status() || !strings.Contains(string(got.body), string(code)) {
		f.t.Errorf("%s %s: %d %s, want %s", c.method, c.path, got.status, got.body, code)
	}
	codes[code] = true
}

// holdReaders takes all the places of readers of events while do runs.
func holdReaders(t *testing.T, f *fixture, do func()) {
	t.Helper()
	release := make(chan struct{})
	entered := make(chan struct{}, eventReaders)
	f.hold.Store(&holding{entered: entered, release: release})
	defer f.hold.Store(nil)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	done := make(chan struct{}, eventReaders)
	for range eventReaders {
		go func() {
			defer func() { done <- struct{}{} }()
			req, err := http.NewRequestWithContext(ctx, "GET", f.url+"/v1/events?device=car-1", nil)
			if err != nil {
				t.Error(err)
				return
			}
			req.Header.Set("Authorization", "Bearer "+f.admin)
			resp, err := noRedirects.Do(req)
			if err != nil {
				t.Error(err)
				return
			}
			_ = resp.Body.Close() // what it holds is not the point
		}()
	}
	for range eventReaders {
		<-entered
	}
	do()
	close(release)
	for range eventReaders {
		<-done
	}
}

// everyStatusSeen tells which documented statuses no call has had.
func everyStatusSeen(t *testing.T) {
	t.Helper()
	d := openapi(t)
	for path, item := range d.model.Paths.Map() {
		for method, operation := range item.Operations() {
			for _, status := range operation.Responses.Keys() {
				if _, err := strconv.Atoi(status); err != nil {
					continue // 4XX and 5XX of the gateway
				}
				if !d.seen[method+" "+path+" "+status] {
					t.Errorf("%s %s: documented status %s was never answered", method, path, status)
				}
			}
		}
	}
}

const stateOfCar1 = `{"device":"car-1","position":{"epoch":1,"partition":0,"seq":1},"received":"2026-11-23T10:00:00.1Z",` +
	`"messages":{"position":{"latitude":{"value":52.5,"time":"2026-11-23T10:00:00Z","received":"2026-11-23T10:00:00.1Z"}}}}`
