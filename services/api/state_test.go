package api

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/tachograph/tachograph/services/api/problem"
)

// TestStateAt: what the log knew at a moment, and what the device had measured
// by it, which is not the same when messages come late.
func TestStateAt(t *testing.T) {
	f := newFixture(t)
	car := f.addDevice("car-1")
	noon := time.Date(2026, 5, 1, 12, 0, 0, 0, time.UTC)
	for _, m := range []struct{ sent, arrived, latitude int }{{0, 1, 50}, {10, 11, 51}, {5, 20, 49}, {30, 31, 52}} { // minutes; the third is late
		at := noon.Add(time.Duration(m.arrived) * time.Minute)
		f.now.Store(&at)
		payload := fmt.Sprintf(`{"time":%d,"latitude":%d}`, noon.Add(time.Duration(m.sent)*time.Minute).UnixMilli(), m.latitude)
		f.append("car-1", "position", payload)
	}
	at := func(minute int) string {
		return "/v1/devices/car-1/state?at=" + noon.Add(time.Duration(minute)*time.Minute).Format(time.RFC3339)
	}
	for _, test := range []struct {
		path string
		want int
	}{
		{at(1), 50}, {at(11), 51}, {at(25), 51}, {at(40), 52},
		{at(7) + "&by=arrival", 50}, {at(7) + "&by=device", 49}, {at(9) + "&by=device", 49}, {at(10) + "&by=device", 51},
	} {
		got := f.answered(call{method: "GET", path: test.path, token: car}, 200, nil)
		if !strings.Contains(string(got.body), fmt.Sprintf(`"latitude":%d`, test.want)) {
			t.Errorf("%s: %s, want %d", test.path, got.body, test.want)
		}
	}
	f.refused(call{method: "GET", path: at(0), token: "admin"}, problem.StateNotFound)
	f.refused(call{method: "GET", path: at(1) + "&by=moon", token: "admin"}, problem.InvalidRequest)
	f.refused(call{method: "GET", path: "/v1/devices/car-1/state?by=device", token: "admin"}, problem.InvalidRequest)
	f.refused(call{method: "GET", path: "/v1/devices/car-1/state?at=noon", token: "admin"}, problem.InvalidRequest)
}
