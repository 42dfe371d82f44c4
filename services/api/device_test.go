package api

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/tachograph/tachograph/events"
	"github.com/tachograph/tachograph/projections/presence"
	"github.com/tachograph/tachograph/services/api/problem"
)

var asJSON = http.Header{"Content-Type": {"application/json"}}

// Ids that are hard on a URL work in every place.
func TestDeviceIDs(t *testing.T) {
	f := newFixture(t)
	for _, id := range []string{
		"car.1", "a b", "ä🚗", "*", ">", "a?b=c&d", "100%", "a%2Fb", "...", ".a", "a:b@c", `"quoted\"`, "=41", "a;b", "<script>",
		strings.Repeat("x", 128),
	} {
		body, err := json.Marshal(map[string]string{"id": id})
		if err != nil {
			t.Fatal(err)
		}
		path := "/v1/devices/" + url.PathEscape(id)
		var added deviceToken
		got := f.answered(call{method: "POST", path: "/v1/devices", token: "admin", body: string(body)}, 201, &added)
		if added.ID != id || got.header.Get("Location") != path {
			t.Errorf("%q: added as %q at %q", id, added.ID, got.header.Get("Location"))
		}
		var shown device
		f.answered(call{method: "GET", path: path, token: "admin"}, 200, &shown)
		if shown.ID != id || shown.Added.IsZero() {
			t.Errorf("%q: shown as %+v", id, shown)
		}
		f.refused(call{method: "GET", path: path + "/state", token: added.Token}, problem.StateNotFound)
		var rotated deviceToken
		f.answered(call{method: "POST", path: path + "/token", token: "admin"}, 200, &rotated)
		if rotated.Token == added.Token || !f.devices.Authenticate(id, rotated.Token) || f.devices.Authenticate(id, added.Token) {
			t.Errorf("%q: the token was not replaced", id)
		}
		f.answered(call{method: "POST", path: path + "/telemetry/position", token: rotated.Token, body: `{"latitude":1}`, header: asJSON}, 200, nil)
		if sent := f.events("device=" + url.QueryEscape(id)); len(sent) != 1 || sent[0].Device != id || sent[0].Type != "position" {
			t.Errorf("%q: sent %+v", id, sent)
		}
		f.answered(call{method: "DELETE", path: path, token: "admin"}, 204, nil)
		f.refused(call{method: "GET", path: path, token: "admin"}, problem.DeviceNotFound)
	}
}

// Ids that no device can have are refused when added and when looked for.
func TestBadDeviceIDs(t *testing.T) {
	f := newFixture(t)
	for _, id := range []string{
		"a/b", "#", "+", "a+b", "\x00", "a\nb", "\x7f", " a", "a ", ".", "..", strings.Repeat("x", 129), strings.Repeat("x", 10000),
	} {
		body, err := json.Marshal(map[string]string{"id": id})
		if err != nil {
			t.Fatal(err)
		}
		f.refused(call{method: "POST", path: "/v1/devices", token: "admin", body: string(body)}, problem.InvalidDeviceID)
		escaped := strings.ReplaceAll(url.PathEscape(id), ".", "%2E")
		f.refused(call{method: "GET", path: "/v1/devices/" + escaped, token: "admin"}, problem.InvalidDeviceID)
	}
	for _, body := range []string{``, `{}`, `{"id":""}`, `{"id":1}`, `{"id":"a","extra":1}`, `{"id":"a","id":"b"}`, `{"Id":"a"}`, "{\"id\":\"\xff\"}"} {
		f.refused(call{method: "POST", path: "/v1/devices", token: "admin", body: body}, problem.InvalidBody)
	}
}

