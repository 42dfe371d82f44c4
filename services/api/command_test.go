package api

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/tachograph/tachograph/events"
	"github.com/tachograph/tachograph/projections/command"
	"github.com/tachograph/tachograph/services/api/problem"
)

// openCommands is how many open commands a device of the fixture may have.
const openCommands = 8

const unlockSchema = `syntax = "proto3"; message Unlock { optional int32 door = 1; }`

// commandContract is TestContract's part about commands. The fixture's log has
// no device that listens: what becomes of a command at one is services/commands'
// to test.
func commandContract(t *testing.T, f *fixture, refused func(call, problem.Code)) {
	const path = "/v1/devices/car-1/commands"
	admin := func(method, path, body string, header ...string) call {
		c := call{method: method, path: path, token: "admin", body: body, header: http.Header{}}
		for i := 0; i+1 < len(header); i += 2 {
			c.header.Add(header[i], header[i+1])
		}
		return c
	}
	var first, again commandDoc
	got := f.answered(admin("POST", path, `{"name":"unlock","parameters":{"door":2},"policy":"until_deadline","deadline":"1h"}`, "Idempotency-Key", "k"), 201, &first)
	if first.State != "queued" || string(first.Parameters) != `{"door":2}` || len(first.History) != 1 || got.header.Get("Location") != path+"/"+first.ID {
		t.Errorf("%s", got.body)
	}
	f.answered(admin("POST", path, `{"name":"unlock", "parameters":{"door":2},"policy":"until_deadline","deadline":"1h"}`, "Idempotency-Key", "k"), 200, &again)
	if again.ID != first.ID {
		t.Error("the key made another command")
	}
	refused(admin("POST", path, `{"name":"lock","policy":"until_deadline"}`, "Idempotency-Key", "k"), problem.KeyReused)
	refused(admin("POST", path, `{"name":"lock"}`, "Idempotency-Key", "a", "Idempotency-Key", "b"), problem.InvalidRequest)
	for _, body := range []string{``, `[]`, `{"name":1}`, `{"name":"a","nam":"b"}`, `{"name":"a","name":"b"}`, `{"name":"a","deadline":"soon"}`,
		`{"name":"a","priority":1.5}`, `{"name":"a","dry_run":null}`, `{"name":"a"}}`, `{"name":"a"`, "{\"name\":\"\xff\"}"} {
		refused(admin("POST", path, body), problem.InvalidBody)
	}
	for _, body := range []string{`{}`, `{"name":"a","policy":"sometimes"}`, `{"name":"a","priority":101}`, `{"name":"a","deadline":"9000h"}`, `{"name":"a","deadline":"1h","answer_by":"1m"}`} {
		refused(admin("POST", path, body), problem.InvalidCommand)
	}
	refused(admin("POST", path, `{"name":"a","deadline":"-1s"}`), problem.DeadlinePassed)
	refused(admin("POST", path, `{"name":"a","deadline":1000}`), problem.DeadlinePassed)
	refused(admin("POST", path, strings.Repeat(" ", commandBytes+1)), problem.PayloadTooLarge)
	refused(admin("POST", path, `{}`, "Content-Encoding", "gzip"), problem.UnsupportedMedia)
	f.answered(admin("POST", "/v1/schemas?name=command_unlock", unlockSchema), 201, nil)
	refused(admin("POST", path, `{"name":"unlock","parameters":{"door":"left"}}`), problem.InvalidCommand)

	// One command.
	one := path + "/" + first.ID
	f.answered(admin("GET", one, ""), 200, nil)
	f.answered(admin("GET", one+"?wait=10ms", ""), 200, nil)
	refused(admin("GET", one+"?wait=51s", ""), problem.InvalidRequest)
	f.answered(admin("GET", one+"?at=2100-01-01T00:00:00Z", ""), 200, nil)
	refused(admin("GET", one+"?at=yesterday", ""), problem.InvalidRequest)
	refused(admin("GET", one+"?at=2100-01-01T00:00:00Z&wait=1s", ""), problem.InvalidRequest)
	refused(admin("GET", one+"?at=2001-01-01T00:00:00Z", ""), problem.CommandNotFound)
	refused(admin("GET", path+"/nothing?at=2100-01-01T00:00:00Z", ""), problem.CommandNotFound)
	refused(admin("GET", path+"/nothing", ""), problem.CommandNotFound)
	refused(admin("GET", path+"/nothing/events", ""), problem.CommandNotFound)
	refused(admin("GET", one+"/events", "", "Last-Event-ID", "x"), problem.InvalidRequest)
	refused(admin("DELETE", path+"/nothing", ""), problem.CommandNotFound)
	refused(admin("DELETE", one+"?reason="+strings.Repeat("x", reasonBytes+1), ""), problem.InvalidRequest)
	f.answered(admin("DELETE", one+"?reason=why", ""), 200, &again)
	if again.State != "cancelled" || !again.Final || again.History[1].Reason != "why" || again.History[1].By != "admin" {
		t.Errorf("%+v", again)
	}
	got = f.answered(admin("GET", one+"/events", "", "Last-Event-ID", "1"), 200, nil)
	if text := string(got.body); !strings.HasPrefix(text, "id: 2\nevent: cancelled\ndata: {\"type\":\"cancelled\"") || strings.Count(text, "\n\n") != 1 {
		t.Errorf("%q", text)
	}

	// Sent by a gateway elsewhere: a cancel is a request, then it is over.
	f.answered(admin("POST", path, `{"name":"lock","policy":"until_deadline"}`), 201, &first)
	sent(t, f, first.ID)
	f.answered(admin("DELETE", path+"/"+first.ID, ""), 202, &again)
	if again.State != "sent" || !again.CancelRequested {
		t.Errorf("%+v", again)
	}
	f.answered(admin("POST", path, `{"name":"lock","deadline":"2s","answer_by":"2s"}`), 201, &first)
	f.answered(admin("GET", path+"/"+first.ID+"?wait=50s", ""), 200, &again)
	if again.State != "expired" {
		t.Errorf("%+v", again)
	}
	refused(admin("DELETE", path+"/"+first.ID, ""), problem.CommandFinal)

	f.answered(admin("POST", path, `{"name":"lock","policy":"until_deadline"}`), 201, &first)
	f.failing("append", events.ErrFull, func() { refused(admin("DELETE", path+"/"+first.ID, ""), problem.LogFull) })
	f.answered(admin("DELETE", path+"/"+first.ID, ""), 200, nil)

	// Many.
	var results struct{ Results []bulkResult }
	f.answered(admin("POST", "/v1/commands", `{"devices":["car-1","nobody"],"name":"honk","policy":"until_deadline","dry_run":true}`), 200, &results)
	if r := results.Results; len(r) != 2 || r[0].Command == nil || !r[0].Command.DryRun || r[1].Error == nil || r[1].Error.Code != problem.DeviceNotFound {
		t.Errorf("%+v", r)
	}
	for _, devices := range []string{``, `"devices":[],`, `"devices":"car-1",`, `"devices":["car-1","car-1"],`, `"devices":["` + strings.Repeat(`x","`, commandDevices) + `y"],`} {
		refused(admin("POST", "/v1/commands", `{`+devices+`"name":"honk"}`), problem.InvalidBody)
	}
	refused(admin("POST", "/v1/commands", strings.Repeat(" ", commandBytes+1)), problem.PayloadTooLarge)
	refused(admin("POST", "/v1/commands", `{}`, "Content-Encoding", "gzip"), problem.UnsupportedMedia)
	for range openCommands - 2 {
		f.do(admin("POST", path, `{"name":"wait","policy":"until_deadline","deadline":"1h"}`))
	}
	refused(admin("POST", path, `{"name":"wait","policy":"until_deadline","deadline":"1h"}`), problem.TooManyCommands)
	var list struct{ Commands []commandDoc }
	f.answered(admin("GET", path, ""), 200, &list)
	if len(list.Commands) < openCommands || list.Commands[0].Name != "wait" || list.Commands[0].History != nil {
		t.Errorf("%+v", list)
	}
	for _, c := range list.Commands { // room for the calls to come
		if !c.Final {
			f.do(admin("DELETE", path+"/"+c.ID, ""))
		}
	}
	crowdWatchers(f, func() {
		refused(admin("GET", one+"?wait=1s", ""), problem.TooManyRequests)
		refused(admin("GET", one+"/events", ""), problem.TooManyRequests)
	})
}

