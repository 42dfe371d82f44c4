package api

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/tachograph/tachograph/events"
	"github.com/tachograph/tachograph/projections/columnar"
	"github.com/tachograph/tachograph/services/api/problem"
	"github.com/tachograph/tachograph/services/letters"
)

// written has ClickHouse take in what the log holds.
func (f *fixture) written() {
	f.t.Helper()
	ctx, cancel := context.WithCancel(f.t.Context())
	ended := make(chan error, 2)
	for _, p := range []uint16{0, events.ControlPartition} {
		w, err := columnar.New(columnar.Config{Log: f.log, Catalog: f.catalog, Server: f.server, Partition: p, MaxAge: 20 * time.Millisecond})
		if err != nil {
			f.t.Fatal(err)
		}
		go func() { ended <- w.Run(ctx) }()
		tail, err := f.log.Tail(ctx, p)
		if err != nil {
			f.t.Fatal(err)
		}
		for deadline := time.Now().Add(time.Minute); w.Status().Position.Seq < tail.Seq; time.Sleep(10 * time.Millisecond) {
			if time.Now().After(deadline) {
				f.t.Fatalf("not written: %+v", w.Status())
			}
		}
	}
	cancel()
	for range cap(ended) {
		if err := <-ended; err != nil {
			f.t.Error(err)
		}
	}
}

// sent stores a message by the present schema, whether or not it fits.
func (f *fixture) sent(device, message, payload string) {
	f.t.Helper()
	s, ok := f.catalog.Schemas().Current(message)
	if !ok {
		f.t.Fatalf("no schema %s", message)
	}
	done := make(chan error, 1)
	err := f.log.Enqueue(f.t.Context(), events.Event{
		Stream: events.Stream{Kind: events.Telemetry, ID: device}, Type: message, Schema: s.Version(), ID: events.UniqueID(), Payload: []byte(payload),
	}, func(err error) { done <- err })
	if err == nil {
		err = <-done
	}
	if err != nil {
		f.t.Fatal(err)
	}
}

type letterList struct {
	Letters []letterDoc `json:"dead_letters"`
	Next    string
}

type letterAnswer struct {
	DryRun  bool `json:"dry_run"`
	Counts  map[string]int
	Results []struct{ Letter, Outcome, Detail string }
	Next    string
}

