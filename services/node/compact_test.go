package node

import (
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	mqtt "github.com/eclipse/paho.mqtt.golang"

	"github.com/tachograph/tachograph/events"
	"github.com/tachograph/tachograph/projections/columnar"
	"github.com/tachograph/tachograph/services/letters"
)

// answered is when a shadow was asked for.
var answered = regexp.MustCompile(`"timestamp":[0-9]+}\s*$`)

// TestCompact: of a log whose control facts were compacted every answer is what it
// was, on the running node, after a start and of every fold that begins anew; all of
// it goes on from there, and the tables, replays and an export know nothing of it.
func TestCompact(t *testing.T) {
	if testing.Short() {
		t.Skip("long, and the race detector sees the same in TestCompactByTwo: make test runs this")
	}
	t.Parallel()
	c := defaults(t, "--keep-control", "24h", "--presence-grace", "1s")
	c.LogBytes, c.least, c.settle = 20<<20, 1, time.Nanosecond
	n := startNode(t, c)
	devices := []string{"car-1", "car-2", "car-3", "car-4", "roams", "stays"}
	tokens := map[string]string{}
	for _, device := range devices {
		var err error
		if tokens[device], err = n.auth.Add(t.Context(), device); err != nil {
			t.Fatal(err)
		}
	}
	if err := n.auth.Remove(t.Context(), "car-3"); err != nil {
		t.Fatal(err)
	}
	old := tokens["car-2"]
	var err error
	if tokens["car-2"], err = n.auth.NewToken(t.Context(), "car-2"); err != nil {
		t.Fatal(err)
	}
	for i := range 3 {
		must(t, n, "POST", "/v1/schemas?name=warmth", fmt.Sprintf(`syntax = "proto3"; message Warmth { optional double front = 1; %s }`, strings.Join([]string{"optional double a = 2;", "optional double b = 3;", "optional double d = 4;"}[:i+1], " ")))
	}

	// What was sent of car-4 is forgotten, one of its letters dropped before.
	send := func(n *Node, device, message, body string) {
		t.Helper()
		p := &program{t: t, Addresses: n.addrs}
		p.telemetry(tokens[device], device, message, body)
	}
	for i := range 3 {
		send(n, "car-4", "position", fmt.Sprintf(`{"time":%d,"speed":5}`, 1_700_000_000_000+i))
	}
	send(n, "car-1", "position", `{"time":1700000000000,"speed":"fast"}`)
	awaitRows(t, n, "SELECT count() FROM tacho.dead_letters", "1")
	must(t, n, "POST", "/v1/dead-letters/drop?device=car-1", `{"note":"no use"}`)
	done := func(n *Node, answer string) {
		t.Helper()
		var asked struct{ ID, State string }
		if err := json.Unmarshal([]byte(answer), &asked); err != nil {
			t.Fatal(err)
		}
		for deadline := time.Now().Add(3 * time.Minute); asked.State != "done"; time.Sleep(50 * time.Millisecond) {
			if err := json.Unmarshal([]byte(must(t, n, "GET", "/v1/forget/"+asked.ID, "")), &asked); err != nil || time.Now().After(deadline) {
				t.Fatal(asked, err)
			}
		}
	}
	done(n, must(t, n, "POST", "/v1/forget", `{"device":"car-4"}`))

	// Commands: answered, refused, late, cancelled, and some that are open.
	answering := make(chan mqtt.Message, 100)
	client := mqtt.NewClient(mqtt.NewClientOptions().AddBroker("tcp://" + n.addrs.MQTT).SetClientID("car-1").SetUsername("car-1").SetPassword(tokens["car-1"]).SetAutoReconnect(false).
		SetDefaultPublishHandler(func(_ mqtt.Client, m mqtt.Message) { answering <- m }))
	for _, step := range []func() mqtt.Token{client.Connect, func() mqtt.Token { return client.Subscribe("commands/+", 1, nil) }} {
		if token := step(); !token.WaitTimeout(2*time.Minute) || token.Error() != nil {
			t.Fatal(token.Error())
		}
	}
	order := func(n *Node, device, body string, headers ...string) string {
		t.Helper()
		var c struct{ ID string }
		if err := json.Unmarshal([]byte(must(t, n, "POST", "/v1/devices/"+device+"/commands", body, headers...)), &c); err != nil {
			t.Fatal(err)
		}
		return c.ID
	}
	state := func(n *Node, device, id, wait string) string {
		t.Helper()
		var c struct{ State string }
		if err := json.Unmarshal([]byte(must(t, n, "GET", "/v1/devices/"+device+"/commands/"+id+"?wait="+wait, "")), &c); err != nil {
			t.Fatal(err)
		}
		return c.State
	}
	answer := func(text string) {
		t.Helper()
		select {
		case m := <-answering:
			if token := client.Publish(m.Topic()+"/answer", 1, false, text); !token.WaitTimeout(time.Minute) || token.Error() != nil {
				t.Fatal(token.Error())
			}
		case <-time.After(time.Minute):
			t.Fatal("no command came")
		}
	}
	ended := map[string]string{} // ids, and whose they are
	for i := range 30 {
		id := order(n, "car-1", fmt.Sprintf(`{"name":"unlock","parameters":{"door":%d,"note":"%s"}}`, i, strings.Repeat("p", 300)))
		answer(`{"state":"running"}`)
		if token := client.Publish("commands/"+id+"/answer", 1, false, `{"state":"succeeded","result":{"ok":true}}`); !token.WaitTimeout(time.Minute) || token.Error() != nil {
			t.Fatal(token.Error())
		}
		if got := state(n, "car-1", id, "20s"); got != "succeeded" {
			t.Fatal(got)
		}
		ended[id] = "car-1"
	}
	late := order(n, "car-1", `{"name":"late","deadline":"1s","answer_by":"2s"}`)
	if got := state(n, "car-1", late, "20s"); got != "timed_out" {
		t.Fatal(got)
	}
	lateAfter := order(n, "car-1", `{"name":"later","deadline":"1s","answer_by":"2s"}`)
	if got := state(n, "car-1", lateAfter, "20s"); got != "timed_out" {
		t.Fatal(got)
	}
	answer(`{"state":"succeeded"}`) // of the first
	lateTopic := (<-answering).Topic()
	client.Disconnect(250)
	ended[late], ended[lateAfter] = "car-1", "car-1"
	keyed := order(n, "car-2", `{"name":"park","policy":"until_deadline","deadline":"1h"}`, "Idempotency-Key", "used")
	must(t, n, "DELETE", "/v1/devices/car-2/commands/"+keyed, "")
	ended[keyed] = "car-2"
	open := order(n, "car-2", `{"name":"park","policy":"until_deadline","deadline":"1h"}`, "Idempotency-Key", "open")

	comesAndGoes(t, n.log, "roams", 7000, false)
	comesAndGoes(t, n.log, "stays", 50, true)
	changes(t, n, "car-1", "", 150)
	middle := time.Now().UTC()
	changes(t, n, "car-1", "?name=doors", 20)
	changes(t, n, "car-2", "", 150)
	changes(t, n, "car-2", "?name=gone", 3)
	must(t, n, "DELETE", "/v1/devices/car-2/shadow?name=gone", "")
	for deadline := time.Now().Add(time.Minute); n.roster.Get("stays").Connected; time.Sleep(50 * time.Millisecond) { // its gateway is gone, and the sweep says so
		if time.Now().After(deadline) {
			t.Fatal("its gateway is not missed")
		}
	}
	changes(t, n, "car-2", "?name=last", 2)
	quiet := func(n *Node, device string, times int) { // nothing more is said of who is there
		t.Helper()
		awaitRows(t, n, "SELECT countIf(change = 'offline'), argMax(change, _seq) FROM tacho.presence WHERE device = '"+device+"'", fmt.Sprint(times, "\toffline"))
	}
	quiet(n, "car-1", 1)
	quiet(n, "stays", 18)
	awaitFolded(t, n)

	answers := func(n *Node) map[string]string {
		t.Helper()
		awaitFolded(t, n)
		all := map[string]string{}
		get := func(path string) {
			t.Helper()
			status, text := request(t, n, "GET", path, "")
			all[path] = fmt.Sprint(status, " ", answered.ReplaceAllString(text, ""))
		}
		for _, device := range devices {
			get("/v1/devices/" + device)
			get("/v1/devices/" + device + "/shadows")
			get("/v1/devices/" + device + "/commands?at=" + middle.Format(time.RFC3339Nano))
			for _, name := range []string{"", "doors", "gone", "last"} {
				get("/v1/devices/" + device + "/shadow?name=" + name)
				get("/v1/devices/" + device + "/shadow?name=" + name + "&at=" + middle.Format(time.RFC3339Nano))
				get("/v1/devices/" + device + "/shadow/history?limit=400&name=" + name)
			}
		}
		for id, device := range ended {
			get("/v1/devices/" + device + "/commands/" + id)
			get("/v1/devices/" + device + "/commands/" + id + "?at=" + middle.Format(time.RFC3339Nano))
			get("/v1/devices/" + device + "/commands/" + id + "?at=2001-01-01T00:00:00Z")
		}
		get("/v1/devices/car-2/commands/" + open)
		get("/v1/devices/car-2/commands/nosuch")
		for _, kind := range []events.Kind{events.Presence, events.Shadow, events.Command, events.Registry, events.SchemaKind, events.Letter, events.Forgotten} {
			get("/v1/events?limit=100000&kind=" + string(kind))
		}
		for _, path := range []string{"/v1/devices", "/v1/shadows/pending", "/v1/schemas", "/v1/schemas/warmth?version=1", "/v1/forget", "/v1/dead-letters?state=all"} {
			get(path)
		}
		for _, table := range []string{"events", "shadow_changes", "command_steps", "presence", "dead_letters"} {
			columns := answerOf(t, n, "SELECT arrayStringConcat(groupArray('`' || name || '`'), ',') FROM system.columns WHERE database = 'tacho' AND table = '"+table+"' AND name != '_stored'")
			all["table "+table] = answerOf(t, n, "SELECT count(), sum(cityHash64("+strings.TrimSpace(columns)+")) FROM tacho."+table+map[bool]string{true: " WHERE kind != 'credential'"}[table == "events"]) // these are in no export
		}
		for what, text := range all { // the archive keeps microseconds
			all[what] = nanoseconds.ReplaceAllStringFunc(text, func(at string) string {
				return strings.TrimRight(strings.TrimRight(nanoseconds.ReplaceAllString(at, "$1"), "0"), ".") + "Z"
			})
		}
		return all
	}
	want, folds := answers(n), foldedAnew(t, n.log, devices...)
	bounds := func(n *Node) events.Bounds {
		t.Helper()
		b, err := n.log.Bounds(t.Context(), events.ControlPartition)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	facts := bounds(n).Newest.Seq

	// Nothing that is young goes; then all but the newest.
	if err := n.janitor.Pass(t.Context(), time.Now().Add(23*time.Hour)); err != nil || bounds(n).Oldest.Seq != 1 {
		t.Fatalf("%+v, %v", bounds(n), err)
	}
	if err := n.janitor.Pass(t.Context(), time.Now().Add(25*time.Hour)); err != nil {
		t.Fatal(err)
	}
	base, err := n.log.Base(t.Context())
	if err != nil || base.UpTo.Seq != facts-1 || base.Facts > 100 || bounds(n).Oldest.Seq < facts/2 {
		t.Fatalf("of %d facts %d are kept, up to %s; the log begins at %s: %v", facts, base.Facts, base.UpTo, bounds(n).Oldest, err)
	}
	t.Logf("of %d facts %d are kept; the log begins at %s", facts, base.Facts, bounds(n).Oldest)
	if got := must(t, n, "GET", "/v1/log", ""); !strings.Contains(got, fmt.Sprintf(`"partition":256,"oldest":{"epoch":1,"partition":256,"seq":%d}`, bounds(n).Oldest.Seq)) {
		t.Errorf("the log does not tell of its control facts: %s", got)
	}
	same(t, "folded anew", foldedAnew(t, n.log, devices...), folds)
	same(t, "compacted", answers(n), want)
	if got := must(t, n, "POST", "/v1/verify", ""); !strings.Contains(got, `"total":0,`) {
		t.Errorf("the log and the tables do not agree: %s", got)
	}

	stopNode(t, n)
	n = startNode(t, c)
	same(t, "started anew", answers(n), want)

	// It goes on from there.
	if got := must(t, n, "POST", "/v1/devices/car-1/shadow", `{"state":{"reported":{"target":148}}}`); !strings.Contains(got, `"version":151`) {
		t.Error(got)
	}
	if status, got := request(t, n, "POST", "/v1/devices/car-1/shadow", `{"state":{"reported":{"target":1}},"version":150}`); status != 409 {
		t.Error(status, got)
	}
	if got := must(t, n, "POST", "/v1/devices/car-2/shadow?name=gone", `{"state":{"reported":{"target":148}}}`); !strings.Contains(got, `"version":4`) {
		t.Error(got)
	}
	if got := order(n, "car-2", `{"name":"park","policy":"until_deadline","deadline":"1h"}`, "Idempotency-Key", "open"); got != open {
		t.Error("the key of an open command makes another: ", got)
	}
	if got := state(n, "car-2", keyed, "0s"); got != "cancelled" {
		t.Error(got)
	}
	if _, err := n.auth.Add(t.Context(), "car-1"); err == nil {
		t.Error("a device was added twice")
	}
	if n.auth.Authenticate("car-2", old) || !n.auth.Authenticate("car-2", tokens["car-2"]) || n.auth.Authenticate("car-3", tokens["car-3"]) {
		t.Error("another token is good now")
	}
	dropped, err := n.letters.Drop(t.Context(), columnar.LetterFilter{Device: "car-1"}, "", false)
	if err != nil || len(dropped) != 1 || dropped[0].Outcome != letters.WasDropped {
		t.Fatalf("a letter was dropped twice: %+v, %v", dropped, err)
	}
	var conflict *events.ConflictError
	if _, err := n.log.Append(t.Context(), events.Fresh, events.Event{ // as by a process that reads the tables later
		Stream: events.Stream{Kind: events.Letter, ID: "car-1", Name: dropped[0].Letter}, Type: columnar.OutcomeDropped, ID: events.UniqueID(), Payload: []byte("{}"),
	}); !errors.As(err, &conflict) {
		t.Errorf("a letter was dropped twice: %v", err)
	}
	// An answer that is late by more than the facts are kept is told so, not stored.
	client = mqtt.NewClient(mqtt.NewClientOptions().AddBroker("tcp://" + n.addrs.MQTT).SetClientID("car-1").SetUsername("car-1").SetPassword(tokens["car-1"]).SetAutoReconnect(false))
	if token := client.Connect(); !token.WaitTimeout(time.Minute) || token.Error() != nil {
		t.Fatal(token.Error())
	}
	if token := client.Publish(lateTopic+"/answer", 1, false, `{"state":"succeeded"}`); !token.WaitTimeout(time.Minute) {
		t.Fatal("an answer is not acknowledged")
	}
	client.Disconnect(250)
	quiet(n, "car-1", 2)
	if got := state(n, "car-1", lateAfter, "0s"); got != "timed_out" {
		t.Error(got)
	}
	// A key is free once its command is gone; the id, which is made of it, is that of both.
	if got := order(n, "car-2", `{"name":"again","policy":"until_deadline","deadline":"1h"}`, "Idempotency-Key", "used"); got != keyed {
		t.Error(got)
	}
	if got := state(n, "car-2", keyed, "0s"); got != "queued" {
		t.Error(got)
	}
	if status := replayOnce(t, n, "shadow", true); status.Tables[0].Changed+status.Tables[0].OnlyOld+status.Tables[0].OnlyNew > 0 {
		t.Errorf("%+v", status)
	}
	for _, table := range replayOnce(t, n, "columnar", true).Tables {
		if table.Changed+table.OnlyOld+table.OnlyNew > 0 {
			t.Errorf("%+v", table)
		}
	}

	// What the base has of a car's presence can be forgotten, too.
	roams := n.roster.Get("roams")
	done(n, must(t, n, "POST", "/v1/forget", `{"device":"roams"}`))
	if got := n.roster.Get("roams"); got.Connected != roams.Connected || got.Version <= roams.Version {
		t.Errorf("%+v, it was %+v", got, roams)
	}
	said, err := n.compactor.Presence(t.Context(), "roams")
	if err != nil || len(said) > 0 {
		t.Errorf("the base has still %d facts: %v", len(said), err)
	}
	// A second time, over a base; nothing but the ends of what there was goes.
	folds = foldedAnew(t, n.log, devices...)
	if err := n.janitor.Pass(t.Context(), time.Now().Add(25*time.Hour)); err != nil {
		t.Fatal(err)
	}
	same(t, "folded anew the second time", foldedAnew(t, n.log, devices...), folds)
	stopNode(t, n)
	n = startNode(t, c) // so that nobody remembers what is forgotten
	want = answers(n)
	stopNode(t, n)
	for _, file := range filesWith(t, filepath.Join(c.Data, "nats"), `"session":"roams-`) {
		t.Errorf("%s has what was forgotten", file)
	}

	// What is exported and imported is folded to the same.
	p := serve(t, c.Data, "--keep-control", "24h", "--presence-grace", "1s", "--log-bytes", fmt.Sprint(c.LogBytes))
	whole, into := filepath.Join(t.TempDir(), "whole"), t.TempDir()
	p.must("export", whole, "--data", p.dir)
	p.must("verify", "--data", p.dir)
	p.must("import", whole, "--data", into)
	p.end()
	c.Data, c.LogBytes = into, 0
	n = startNode(t, c)
	got := answers(n)
	same(t, "imported", got, want)
}