// crowdWatchers takes all the places of those who wait while do runs.
func crowdWatchers(f *fixture, do func()) {
	a := f.handler.(*api)
	for range cap(a.watchers) {
		a.watchers <- struct{}{}
	}
	do()
	for range cap(a.watchers) {
		<-a.watchers
	}
}

// TestWatchCommand: steps arrive as they happen.
func TestWatchCommand(t *testing.T) {
	f := newFixture(t)
	f.addDevice("car-1")
	var c commandDoc
	const path = "/v1/devices/car-1/commands"
	f.answered(call{method: "POST", path: path, token: "admin", body: `{"name":"lock","policy":"until_deadline"}`}, 201, &c)
	go func() {
		time.Sleep(20 * time.Millisecond) // the reader is probably there; it need not be
		sent(t, f, c.ID)
		answered(t, f, c.ID)
	}()
	got := f.answered(call{method: "GET", path: path + "/" + c.ID + "/events", token: "admin"}, 200, nil)
	var types []string
	for _, event := range strings.Split(strings.TrimSpace(string(got.body)), "\n\n") {
		_, data, _ := strings.Cut(event, "data: ")
		var s step
		if err := json.Unmarshal([]byte(data), &s); err != nil {
			t.Fatal(err)
		}
		types = append(types, s.Type)
	}
	if fmt.Sprint(types) != "[queued sent succeeded]" {
		t.Error(types)
	}
}