// letterContract is TestContract's part about dead letters.
func letterContract(f *fixture, refused func(call, problem.Code)) {
	f.t.Helper()
	call := func(method, path string) call {
		return call{method: method, path: "/v1/dead-letters" + path, token: "admin"}
	}
	const v1 = `syntax = "proto3"; message Axle { int32 load = 1; }`
	register := func(text string) {
		f.t.Helper()
		c := call("POST", "")
		c.path, c.body = "/v1/schemas?name=axle", text
		if got := f.do(c); got.status/100 != 2 {
			f.t.Fatalf("%d %s", got.status, got.body)
		}
	}
	register(v1)
	for _, payload := range []string{`{"load":3000000000}`, `{"load":`, "\xff\xff", `{"load":4000000000}`} {
		f.sent("car-1", "axle", payload)
	}
	f.written()

	var list letterList
	f.answered(call("GET", ""), 200, &list)
	if len(list.Letters) != 4 || list.Next != "" || list.Letters[0].State != "parked" || list.Letters[0].Reason == "" {
		f.t.Fatalf("letters %+v", list)
	}
	names := make([]string, len(list.Letters))
	for i, d := range list.Letters {
		names[i] = d.Letter
	}
	var first, second letterList
	f.answered(call("GET", "?limit=3&device=car-1&type=axle&from=1000"), 200, &first)
	f.answered(call("GET", "?limit=3&device=car-1&type=axle&cursor="+first.Next), 200, &second)
	if len(first.Letters) != 3 || len(second.Letters) != 1 || second.Letters[0].Letter != names[3] || second.Next != "" {
		f.t.Errorf("pages %+v, %+v", first, second)
	}
	var one letterDoc
	f.answered(call("GET", "/"+names[0]), 200, &one)
	if one.Text == nil || *one.Text != `{"load":3000000000}` {
		f.t.Errorf("letter %+v", one)
	}
	f.answered(call("GET", "/"+names[2]), 200, &one)
	if string(one.DataBase64) != "\xff\xff" {
		f.t.Errorf("letter %+v", one)
	}

	register(strings.Replace(v1, "int32", "int64", 1))
	work := func(path string, want string) letterAnswer {
		f.t.Helper()
		var got letterAnswer
		f.answered(call("POST", path), 200, &got)
		if counts, err := json.Marshal(got.Counts); err != nil || string(counts) != want {
			f.t.Errorf("%s: %s, want %s", path, counts, want)
		}
		return got
	}
	if got := work("/replay?dry_run=true", `{"replayable":2,"undecodable":2}`); !got.DryRun || got.Results[1].Detail == "" {
		f.t.Errorf("dry run %+v", got)
	}
	got := work("/replay?limit=1&type=axle", `{"replayed":1}`)
	work("/replay?limit=3&type=axle&cursor="+got.Next, `{"replayed":1,"undecodable":2}`)
	work("/replay", `{"undecodable":2,"was_replayed":2}`) // the tables do not know it yet
	work("/drop?dry_run=true&letter="+names[1], `{"droppable":1}`)
	work("/drop?note=noise&letter="+names[1], `{"dropped":1}`)
	work("/drop?all=true", `{"dropped":1,"was_dropped":1,"was_replayed":2}`)
	f.written()
	for state, want := range map[string]int{"": 0, "?state=parked": 0, "?state=replayed": 2, "?state=dropped": 2, "?state=all": 4, "?state=dropped&reason=truncated": 2, "?state=all&to=1000": 0} {
		var list letterList
		f.answered(call("GET", state), 200, &list)
		if len(list.Letters) != want {
			f.t.Errorf("%s: %d letters, want %d", state, len(list.Letters), want)
		}
	}
	work("/replay?letter="+names[0], `{"was_replayed":1}`)

	for _, c := range []string{"?limit=0", "?limit=1001", "?state=gone", "?device=", "?from=x", "?from=99999999999999999", "?from=2&to=1", "?cursor=x", "?cursor=MTp4", "/x", "/1.0.1", "/1.0.01-0"} {
		refused(call("GET", c), problem.InvalidRequest)
	}
	for _, c := range []string{"/drop", "/drop?all=false", "/drop?all=true&note=" + strings.Repeat("x", noteBytes+1), "/replay?letter=x", "/replay?limit=501", "/replay?dry_run=maybe", "/replay?note=x"} {
		refused(call("POST", c), problem.InvalidRequest)
	}
	refused(call("GET", "/1.0.99999-0"), problem.LetterNotFound)
	refused(call("POST", "/replay?letter=1.0.99999-0"), problem.LetterNotFound)
	refused(call("POST", "/drop?letter=1.0.99999-0"), problem.LetterNotFound)
	elsewhere := f.handler.(*api).letters
	f.handler.(*api).letters = nil
	for _, c := range []string{"GET ", "GET /" + names[0], "POST /replay", "POST /drop?all=true"} {
		method, path, _ := strings.Cut(c, " ")
		refused(call(method, path), problem.Unavailable)
	}
	f.handler.(*api).letters = elsewhere
	if f.t.Failed() {
		f.t.Log(fmt.Sprint(names))
	}
}

// TestLettersWithoutTables: a ClickHouse that is gone is told as such, not as a
// defect.
func TestLettersWithoutTables(t *testing.T) {
	f := newFixture(t, func(f *fixture, c *Config) {
		tables, err := columnar.NewLetters(columnar.Server{URL: "http://127.0.0.1:1"})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { tables.Close() })
		c.Letters = letters.New(f.log, f.catalog, tables)
	})
	for _, path := range []string{"GET /v1/dead-letters", "POST /v1/dead-letters/replay"} {
		method, path, _ := strings.Cut(path, " ")
		f.refused(call{method: method, path: path, token: "admin"}, problem.Unavailable)
	}
}
