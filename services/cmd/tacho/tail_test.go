package main

import (
	"testing"

	"github.com/nats-io/nats.go"

	"github.com/tachograph/tachograph/events"
)

func TestDescribe(t *testing.T) {
	republished := func(public, kept string, data string, header nats.Header) *nats.Msg {
		if header == nil {
			header = nats.Header{}
		}
		header["Nats-Subject"] = []string{kept}
		header["Nats-Stream"] = []string{"TELEMETRY_0"}
		header["Nats-Sequence"] = []string{"42"}
		header["Nats-Time-Stamp"] = []string{"2026-11-23T10:00:00Z"}
		return &nats.Msg{Subject: public, Header: header, Data: []byte(data)}
	}
	telemetry := events.Event{Stream: events.Stream{Kind: events.Telemetry, ID: "ä b"}, Type: "position", Schema: 3}
	registered := events.Event{Stream: events.Stream{Kind: events.SchemaKind, ID: "tyre"}, Type: "registered"}
	for name, c := range map[string]struct {
		msg  *nats.Msg
		want tailed
		line string
	}{
		"telemetry": {
			republished("tacho.telemetry.=C3=A4=20b.position", telemetry.Subject(), `{"a": 1}`, nil),
			tailed{ID: events.DeriveID("ä b", "position", []byte(`{"a": 1}`)), Type: "position", Kind: "telemetry", Device: "ä b", Schema: 3},
			`2026-11-23T10:00:00Z  telemetry  ä b  position  {"a":1}`,
		},
		"binary": {
			republished("tacho.telemetry.car-1.position", "", "\x0a\x1b[31m\xff", nats.Header{"Id": {"x"}}),
			tailed{ID: "x", Kind: "telemetry", Device: "car-1"},
			`2026-11-23T10:00:00Z  telemetry  car-1    7 bytes: \n\x1b[31m\xff`,
		},
		"schema": {
			republished("tacho.schema.tyre", registered.Subject(), `{}`, nats.Header{"Id": {"x"}, "Ty": {"registered"}}),
			tailed{ID: "x", Type: "registered", Kind: "schema"},
			`2026-11-23T10:00:00Z  schema  tacho.schema.tyre  registered  {}`,
		},
	} {
		got := describe(c.msg)
		if got.ID != c.want.ID || got.Type != c.want.Type || got.Kind != c.want.Kind || got.Device != c.want.Device || got.Schema != c.want.Schema || got.Seq != 42 {
			t.Errorf("%s: %+v, want %+v", name, got, c.want)
		}
		if line := got.line(c.msg.Data); line != c.line {
			t.Errorf("%s: %s, want %s", name, line, c.line)
		}
	}
}

// A public subject says which events of history are asked for.
func TestSelectionOf(t *testing.T) {
	for subject, want := range map[string]string{
		"tacho.>":                       "kind=all",
		"tacho.*.>":                     "kind=all",
		"tacho.*.car-1.>":               "device=car-1&kind=all",
		"tacho.telemetry.>":             "kind=telemetry",
		"tacho.telemetry.=C3=A4=20b.>":  "device=%C3%A4+b&kind=telemetry",
		"tacho.telemetry.*.position":    "kind=telemetry&type=position",
		"tacho.telemetry.car-1.*":       "device=car-1&kind=telemetry",
		"tacho.dead.car-1.position":     "device=car-1&kind=dead&type=position",
		"tacho.registry.car-1":          "device=car-1&kind=registry",
		"tacho.registry.*":              "kind=registry",
		"tacho.telemetry.car-1":         "",
		"tacho.telemetry.car-1.p.x":     "",
		"tacho.shadow.car-1.config":     "",
		"tacho.telemetry..position":     "",
		"tacho.telemetry.car>.position": "",
		"tacho.telemetry.=zz.position":  "",
	} {
		query, err := selectionOf(subject)
		if (err != nil) != (want == "") || err == nil && query.Encode() != want {
			t.Errorf("%s: %s, %v; want %s", subject, query.Encode(), err, want)
		}
	}
}
