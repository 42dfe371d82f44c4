package api

import (
	"net/http"
	"strings"
	"testing"

	"github.com/tachograph/tachograph/services/api/problem"
)

// forgetContract is TestContract's part about forgetting.
func forgetContract(f *fixture, refused func(call, problem.Code)) {
	f.t.Helper()
	ask := func(body string) call { return call{method: "POST", path: "/v1/forget", token: "admin", body: body} }
	refused(ask(`{}`), problem.InvalidBody)
	refused(ask(`{"device":"car-1","from":"yesterday"}`), problem.InvalidBody)
	refused(ask(`{"device":"a/b"}`), problem.InvalidDeviceID)
	refused(ask(`{"device":"car-1","from":"2026-05-01T10:00:00Z","to":"2026-05-01T10:00:00Z"}`), problem.InvalidRequest)
	refused(ask(`{"device":"`+strings.Repeat("x", deviceBytes)+`"}`), problem.PayloadTooLarge)
	refused(call{method: "POST", path: "/v1/forget", token: "admin", body: "x", header: http.Header{"Content-Type": {"image/png"}}}, problem.UnsupportedMedia)
	refused(call{method: "GET", path: "/v1/forget/nothing", token: "admin"}, problem.ForgetNotFound)
	for _, body := range []string{`{"device":"car-1","from":"2026-05-01T10:00:00+02:00","to":"1777629600001"}`, `{"device":"gone","to":"2126-05-01T10:00:00Z"}`} {
		var asked struct{ ID, State string }
		f.answered(ask(body), 202, &asked)
		f.answered(call{method: "GET", path: "/v1/forget/" + asked.ID, token: "admin"}, 200, &asked)
		if asked.State != "asked" {
			f.t.Errorf("%+v", asked)
		}
	}
	for path, want := range map[string]int{"": 2, "?device=gone": 1, "?device=nobody": 0} {
		var list struct{ Requests []struct{ Device string } }
		f.answered(call{method: "GET", path: "/v1/forget" + path, token: "admin"}, 200, &list)
		if len(list.Requests) != want {
			f.t.Errorf("%s: %+v", path, list)
		}
	}
}

// TestForgetNamesTheDay: times are kept to the microsecond, as they are compared.
func TestForgetNamesTheDay(t *testing.T) {
	f := newFixture(t)
	var asked struct{ From, To string }
	f.answered(call{method: "POST", path: "/v1/forget", token: "admin",
		body: `{"device":"car-1","from":"2026-05-01T10:00:00.1234567Z","to":"2026-05-01T11:00:00+01:00"}`}, 400, nil)
	f.answered(call{method: "POST", path: "/v1/forget", token: "admin",
		body: `{"device":"car-1","from":"2026-05-01T10:00:00.1234567Z","to":"2026-05-01T12:00:00+01:00"}`}, 202, &asked)
	if asked.From != "2026-05-01T10:00:00.123456Z" || asked.To != "2026-05-01T11:00:00Z" {
		t.Errorf("%+v", asked)
	}
}
