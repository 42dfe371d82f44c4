package api

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"

	"github.com/tachograph/tachograph/services/api/problem"
)

// FuzzRequest: whatever is asked, the answer is none of internal, and a refusal
// is the error body with a code of the table and its status.
func FuzzRequest(f *testing.F) {
	for _, seed := range [][3]string{
		{"POST", "/v1/devices", `{"id":"car-2"}`},
		{"POST", "/v1/devices", `{"id":"\ud800"}`},
		{"GET", "/v1/devices?limit=3&cursor=MTpjYXItMQ", ""},
		{"DELETE", "/v1/devices/%C3%A4%20b", ""},
		{"GET", "/v1/devices/%2e%2e/state", ""},
		{"POST", "/v1/schemas?name=tyre", tyre},
		{"POST", "/v1/schemas?name=tyre&dry_run=true", `{"type":"object","properties":{"a":{"$ref":"#"}}}`},
		{"POST", "/v1/schemas", `{"name":"x","text":"{}"}`},
		{"GET", "/v1/schemas/position?version=1", ""},
		{"GET", "/v1/events?device=car-1&from=1&to=2&after=1.0.1", ""},
		{"HEAD", "/v1/events", ""},
		{"POST", "/v1/devices/car-1/commands", `{"name":"unlock","parameters":{"a":[1,null]},"deadline":"1s","answer_by":1,"policy":"until_deadline","priority":1,"dry_run":true}`},
		{"POST", "/v1/devices/car-1/commands", `{"name":"\ud800","deadline":"2262-04-12T00:00:00Z","answer_by":9223372036854775807}`},
		{"POST", "/v1/commands", `{"devices":["car-1","\u0000"],"name":"x","deadline":"2562047h"}`},
		{"DELETE", "/v1/devices/car-1/commands/%00?reason=x", ""},
		{"PATCH", "//v1/../x", "x"},
	} {
		f.Add(seed[0], seed[1], seed[2])
	}
	fix := newFixture(f)
	fix.addDevice("car-1")
	fix.append("car-1", "position", `{"latitude":1}`)
	f.Fuzz(func(t *testing.T, method, target, body string) {
		u, err := url.ParseRequestURI(target)
		if err != nil || u.Scheme != "" || u.Host != "" || strings.ContainsAny(method, " \r\n") || method == "" {
			return
		}
		r := httptest.NewRequest("GET", "/", strings.NewReader(body)).WithContext(t.Context())
		r.Method, r.URL, r.RequestURI = method, u, target
		r.Header.Set("Authorization", "Bearer "+fix.admin)
		w := httptest.NewRecorder()
		fix.handler.ServeHTTP(w, r)
		if w.Code == http.StatusInternalServerError {
			t.Fatalf("%s %s: %s", method, target, w.Body)
		}
		if w.Code < 400 {
			return
		}
		var refusal struct{ Error *problem.Problem }
		if err := json.Unmarshal(w.Body.Bytes(), &refusal); err != nil || refusal.Error == nil || refusal.Error.Message == "" ||
			refusal.Error.Code.Hint() == "" || refusal.Error.Code.Status() != w.Code {
			t.Fatalf("%s %s: %d %s", method, target, w.Code, w.Body)
		}
	})
}
