package shadows_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	mqtt "github.com/eclipse/paho.mqtt.golang"

	"github.com/tachograph/tachograph/projections/shadow"
	"github.com/tachograph/tachograph/services/shadows"
)

const aws = "$aws/things/car-1/shadow/"

// TestDevice goes the way of AWS IoT's firmware: connect, get (404), report,
// hear what is desired, report again, conflict, delete, make anew.
func TestDevice(t *testing.T) {
	s := start(t, jetLog(t), shadows.Limits{})
	token := s.gw.Add(t, "car-1")
	c := s.connect("car-1", token, true, aws+"get/+", aws+"update/+", aws+"delete/+")

	c.say(aws+"get", "")
	if h := c.hears(aws + "get/rejected"); h.at("code") != 404.0 || !strings.HasPrefix(h.at("message").(string), "No shadow exists") {
		t.Error(h.Raw)
	}
	c.say(aws+"update", `{"state":{"reported":{"locked":true}},"clientToken":"a"}`)
	if h := c.hears(aws + "update/accepted"); h.at("state", "reported", "locked") != true || h.at("version") != 1.0 || h.at("clientToken") != "a" {
		t.Error(h.Raw)
	}
	if h := c.hears(aws + "update/documents"); h.at("current", "version") != 1.0 {
		t.Error(h.Raw)
	}

	if o, err := do(t, s.Shadows, "car-1", "", `{"state":{"desired":{"locked":false,"interval":10}}}`); err != nil || !o.Changed || o.Document.Version != 2 {
		t.Fatal(o, err)
	}
	c.hears(aws + "update/accepted")
	if h := c.hears(aws + "update/delta"); h.at("state", "locked") != false || h.at("state", "interval") != 10.0 || h.at("version") != 2.0 || h.at("metadata", "locked", "timestamp") == nil {
		t.Error(h.Raw)
	}
	c.hears(aws + "update/documents")
	if p := s.Pending("", "", 10); len(p) != 1 || p[0].Device != "car-1" || p[0].Why != shadows.Silent {
		t.Errorf("%+v", p)
	}

	c.say(aws+"update", `{"state":{"reported":{"locked":false,"interval":10}}}`)
	c.hears(aws + "update/accepted")
	c.hears(aws + "update/documents") // and no delta: it is as desired
	if p := s.Pending("", "", 10); len(p) != 0 {
		t.Errorf("%+v", p)
	}

	c.say(aws+"update", `{"state":{"reported":{"x":1}},"version":2,"clientToken":"old"}`)
	if h := c.hears(aws + "update/rejected"); h.at("code") != 409.0 || h.at("message") != "Version conflict" || h.at("clientToken") != "old" {
		t.Error(h.Raw)
	}
	c.say(aws+"get", "")
	if h := c.hears(aws + "get/accepted"); h.at("version") != 3.0 || h.at("state", "delta") != nil || h.at("state", "desired", "interval") != 10.0 {
		t.Error(h.Raw)
	}
	c.say(aws+"delete", "")
	if h := c.hears(aws + "delete/accepted"); h.at("version") != 3.0 {
		t.Error(h.Raw)
	}
	c.say(aws+"delete", "")
	if h := c.hears(aws + "delete/rejected"); h.at("code") != 404.0 {
		t.Error(h.Raw)
	}
	c.say(aws+"update", `{"state":{"reported":{"locked":true}}}`)
	if h := c.hears(aws + "update/accepted"); h.at("version") != 4.0 {
		t.Error("the version does not live on: " + h.Raw)
	}
}

// TestNamed: a named shadow is another one; the short topics are the same shadow.
func TestNamed(t *testing.T) {
	s := start(t, jetLog(t), shadows.Limits{})
	c := s.connect("car-1", s.gw.Add(t, "car-1"), true, "shadow/#")
	c.say("shadow/name/doors/update", `{"state":{"reported":{"left":"shut"}}}`)
	if h := c.hears("shadow/name/doors/update/accepted"); h.at("version") != 1.0 {
		t.Error(h.Raw)
	}
	c.hears("shadow/name/doors/update/documents")
	c.say(aws+"name/doors/update", `{"state":{"desired":{"left":"open"}}}`)
	c.hears("shadow/name/doors/update/accepted")
	if h := c.hears("shadow/name/doors/update/delta"); h.at("state", "left") != "open" {
		t.Error(h.Raw)
	}
	c.hears("shadow/name/doors/update/documents")
	c.say("shadow/get", "")
	c.hears("shadow/get/rejected")
	if names := s.Names("car-1", "", 10); fmt.Sprint(names) != "[doors]" {
		t.Error(names)
	}
}

