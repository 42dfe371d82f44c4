package node

import (
	"encoding/json"
	"fmt"
	"net/url"
	"strings"
	"testing"

	"github.com/nats-io/nats.go"

	"github.com/tachograph/tachograph/events"
	"github.com/tachograph/tachograph/services/gateway"
)

// TestBadInput sends a live node what the world may send it. Each time the
// sender is told, the reason is counted, and another device is served on.
func TestBadInput(t *testing.T) {
	n := startNode(t, defaults(t, "--max-payload", "10000"))
	v := newVictim(t, n)
	const (
		refused  = "tacho_gateway_refused_total"
		connects = "tacho_gateway_mqtt_connects_total"
		closed   = "tacho_gateway_mqtt_disconnects_total"
		requests = "tacho_http_requests_total"
		strays   = "tacho_nats_refused_total"
	)
	type input struct {
		name   string
		send   func() string
		told   string
		metric string
		labels []string
	}
	mqtt := func(name, topic, payload, told, reason string) input {
		return input{"MQTT, " + name, func() string { return v.publish(topic, payload) }, told, refused, []string{`via="mqtt"`, reason}}
	}
	bytes := func(name, told string, b ...byte) input {
		return input{"MQTT, " + name, func() string { return v.connect("car-1", v.token, b...) }, told, closed, nil}
	}
	web := func(name, method, path, token, body, told string) input {
		status, _, _ := strings.Cut(told, " ")
		return input{"HTTP, " + name, func() string { return v.http(method, path, token, body) }, told, requests, []string{`status="` + status + `"`}}
	}
	position := "/v1/devices/car-1/telemetry/position"
	large := `{"pad":"` + strings.Repeat("x", 10_000) + `"}`
	inputs := []input{
		{"MQTT, wrong token", func() string { return v.connect("car-1", "wrong") }, "CONNACK 0x86", connects, []string{"bad user name or password"}},
		{"MQTT, no token", func() string { return v.connect("", "") }, "CONNACK 0x87", connects, []string{"not authorized"}},
		{"NATS, wrong token", func() string { return v.natsLogin("car-1", "wrong") }, "nats: Authorization Violation", strays, []string{"authentication"}},
		{"NATS, no token", func() string { return v.natsLogin("", "") }, "nats: Authorization Violation", strays, []string{"authentication"}},
		web("wrong token", "POST", position, "wrong", "{}", "401 unauthenticated"),
		web("no token", "POST", position, "", "{}", "401 unauthenticated"),
		web("a device's token for an admin's call", "GET", "/v1/devices", v.token, "", "403 forbidden"),

		mqtt("another's topic", "telemetry/car-2/position", "{}", "PUBACK 0x87", `"foreign_topic"`),
		web("another's topic", "POST", "/v1/devices/car-2/telemetry/position", v.token, "{}", "403 forbidden"),
		{"NATS, another's subject", func() string { return v.violation("ingest.car-2.position") }, "permissions violation", strays, []string{"permission"}},
		{"NATS, the log's subject", func() string { return v.violation("in.1.car-1.position") }, "permissions violation", strays, []string{"permission"}},

		bytes("packet type 0", "DISCONNECT 0x81", 0, 0),
		bytes("topic that ends early", "DISCONNECT 0x81", 0x30, 3, 0, 5, 'a'),
		bytes("HTTP", "DISCONNECT 0x81", []byte("GET / HTTP/1.1\r\n\r\n")...),
		bytes("announced as 256 MB", "DISCONNECT 0x95", 0x30, 0xFF, 0xFF, 0xFF, 0x7F),

		{"MQTT, oversize", func() string { return v.publish("telemetry/position", large) }, "DISCONNECT 0x95", refused, []string{`via="mqtt"`, `"too_large"`}},
		web("oversize", "POST", position, v.token, large, "413 payload_too_large"),
		{"NATS, oversize", func() string { return v.request("ingest.car-1.position", large) }, "413 payload_too_large", refused, []string{`via="nats"`, `"too_large"`}},
		{"NATS, oversize for the server", func() string { return v.request("ingest.car-1.position", strings.Repeat("x", 1<<20)) }, "too large for the client", "", nil},

		mqtt("a name that no type can have", "telemetry/No", "{}", "PUBACK 0x90", `"bad_type"`),
		web("a name that no type can have", "POST", "/v1/devices/car-1/telemetry/No", v.token, "{}", "400 invalid_message_type"),
		{"NATS, a name that no type can have", func() string { return v.request("ingest.car-1.No", "{}") }, "400 invalid_message_type", refused, []string{`via="nats"`, `"bad_type"`}},
		mqtt("a topic without a meaning", "foo", "{}", "PUBACK 0x90", `"unknown_topic"`),

		web("schema that does not parse", "POST", "/v1/schemas?name=bad", v.admin, "syntax = \"proto3\";\nmessage {", "422 invalid_schema"),
		web("schema that imports what is not there", "POST", "/v1/schemas?name=bad", v.admin, `syntax = "proto3"; import "elsewhere.proto"; message A { int32 x = 1; }`, "422 invalid_schema"),
		web("schema that recurses", "POST", "/v1/schemas?name=bad", v.admin, `syntax = "proto3"; message A { A a = 1; }`, "422 invalid_schema"),
		web("schema that recurses in JSON", "POST", "/v1/schemas?name=bad", v.admin, `{"type":"object","properties":{"a":{"$ref":"#"}}}`, "422 invalid_schema"),
		web("schema nested absurdly", "POST", "/v1/schemas?name=bad", v.admin, strings.Repeat(`{"items":`, 50_000)+"{}"+strings.Repeat("}", 50_000), "422 invalid_schema"),
		web("SQL that cannot be read", "POST", "/v1/query", v.admin, "SELECT \x00 FROM", "400 invalid_query"),
		web("SQL that writes", "POST", "/v1/query", v.admin, "TRUNCATE TABLE tacho.events", "403 query_forbidden"),
		web("SQL that reads the node's files", "POST", "/v1/query", v.admin, "SELECT file('"+n.cfg.file("admin.token")+"')", "403 query_forbidden"),
		web("SQL of a device's", "POST", "/v1/query", v.token, "SELECT 1", "403 forbidden"),
		web("SQL that is too long", "POST", "/v1/query", v.admin, "SELECT 1"+strings.Repeat(" ", 300_000), "413 payload_too_large"),
		web("SQL nested absurdly", "POST", "/v1/query", v.admin, "SELECT "+strings.Repeat("(", 100_000), "400 invalid_query"),
		web("JSON nested absurdly", "POST", "/v1/devices", v.admin, strings.Repeat("[", 5_000), "400 invalid_body"),
	}
	for _, id := range []string{"", "a/b", "a#", "+", "a\nb", "\x00", " a", "\xff", strings.Repeat("x", 10_000)} {
		body, err := json.Marshal(map[string]string{"id": id})
		if err != nil {
			t.Fatal(err)
		}
		if id == "\xff" {
			body = []byte("{\"id\":\"\xff\"}")
		}
		want := "400 invalid_device_id"
		if id == "" || id == "\xff" {
			want = "400 invalid_body"
		}
		inputs = append(inputs, web(fmt.Sprintf("device %.20q", id), "POST", "/v1/devices", v.admin, string(body), want))
		if id != "" && id != "\xff" {
			inputs = append(inputs, web(fmt.Sprintf("path of device %.20q", id), "POST", "/v1/devices/"+url.PathEscape(id)+"/telemetry/position", v.token, "{}", "403 forbidden"))
			switch {
			case id == "\x00" || len(id) > 200: // no packet may hold it
			case strings.ContainsAny(id, "#+"):
				inputs = append(inputs, input{fmt.Sprintf("MQTT, topic of device %q", id), func() string { return v.publish("telemetry/"+id+"/position", "{}") }, "DISCONNECT 0x81", closed, nil})
			case strings.Contains(id, "/"):
				inputs = append(inputs, mqtt(fmt.Sprintf("topic of device %q", id), "telemetry/"+id+"/position", "{}", "PUBACK 0x90", `"unknown_topic"`))
			default:
				inputs = append(inputs, mqtt(fmt.Sprintf("topic of device %q", id), "telemetry/"+id+"/position", "{}", "PUBACK 0x87", `"foreign_topic"`))
			}
		}
	}
	payloads := undecodable()
	for name, payload := range payloads {
		inputs = append(inputs, mqtt(name, "telemetry/position", payload, "PUBACK 0x99", `"undecodable"`),
			input{"HTTP, " + name, func() string { return v.post(payload) }, "422 undecodable_payload", refused, []string{`via="http"`, `"undecodable"`}},
			input{"NATS, " + name, func() string { return v.request("ingest.car-1.position", payload) }, "422 undecodable_payload", refused, []string{`via="nats"`, `"undecodable"`}})
	}
	for _, in := range inputs {
		before := 0.0
		if in.metric != "" {
			before = v.counted(in.metric, in.labels...)
		}
		if told := in.send(); told != in.told {
			t.Errorf("%s: told %q, want %q", in.name, told, in.told)
		}
		if in.metric != "" {
			v.eventually(in.name+" is counted", func() bool { return v.counted(in.metric, in.labels...) > before })
		}
		v.unharmed()
	}
	v.strange()
	v.eventually("every stored message is in the histogram", func() bool {
		return v.counted("tacho_gateway_store_seconds_count") == v.counted("tacho_gateway_messages_total")
	})
	awaitRows(t, n, "SELECT count() FROM tacho.dead_letters WHERE device = 'car-1'", fmt.Sprint(3*len(payloads)))
	awaitRows(t, n, "SELECT count(), uniqExact(altitude) FROM tacho.position WHERE device = 'car-2'", fmt.Sprintf("%d\t%d", v.sent, v.sent))
	if ok, why := n.Ready(); !ok {
		t.Error("not ready: ", why)
	}
}