// TestCommandAt: the command of an earlier moment, with the steps that there were.
func TestCommandAt(t *testing.T) {
	f := newFixture(t)
	f.addDevice("car-1")
	start := time.Date(2026, 5, 1, 10, 0, 0, 0, time.UTC)
	at := func(minutes int) { now := start.Add(time.Duration(minutes) * time.Minute); f.now.Store(&now) }
	at(0)
	var c commandDoc
	f.answered(call{method: "POST", path: "/v1/devices/car-1/commands", token: "admin", body: `{"name":"lock","policy":"until_deadline","deadline":"1h"}`}, 201, &c)
	at(1)
	sent(t, f, c.ID)
	at(2)
	answered(t, f, c.ID)
	path := "/v1/devices/car-1/commands/" + c.ID
	now := f.answered(call{method: "GET", path: path, token: "admin"}, 200, nil)
	for moment, want := range map[string]string{
		"2026-05-01T10:00:30Z": "queued",
		"2026-05-01T10:01:00Z": "queued sent",
		"2026-05-01T11:00:00Z": "queued sent succeeded",
	} {
		var was commandDoc
		got := f.answered(call{method: "GET", path: path + "?at=" + moment, token: "admin"}, 200, &was)
		var steps []string
		for _, s := range was.History {
			steps = append(steps, s.Type)
		}
		if strings.Join(steps, " ") != want || string(was.State) != steps[len(steps)-1] || was.Position != got.header.Get(positionHeader) || was.Position == "" {
			t.Errorf("%s: %v %s", moment, got.header, got.body)
		}
		if want == "queued sent succeeded" && (string(got.body) != string(now.body) || got.header.Get(positionHeader) != now.header.Get(positionHeader)) {
			t.Errorf("then %s, now %s", got.body, now.body)
		}
	}
	f.refused(call{method: "GET", path: path + "?at=2026-05-01T09:59:59Z", token: "admin"}, problem.CommandNotFound)
}

