package api

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/tachograph/tachograph/events"
	"github.com/tachograph/tachograph/schemas"
)

func TestEncode(t *testing.T) {
	received := time.Date(2026, 11, 23, 10, 0, 0, 123456000, time.UTC)
	at := events.Position{Epoch: 1, Partition: 0, Seq: 42}
	for name, c := range map[string]struct {
		event events.Event
		want  string
	}{
		"json": {
			events.Event{Stream: events.Stream{Kind: events.Telemetry, ID: "car-1"}, Type: "position", ID: "x", Schema: 1,
				Payload: []byte(`{"time":"2026-11-23T09:59:59Z","latitude":52.520}`)},
			`"x","source":"/v1/devices/car-1","type":"position","kind":"telemetry","device":"car-1","schema":1,` +
				`"time":"2026-11-23T09:59:59Z",RECEIVED,"data":{"time":"2026-11-23T09:59:59Z","latitude":52.520}}`,
		},
		"no device time": {
			events.Event{Stream: events.Stream{Kind: events.Telemetry, ID: "ä b/c"}, Type: "p", ID: "x", Payload: []byte(`7`)},
			`"x","source":"/v1/devices/%C3%A4%20b%2Fc","type":"p","kind":"telemetry","device":"ä b/c",` +
				`"time":"2026-11-23T10:00:00.123456Z",RECEIVED,"data":7}`,
		},
		"two lines": {
			events.Event{Stream: events.Stream{Kind: events.Telemetry, ID: "a"}, Type: "p", ID: "x", Payload: []byte("{\n}")},
			`"x","source":"/v1/devices/a","type":"p","kind":"telemetry","device":"a",` +
				`"time":"2026-11-23T10:00:00.123456Z",RECEIVED,"data_base64":"ewp9"}`,
		},
		"schema": {
			events.Event{Stream: events.Stream{Kind: events.SchemaKind, ID: "tyre"}, Type: "registered", ID: "x", Payload: []byte(`{}`)},
			`"x","source":"/v1/schemas/tyre","type":"registered","kind":"schema",` +
				`"time":"2026-11-23T10:00:00.123456Z",RECEIVED,"data":{}}`,
		},
		"named": {
			events.Event{Stream: events.Stream{Kind: events.Shadow, ID: "a", Name: "n/1"}, Type: "desired", ID: "x", Payload: []byte(`{}`)},
			`"x","source":"/v1/devices/a/n%2F1","type":"desired","kind":"shadow","device":"a",` +
				`"time":"2026-11-23T10:00:00.123456Z",RECEIVED,"data":{}}`,
		},
		"empty": {
			events.Event{Stream: events.Stream{Kind: events.Telemetry, ID: "a"}, Type: "p", ID: "x"},
			`"x","source":"/v1/devices/a","type":"p","kind":"telemetry","device":"a",` +
				`"time":"2026-11-23T10:00:00.123456Z",RECEIVED,"data_base64":""}`,
		},
	} {
		c.event.Received, c.event.Position = received, at
		encoder := eventEncoder{schemas: schemas.NewRegistry()}
		want := `{"id":` + strings.Replace(c.want, "RECEIVED",
			`"received":"2026-11-23T10:00:00.123456Z","position":{"epoch":1,"partition":0,"seq":42},"token":"1.0.42.x"`, 1) + "\n"
		if got := string(encoder.encode(&c.event, events.Cursors{0: {Position: at, ID: c.event.ID}})); got != want {
			t.Errorf("%s:\n%s\nwant\n%s", name, got, want)
		}
	}
}

// FuzzEncode: every event is one line of valid JSON, and its payload comes back
// byte for byte.
func FuzzEncode(f *testing.F) {
	for _, seed := range []string{`{"a":1}`, `{"a":1}` + "\n", " 1", "", "\xff", `"\ud800"`, "\x0a\x02\x08\x01", `{"a":"` + "\u2028" + `"}`, "nul"} {
		f.Add("car-1", "position", []byte(seed))
	}
	f.Add("ä\x00\"\\", "<&>", []byte("[1,2]"))
	f.Fuzz(func(t *testing.T, id, name string, payload []byte) {
		e := events.Event{Stream: events.Stream{Kind: events.Telemetry, ID: id}, Type: name, ID: "x", Payload: payload, Received: time.Unix(1, 0)}
		for _, form := range []payloads{asJSON64, asBase64, asBothWays} {
			encoder := eventEncoder{payloads: form, schemas: schemas.NewRegistry()}
			line := encoder.encode(&e, events.Cursors{0: {Position: e.Position, ID: e.ID}})
			if bytes.IndexByte(line, '\n') != len(line)-1 || bytes.IndexByte(line, '\r') >= 0 {
				t.Fatalf("not one line: %q", line)
			}
			var got struct {
				Data       json.RawMessage
				DataBase64 []byte `json:"data_base64"`
			}
			if err := json.Unmarshal(line, &got); err != nil {
				t.Fatalf("%q: %v", line, err)
			}
			for _, back := range [][]byte{got.Data, got.DataBase64} {
				if back != nil && !bytes.Equal(back, payload) {
					t.Fatalf("payload %q came back as %q", payload, back)
				}
			}
			if got.Data == nil && got.DataBase64 == nil || form != asJSON64 && got.DataBase64 == nil {
				t.Fatalf("%s: payload %q did not come back: %s", form, payload, line)
			}
		}
	})
}

func TestEncodeAllocates(t *testing.T) {
	e := events.Event{Stream: events.Stream{Kind: events.Telemetry, ID: "car-1"}, Type: "position", ID: "x",
		Payload: []byte(`{"time":1795428000000,"latitude":52.52,"longitude":13.40,"speed":48.5}`), Received: time.Unix(1, 0)}
	encoder := eventEncoder{schemas: schemas.NewRegistry()}
	at := events.Cursors{}
	encode := func() { at.Advance(&e); encoder.encode(&e, at) }
	encode()
	if n := testing.AllocsPerRun(100, encode); n > 3 {
		t.Errorf("%v allocations an event, want at most 3", n)
	}
}

func BenchmarkEncode(b *testing.B) {
	e := events.Event{Stream: events.Stream{Kind: events.Telemetry, ID: "car-1"}, Type: "position", ID: "Zk2a9dJ0Zk2a9dJ0Zk2a9d", Schema: 1,
		Payload: []byte(`{"time":1795428000000,"latitude":52.52,"longitude":13.40,"speed":48.5,"heading":270}`), Received: time.Unix(1, 0)}
	encoder := eventEncoder{schemas: schemas.NewRegistry()}
	b.ReportAllocs()
	at := events.Cursors{}
	at.Advance(&e)
	b.SetBytes(int64(len(encoder.encode(&e, at))))
	for b.Loop() {
		at.Advance(&e)
		encoder.encode(&e, at)
	}
}