// TestBadInput: every refusal of AWS's table comes on the right topic with its
// code, and the device's connection goes on.
func TestBadInput(t *testing.T) {
	s := start(t, jetLog(t), shadows.Limits{})
	c := s.connect("car-1", s.gw.Add(t, "car-1"), true, aws+"update/rejected", aws+"update/accepted", aws+"name/+/update/rejected")
	big := `{"state":{"desired":{"a":"` + strings.Repeat("x", 8192-len(`{"a":""}`)) + `"}}}`
	for _, test := range []struct {
		body, message string
		code          float64
	}{
		{"", "Invalid JSON", 400},
		{"{", "Invalid JSON", 400},
		{"[1]", "Invalid JSON", 400},
		{`{"state":{"desired":{"a":1,"a":2}}}`, "Invalid JSON", 400},
		{`{}`, "Missing required node: state", 400},
		{`{"state":5}`, "State node must be an object", 400},
		{`{"state":{"desired":5}}`, "Desired node must be an object", 400},
		{`{"state":{"reported":[]}}`, "Reported node must be an object", 400},
		{`{"state":{"desired":{}},"version":"1"}`, "Invalid version", 400},
		{`{"state":{"desired":{}},"clientToken":"` + strings.Repeat("t", 65) + `"}`, "Invalid clientToken", 400},
		{`{"state":{"desired":{"1":{"2":{"3":{"4":{"5":{"6":{"7":{}}}}}}}}}}`, "JSON contains too many levels of nesting; maximum is 6", 400},
		{`{"state":{"desired":{"a":[1,null]}}}`, "State contains an invalid node", 400},
		{`{"state":{"wanted":{}}}`, "State contains an invalid node", 400},
		{"{\"state\":{\"desired\":{\"a\":\"\xff\"}}}", "Unsupported documented encoding; supported encoding is UTF-8", 415},
		{strings.Replace(big, "x", "xx", 1), "The payload exceeds the maximum size allowed", 413},
		{`{"state":{"desired":{"a":1}},"version":7}`, "Version conflict", 409},
	} {
		c.say(aws+"update", test.body)
		if h := c.hears(aws + "update/rejected"); h.at("code") != test.code || h.at("message") != test.message {
			t.Errorf("%.80s: %s", test.body, h.Raw)
		}
	}
	c.say(aws+"name/"+strings.Repeat("n", 65)+"/update", `{"state":{}}`)
	if h := c.hears(aws + "name/" + strings.Repeat("n", 65) + "/update/rejected"); h.at("code") != 400.0 {
		t.Error(h.Raw)
	}
	c.say(aws+"update", big) // 8192 bytes are allowed
	c.hears(aws + "update/accepted")
	c.say(aws+"update", `{"state":{"desired":{"a":9007199254740993}}}`)
	if h := c.hears(aws + "update/accepted"); !strings.Contains(h.Raw, "9007199254740993") {
		t.Error(h.Raw)
	}
}

// TestForeign: a device neither speaks for another's shadow nor hears it.
func TestForeign(t *testing.T) {
	s := start(t, jetLog(t), shadows.Limits{})
	token := s.gw.Add(t, "car-1")
	s.gw.Add(t, "car-2")
	c := s.connect("car-1", token, true, aws+"update/#")
	for _, filter := range []string{"$aws/things/car-2/shadow/update/#", "$aws/things/+/shadow/#"} {
		token := c.Subscribe(filter, 1, nil).(*mqtt.SubscribeToken)
		if c.wait(token); token.Result()[filter] != 0x80 {
			t.Errorf("%s is granted", filter)
		}
	}
	if _, err := do(t, s.Shadows, "car-2", "", `{"state":{"desired":{"a":1}}}`); err != nil {
		t.Fatal(err)
	}
	if _, err := do(t, s.Shadows, "car-1", "", `{"state":{"desired":{"b":1}}}`); err != nil {
		t.Fatal(err)
	}
	if h := c.hears(aws + "update/accepted"); h.at("state", "desired", "b") != 1.0 {
		t.Error(h.Raw)
	}
	c.Publish("$aws/things/car-2/shadow/update", 1, false, `{"state":{"reported":{"a":1}}}`).WaitTimeout(1e9)
	if doc, _ := s.Get("car-2", ""); doc.Version != 1 {
		t.Error("a device wrote into another's shadow")
	}
}