func TestDevicePages(t *testing.T) {
	f := newFixture(t)
	var want []string
	for i := range 7 {
		id := fmt.Sprintf("car-%d", i)
		f.addDevice(id)
		want = append(want, id)
	}
	var got []string
	cursor := ""
	for pages := 1; ; pages++ {
		var page struct {
			Devices []device
			Next    string
		}
		f.answered(call{method: "GET", path: "/v1/devices?limit=3" + cursor, token: "admin"}, 200, &page)
		for _, d := range page.Devices {
			got = append(got, d.ID)
		}
		if page.Next == "" {
			if pages != 3 {
				t.Errorf("%d pages, want 3", pages)
			}
			break
		}
		cursor = "&cursor=" + page.Next
	}
	if fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("got %v, want %v", got, want)
	}
	for _, query := range []string{"limit=0", "limit=1001", "limit=x", "limit=", "cursor=!", "cursor=eHg", "limit=1&limit=2", "page=2"} {
		f.refused(call{method: "GET", path: "/v1/devices?" + query, token: "admin"}, problem.InvalidRequest)
	}
}

// What a stranger is told does not depend on whether the device exists, and one
// device's token opens nothing of another's.
func TestAccess(t *testing.T) {
	f := newFixture(t)
	one, two := f.addDevice("car-1"), f.addDevice("car-2")
	stranger := f.refused(call{method: "GET", path: "/v1/devices/car-1/state", token: two}, problem.Forbidden)
	unknown := f.refused(call{method: "GET", path: "/v1/devices/nobody/state", token: two}, problem.Forbidden)
	if stranger.Message != unknown.Message {
		t.Errorf("%q and %q tell which device exists", stranger.Message, unknown.Message)
	}
	f.refused(call{method: "GET", path: "/v1/devices/car-1/state", token: one}, problem.StateNotFound)
	for _, header := range []http.Header{
		{"Authorization": {f.admin}},
		{"Authorization": {"Basic " + f.admin}},
		{"Authorization": {"Bearer"}},
		{"Authorization": {"Bearer "}},
		{"Authorization": {"Bearer " + f.admin + "x"}},
		{"Authorization": {"Bearer " + f.admin, "Bearer " + f.admin}},
	} {
		f.refused(call{method: "GET", path: "/v1/devices", header: header}, problem.Unauthenticated)
	}
	f.answered(call{method: "GET", path: "/v1/devices", header: http.Header{"Authorization": {"bearer  " + f.admin}}}, 200, nil)
}

// TestConnected: who is there, by the log.
func TestConnected(t *testing.T) {
	f := newFixture(t)
	for _, id := range []string{"car-1", "car-2", "car-3"} {
		f.addDevice(id)
	}
	append1 := func(fact presence.Fact) {
		payload, err := fact.Payload()
		if err == nil {
			_, err = f.log.Append(t.Context(), events.Any, events.Event{
				Stream: events.Stream{Kind: events.Presence, ID: "car-2"}, Type: fact.Type, ID: events.UniqueID(), Payload: payload,
			})
		}
		if err != nil {
			t.Fatal(err)
		}
		for f.roster.Get("car-2").Version < fact.Version {
			time.Sleep(time.Millisecond)
		}
	}
	list := func(query string) string {
		t.Helper()
		var page struct{ Devices []device }
		f.answered(call{method: "GET", path: "/v1/devices" + query, token: "admin"}, 200, &page)
		var ids []string
		for _, d := range page.Devices {
			ids = append(ids, d.ID)
		}
		return strings.Join(ids, " ")
	}
	append1(presence.Fact{Type: presence.TypeConnected, At: 1000, Version: 1, Session: "s", Client: "c", Gateway: "g"})
	if got := list("?connected=true"); got != "car-2" {
		t.Error(got)
	}
	if got := list("?connected=false&limit=1"); got != "car-1" {
		t.Error(got)
	}
	append1(presence.Fact{Type: presence.TypeDisconnected, At: 2000, Version: 2, Session: "s", Reason: presence.KeepAlive})
	if got := list("?connected=true"); got != "" {
		t.Error(got)
	}
	var d device
	f.answered(call{method: "GET", path: "/v1/devices/car-2", token: "admin"}, 200, &d)
	if d.Connected || d.Reason != presence.KeepAlive || d.Since == nil || d.Since.UnixMilli() != 2000 {
		t.Errorf("%+v", d)
	}
	f.refused(call{method: "GET", path: "/v1/devices?connected=maybe", token: "admin"}, problem.InvalidRequest)
}
