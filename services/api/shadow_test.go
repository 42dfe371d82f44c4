package api

import (
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/tachograph/tachograph/services/api/problem"
)

// shadowContract is TestContract's part about shadows; car is car-1's token.
func shadowContract(t *testing.T, f *fixture, car string, refused func(call, problem.Code)) {
	admin := func(method, path, body string) call {
		return call{method: method, path: path, token: "admin", body: body}
	}
	const path = "/v1/devices/car-1/shadow"
	refused(admin("GET", path, ""), problem.ShadowNotFound)
	refused(admin("DELETE", path, ""), problem.ShadowNotFound)
	got := f.answered(admin("POST", path, `{"state":{"desired":{"a":1}},"clientToken":"x"}`), 200, nil)
	if got.header.Get(changedHeader) != "true" {
		t.Error(got.header)
	}
	if got = f.answered(admin("POST", path, `{"state":{"desired":{"a":1}}}`), 200, nil); got.header.Get(changedHeader) != "false" || !strings.Contains(string(got.body), `"version":1`) {
		t.Errorf("%v %s", got.header, got.body)
	}
	f.answered(admin("GET", "/v1/shadows/pending", ""), 200, nil)
	f.answered(call{method: "POST", path: path, token: car, body: `{"state":{"reported":{"a":1}}}`}, 200, nil)
	refused(admin("POST", path, `{"state":{"desired":{"a":1}},"version":7}`), problem.VersionConflict)
	refused(admin("POST", path, `{"state":5}`), problem.InvalidShadow)
	refused(admin("POST", path, `{"state":{"desired":{"a":"`+strings.Repeat("x", 8192)+`"}}}`), problem.PayloadTooLarge)
	refused(admin("POST", path, strings.Repeat("x", shadowBytes+1)), problem.PayloadTooLarge)
	refused(admin("POST", path, "{\"state\":{\"desired\":{\"a\":\"\xff\"}}}"), problem.UnsupportedMedia)
	refused(admin("GET", path+"?name=", ""), problem.InvalidRequest)
	refused(admin("GET", path+"?at=yesterday", ""), problem.InvalidRequest)
	f.answered(admin("GET", path, ""), 200, nil)
	f.answered(admin("POST", path+"?name=kept", `{"state":{"desired":{"a":1}}}`), 200, nil)
	f.answered(admin("GET", "/v1/devices/car-1/shadows", ""), 200, nil)
	f.answered(admin("GET", path+"/history", ""), 200, nil)
	f.answered(admin("DELETE", path, ""), 200, nil)

	awsContract(t, f, car)
}