// TestToken: AWS's SDKs know their answer to a get or a delete by the token in
// the request, whose content counts for nothing else.
func TestToken(t *testing.T) {
	s := start(t, jetLog(t), shadows.Limits{})
	c := s.connect("car-1", s.gw.Add(t, "car-1"), true, aws+"get/+", aws+"delete/+")
	c.say(aws+"get", `{"clientToken":"g1"}`)
	if h := c.hears(aws + "get/rejected"); h.at("clientToken") != "g1" || h.at("message") != "No shadow exists with name: car-1" {
		t.Error(h.Raw)
	}
	c.say(aws+"name/doors/get", "")
	c.say(aws+"delete", `{"clientToken":"d1"}`)
	if h := c.hears(aws + "delete/rejected"); h.at("clientToken") != "d1" {
		t.Error(h.Raw)
	}
	c.say(aws+"update", `{"state":{"reported":{"a":1}}}`)
	c.say(aws+"get", `{"clientToken":"g2","version":7}`)
	if h := c.hears(aws + "get/accepted"); h.at("clientToken") != "g2" || h.at("version") != 1.0 {
		t.Error(h.Raw)
	}
	c.say(aws+"get", `{"clientToken":5`)
	if h := c.hears(aws + "get/accepted"); h.at("clientToken") != nil {
		t.Error(h.Raw)
	}
	c.say(aws+"delete", `{"clientToken":"d2"}`)
	if h := c.hears(aws + "delete/accepted"); h.at("clientToken") != "d2" || h.at("version") != 1.0 {
		t.Error(h.Raw)
	}
}

// TestNames: a device has as many named shadows as it may. What was refused and
// what was deleted makes no room and takes none.
func TestNames(t *testing.T) {
	s := open(t, jetLog(t), shadows.Limits{NamesPerDevice: 2})
	run(t, s.Run)
	change := func(name, body string, code int) {
		t.Helper()
		_, err := do(t, s, "car-1", name, body)
		var refused *shadow.Error
		if got := errors.As(err, &refused); got != (code != 0) || got && refused.Code != code {
			t.Errorf("%s: %v, want %d", name, err, code)
		}
	}
	for i := range 10 {
		change(fmt.Sprintf("refused-%d", i), `{"state":{},"version":9}`, 409)
	}
	for i := range 18 {
		name := fmt.Sprintf("gone-%d", i)
		change(name, `{"state":{"desired":{"a":1}}}`, 0)
		if _, err := s.Do(t.Context(), shadows.Wish{Device: "car-1", Name: name, By: "operator"}); err != nil {
			t.Error(err)
		}
	}
	change("", `{"state":{}}`, 0)
	change("a", `{"state":{}}`, 0)
	change("b", `{"state":{}}`, 0)
	change("c", `{"state":{}}`, 429)
	change("gone-0", `{"state":{}}`, 429)
	if _, err := s.Do(t.Context(), shadows.Wish{Device: "car-1", Name: "a", By: "operator"}); err != nil {
		t.Error(err)
	}
	change("gone-0", `{"state":{}}`, 0)
	if names := s.Names("car-1", "", 10); fmt.Sprint(names) != "[b gone-0]" {
		t.Error(names)
	}
	for i := range 200 { // its place is free once a deletion is answered
		pair := [2]string{"b", "gone-1"}
		if _, err := s.Do(t.Context(), shadows.Wish{Device: "car-1", Name: pair[i%2], By: "operator"}); err != nil {
			t.Error(err)
		}
		change(pair[(i+1)%2], `{"state":{}}`, 0)
	}
	for _, name := range []string{"b", "gone-0"} {
		if _, err := s.Do(t.Context(), shadows.Wish{Device: "car-1", Name: name, By: "operator"}); err != nil {
			t.Error(err)
		}
	}
	change("one-too-many-ever", `{"state":{}}`, 429)
	change("gone-17", `{"state":{}}`, 0) // it is among them
}

// TestPendingElsewhere: a device that another process has is not offline.
func TestPendingElsewhere(t *testing.T) {
	there := true
	s, err := shadows.Open(t.Context(), shadows.Config{Log: jetLog(t), Connected: func(string) bool { return there }})
	if err != nil {
		t.Fatal(err)
	}
	run(t, s.Run)
	if _, err := do(t, s, "car-1", "", `{"state":{"desired":{"a":1}}}`); err != nil {
		t.Fatal(err)
	}
	for _, want := range []shadows.Why{shadows.Silent, shadows.Offline} {
		if p := s.Pending("", "", 10); len(p) != 1 || p[0].Why != want {
			t.Errorf("%+v, want %s", p, want)
		}
		there = false
	}
	if p := open(t, jetLog(t), shadows.Limits{}).Pending("", "", 10); len(p) != 0 {
		t.Errorf("%+v", p)
	}
}