// TestCommandsAt: the list of an earlier moment has what there was, in the state of
// then, at one device.
func TestCommandsAt(t *testing.T) {
	f := newFixture(t)
	f.addDevice("car-1")
	f.addDevice("car-2")
	const list = "/v1/devices/car-1/commands"
	start := time.Date(2026, 5, 1, 10, 0, 0, 0, time.UTC)
	at := func(minutes int) { now := start.Add(time.Duration(minutes) * time.Minute); f.now.Store(&now) }
	order := func(device, name string) (c commandDoc) {
		t.Helper()
		f.answered(call{method: "POST", path: "/v1/devices/" + device + "/commands", token: "admin", body: `{"name":"` + name + `","policy":"until_deadline","deadline":"1h"}`}, 201, &c)
		for was := time.Now().UnixMilli(); time.Now().UnixMilli() == was; { // the newest is told by the millisecond
			time.Sleep(100 * time.Microsecond)
		}
		return c
	}
	at(0)
	lock := order("car-1", "lock")
	at(1)
	order("car-2", "honk")
	at(2)
	order("car-1", "unlock")
	at(3)
	sent(t, f, lock.ID)
	at(4)
	answered(t, f, lock.ID)
	for moment, want := range map[string]string{
		"2026-05-01T09:59:59Z":         "",
		"2026-05-01T10:01:59Z":         "lock queued",
		"2026-05-01T10:02:30Z":         "unlock queued, lock queued",
		"2026-05-01T10:03:00Z":         "unlock queued, lock sent",
		"2026-05-01T11:00:00Z":         "unlock queued, lock succeeded",
		"2026-05-01T11:00:00Z&limit=1": "unlock queued",
	} {
		var was struct{ Commands []commandDoc }
		got := f.answered(call{method: "GET", path: list + "?at=" + moment, token: "admin"}, 200, &was)
		var there []string
		newest := ""
		for _, c := range was.Commands {
			there = append(there, c.Name+" "+string(c.State))
			if len(c.Position) > len(newest) || len(c.Position) == len(newest) && c.Position > newest { // of one partition and epoch
				newest = c.Position
			}
			if c.History != nil {
				t.Errorf("%s: %s", moment, got.body)
			}
		}
		position := got.header.Get(positionHeader)
		if strings.Join(there, ", ") != want || position != newest && !strings.Contains(moment, "limit") || (position == "") != (want == "") {
			t.Errorf("%s: %v %s", moment, got.header, got.body)
		}
	}
	now := f.answered(call{method: "GET", path: list, token: "admin"}, 200, nil)
	then := f.answered(call{method: "GET", path: list + "?at=2026-05-01T11:00:00Z", token: "admin"}, 200, nil)
	if string(now.body) != string(then.body) {
		t.Errorf("then %s, now %s", then.body, now.body)
	}
	f.refused(call{method: "GET", path: list + "?at=yesterday", token: "admin"}, problem.InvalidRequest)
	f.refused(call{method: "GET", path: "/v1/devices/nobody/commands?at=2026-05-01T11:00:00Z", token: "admin"}, problem.DeviceNotFound)
	readers := f.handler.(*api).readers
	for range cap(readers) {
		readers <- struct{}{}
	}
	f.refused(call{method: "GET", path: list + "?at=2026-05-01T11:00:00Z", token: "admin"}, problem.TooManyRequests)
	for range cap(readers) {
		<-readers
	}
}

// sent and answered play a gateway in another process.
func sent(t testing.TB, f *fixture, id string) {
	t.Helper()
	happen(t, f, id, func(c *command.Command, at int64) (command.Fact, error) { return c.Send(at) })
}

func answered(t testing.TB, f *fixture, id string) {
	t.Helper()
	happen(t, f, id, func(c *command.Command, at int64) (command.Fact, error) {
		return c.Answer(command.Answer{State: command.Succeeded}, at)
	})
}

func happen(t testing.TB, f *fixture, id string, decide func(*command.Command, int64) (command.Fact, error)) {
	t.Helper()
	v, err := f.commands.Get(t.Context(), "car-1", id)
	if err != nil {
		t.Error(err)
		return
	}
	fact, err := decide(&v.Command, time.Now().UnixMilli())
	if err != nil {
		t.Error(err)
		return
	}
	payload, err := fact.Payload()
	if err != nil {
		t.Error(err)
		return
	}
	_, err = f.log.Append(t.Context(), events.At(v.Position.Seq), events.Event{
		Stream: events.Stream{Kind: events.Command, ID: "car-1", Name: id}, Type: fact.Type, ID: events.UniqueID(), Payload: payload,
	})
	if err != nil {
		t.Error(err)
		return
	}
	for range 1000 {
		if now, err := f.commands.Get(t.Context(), "car-1", id); err == nil && now.Position.Seq > v.Position.Seq {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Error("the step is never folded")
}

// TestCommandEvents: a device's commands are many streams, and are found by its
// id all the same.
func TestCommandEvents(t *testing.T) {
	f := newFixture(t)
	for _, id := range []string{"car-1", "car-2"} {
		f.addDevice(id)
		f.answered(call{method: "POST", path: "/v1/devices/" + id + "/commands", token: "admin", body: `{"name":"lock","policy":"until_deadline"}`}, 201, nil)
	}
	got := f.answered(call{method: "GET", path: "/v1/events?kind=command&device=car-2", token: "admin"}, 200, nil)
	if text := string(got.body); strings.Count(text, "\n") != 1 || !strings.Contains(text, `"type":"queued","kind":"command","device":"car-2"`) {
		t.Error(text)
	}
}