// awsContract provokes AWS's statuses with AWS's body and error type.
func awsContract(t *testing.T, f *fixture, car string) {
	const thing = "/things/car-1/shadow"
	const names = "/api/things/shadow/ListNamedShadowsForThing/car-1"
	for _, test := range []struct {
		method, path, token, body string
		status                    int
		typ                       string
	}{
		{"GET", thing, "", "", 401, "UnauthorizedException"},
		{"POST", thing, "", "", 401, "UnauthorizedException"},
		{"DELETE", thing, "", "", 401, "UnauthorizedException"},
		{"GET", names, "", "", 401, "UnauthorizedException"},
		{"GET", "/things/car-2/shadow", car, "", 403, "ForbiddenException"},
		{"POST", "/things/car-2/shadow", car, "", 403, "ForbiddenException"},
		{"DELETE", "/things/car-2/shadow", car, "", 403, "ForbiddenException"},
		{"GET", strings.Replace(names, "car-1", "car-2", 1), car, "", 403, "ForbiddenException"},
		{"GET", thing, car, "", 404, "ResourceNotFoundException"},
		{"DELETE", thing, car, "", 404, "ResourceNotFoundException"},
		{"POST", "/things/nobody/shadow", "admin", `{"state":{}}`, 404, "ResourceNotFoundException"},
		{"GET", thing + "?x=1", car, "", 400, "InvalidRequestException"},
		{"DELETE", thing + "?x=1", car, "", 400, "InvalidRequestException"},
		{"GET", names + "?pageSize=1000", car, "", 400, "InvalidRequestException"},
		{"GET", names + "?nextToken=!", car, "", 400, "InvalidRequestException"},
		{"POST", thing, car, `{`, 400, "InvalidRequestException"},
		{"POST", thing, car, `{"state":{"reported":{"a":1}}}`, 200, ""},
		{"POST", thing, car, `{"state":{"reported":{"a":1}},"version":99}`, 409, "ConflictException"},
		{"POST", thing, car, `{"state":{"reported":{"b":"` + strings.Repeat("x", 8192) + `"}}}`, 413, "RequestEntityTooLargeException"},
		{"POST", thing, car, strings.Repeat("x", shadowBytes+1), 413, "RequestEntityTooLargeException"},
		{"POST", thing, car, "\xff", 415, "UnsupportedDocumentEncodingException"},
		{"GET", thing, car, "", 200, ""},
		{"POST", thing + "?name=doors", car, `{"state":{"reported":{"a":1}}}`, 200, ""},
		{"GET", names + "?pageSize=1", car, "", 200, ""},
		{"GET", names + "?pageSize=1&nextToken=" + cursorAfter("doors"), car, "", 200, ""},
		{"DELETE", thing, car, "", 200, ""},
	} {
		c := call{method: test.method, path: test.path, token: test.token, body: test.body}
		if got := f.answered(c, test.status, nil); got.header.Get("X-Amzn-ErrorType") != test.typ {
			t.Errorf("%s %s: %v", test.method, test.path, got.header)
		}
	}
}

// TestShadowAt: the document of an earlier moment, and what led there.
func TestShadowAt(t *testing.T) {
	f := newFixture(t)
	f.addDevice("car-1")
	const path = "/v1/devices/car-1/shadow"
	start := time.Date(2026, 5, 1, 10, 0, 0, 0, time.UTC)
	for i, body := range []string{`{"state":{"desired":{"a":1}}}`, `{"state":{"desired":{"a":2}}}`, `{"state":{"desired":{"b":3}}}`} {
		at := start.Add(time.Duration(i) * time.Minute)
		f.now.Store(&at)
		f.answered(call{method: "POST", path: path, token: "admin", body: body}, 200, nil)
	}
	for at, want := range map[string]string{
		"2026-05-01T10:00:30Z": `{"desired":{"a":1},"delta":{"a":1}}`,
		"2026-05-01T10:01:00Z": `{"desired":{"a":2},"delta":{"a":2}}`,
		"2026-05-01T11:00:00Z": `{"desired":{"a":2,"b":3},"delta":{"a":2,"b":3}}`,
	} {
		got := f.answered(call{method: "GET", path: path + "?at=" + at, token: "admin"}, 200, nil)
		if !strings.Contains(string(got.body), want) || got.header.Get(positionHeader) == "" {
			t.Errorf("%s: %v %s", at, got.header, got.body)
		}
	}
	f.refused(call{method: "GET", path: path + "?at=2026-05-01T09:00:00Z", token: "admin"}, problem.ShadowNotFound)

	var page struct {
		Changes []shadowChange
		More    bool
	}
	f.answered(call{method: "GET", path: path + "/history?limit=2", token: "admin"}, 200, &page)
	if len(page.Changes) != 2 || !page.More || !strings.Contains(string(page.Changes[0].Fact), `"by":"admin"`) {
		t.Errorf("%+v", page)
	}
	last := page.Changes[1].Position.String()
	f.answered(call{method: "GET", path: path + "/history?limit=2&after=" + last, token: "admin", header: http.Header{}}, 200, &page)
	if len(page.Changes) != 1 || page.More {
		t.Errorf("%+v", page)
	}
}