// strange sends what is odd and yet allowed: ids that only need escaping, clocks
// that are far off, a message type that nobody has registered.
func (v *victim) strange() {
	v.t.Helper()
	for i, id := range []string{"a.b c", "*", ">", "ü", "=2E", strings.Repeat("x", 128)} {
		token, err := v.auth.Add(v.t.Context(), id)
		if err != nil {
			v.t.Fatal(err)
		}
		odd := *v
		if odd.nc, err = nats.Connect(v.addrs.NATS, nats.UserInfo(id, token), nats.CustomInboxPrefix(gateway.NATSInbox(id))); err != nil {
			v.t.Fatal(err)
		}
		if told := odd.request(gateway.IngestSubject(id, "position"), `{"latitude":1}`); told != "200" {
			v.t.Errorf("device %q over NATS: %s", id, told)
		}
		odd.nc.Close()
		path := "/v1/devices/" + url.PathEscape(id)
		if told := v.http("POST", path+"/telemetry/position", token, fmt.Sprintf(`{"time":4102444800000,"latitude":%d}`, i)); told != "200" {
			v.t.Errorf("device %q over HTTP: %s", id, told)
		}
		if told := v.http("POST", path+"/telemetry/position", token, `{"time":0,"latitude":3}`); told != "200" {
			v.t.Errorf("device %q, clock of 1970: %s", id, told)
		}
		if told := v.http("POST", path+"/telemetry/never_heard_of", token, "\x00 anything"); told != "200" {
			v.t.Errorf("device %q, unknown type: %s", id, told)
		}
		quoted := strings.ReplaceAll(id, "'", "\\'")
		awaitRows(v.t, v.Node, "SELECT count() FROM tacho.events WHERE kind = 'telemetry' AND device = '"+quoted+"'", "4")
		awaitRows(v.t, v.Node, "SELECT count(), max(received) < now() + 60 FROM tacho.position WHERE device = '"+quoted+"'", "3\t1")
		v.eventually(fmt.Sprintf("the state of %q shows that the clock is off", id), func() bool {
			e, err := v.views.Get(v.t.Context(), events.Escape(id))
			return err == nil && strings.Contains(string(e.Value()), `"flag":"`)
		})
	}
}

// undecodable lists payloads that are no position: each is kept and parked.
func undecodable() map[string]string {
	return map[string]string{
		"nothing":               "",
		"not JSON":              "{",
		"not protobuf":          "\x0a\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff",
		"wrong type":            `{"latitude":"north"}`,
		"NaN":                   `{"latitude":NaN}`,
		"infinity":              `{"latitude":-Infinity}`,
		"number out of range":   `{"latitude":1e999}`,
		"time out of range":     `{"time":1e300}`,
		"invalid UTF-8":         "{\"latitude\":1,\"note\":\"\xff\"}",
		"lone surrogate":        `{"latitude":1,"note":"\ud800"}`,
		"nested arrays":         strings.Repeat("[", 9000),
		"nested objects":        strings.Repeat(`{"a":`, 1500) + "1" + strings.Repeat("}", 1500),
		"duplicate keys":        `{"latitude":1,"latitude":2}`,
		"one bad sample of two": `[{"latitude":1},{"latitude":"x"}]`,
	}
}
