package node

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"log/slog"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	mqtt "github.com/eclipse/paho.mqtt.golang"
	"github.com/nats-io/nats-server/v2/server"

	"github.com/tachograph/tachograph/events"
	"github.com/tachograph/tachograph/projections/catalog"
	"github.com/tachograph/tachograph/projections/columnar"
	"github.com/tachograph/tachograph/projections/forgotten"
	"github.com/tachograph/tachograph/projections/presence"
	"github.com/tachograph/tachograph/services/auth"
	"github.com/tachograph/tachograph/services/commands"
	"github.com/tachograph/tachograph/services/letters"
	"github.com/tachograph/tachograph/services/roster"
	"github.com/tachograph/tachograph/services/shadows"
)

// request asks a node as its administrator.
func request(t testing.TB, n *Node, method, path, body string, headers ...string) (status int, answer string) {
	t.Helper()
	token, err := os.ReadFile(n.addrs.AdminTokenFile)
	if err != nil {
		t.Fatal(err)
	}
	req, err := http.NewRequestWithContext(t.Context(), method, "http://"+n.addrs.HTTP+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+strings.TrimSpace(string(token)))
	for i := 0; i < len(headers); i += 2 {
		req.Header.Set(headers[i], headers[i+1])
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(b)
}

// must is request for what has to succeed.
func must(t testing.TB, n *Node, method, path, body string, headers ...string) string {
	t.Helper()
	status, answer := request(t, n, method, path, body, headers...)
	if status/100 != 2 {
		t.Fatalf("%s %s: %d %s", method, path, status, answer)
	}
	return answer
}

// foldedAnew is what every fold of control facts comes to that begins now.
func foldedAnew(t testing.TB, log events.Log, devices ...string) (all map[string]string) {
	t.Helper()
	ctx, quiet := t.Context(), slog.New(slog.DiscardHandler)
	fail := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	all = map[string]string{}
	put := func(what string, value any) {
		b, err := json.Marshal(value)
		fail(err)
		all[what] = string(b)
	}
	c, err := catalog.Open(ctx, log, quiet)
	fail(err)
	var versions []string
	for _, s := range c.Schemas().All() {
		versions = append(versions, fmt.Sprint(s.Name(), " ", s.Version(), " ", s.Source()))
	}
	put("schemas", versions)
	ledger, err := forgotten.Open(ctx, log)
	fail(err)
	put("ledger", ledger.All())
	directory, err := auth.Open(ctx, log, quiet)
	fail(err)
	put("devices", directory.List("", 1000))
	r, err := roster.Open(ctx, roster.Config{Log: log})
	fail(err)
	s, err := shadows.Open(ctx, shadows.Config{Log: log})
	fail(err)
	cs, err := commands.Open(ctx, commands.Config{Log: log})
	fail(err)
	put("pending", s.Pending("", "", 1000))
	for _, device := range devices {
		put("presence of "+device, r.Get(device))
		for _, name := range append(s.Names(device, "", 1000), "", "gone") {
			doc, at := s.Get(device, name)
			put("shadow "+name+" of "+device, []any{string(doc.Get(0, "")), at, doc.Exists, doc.Version, doc.At, doc.Converged()})
		}
		var open []any
		for _, v := range cs.List(device, 1000) {
			if !v.State.Final() {
				open = append(open, v, v.Due())
			}
		}
		put("open commands of "+device, open)
	}
	return all
}

func same(t testing.TB, when string, got, want map[string]string) {
	t.Helper()
	for what := range want {
		if got[what] != want[what] {
			t.Errorf("%s, %s differs:\ngot  %.1500s\nwant %.1500s", when, what, got[what], want[what])
		}
	}
	if len(got) != len(want) || len(want) == 0 {
		t.Errorf("%s: %d answers, want %d", when, len(got), len(want))
	}
}

// comesAndGoes appends the presence of a car that connects and disconnects so many
// times, and has then one connection, or none.
func comesAndGoes(t testing.TB, log events.Log, device string, times int, stays bool) {
	t.Helper()
	var d presence.Device
	last := uint64(0)
	var evs []events.Event
	flush := func() {
		at, err := log.Append(t.Context(), events.At(last), evs...)
		if err != nil {
			t.Fatal(err)
		}
		last, evs = at.Seq, nil
	}
	add := func(f presence.Fact, news bool) {
		if !news {
			return
		}
		payload, err := f.Payload()
		if err != nil {
			t.Fatal(err)
		}
		d.Evolve(f)
		evs = append(evs, events.Event{Stream: events.Stream{Kind: events.Presence, ID: device}, Type: f.Type, ID: events.UniqueID(), Payload: payload})
		if len(evs) >= 500 && d.Offline { // else the node's own roster would say so
			flush()
		}
	}
	at := int64(1_700_000_000_000)
	for i := range times {
		session := fmt.Sprint(device, "-", i)
		add(d.Connect(session, device, "a gateway that was", at+int64(i)*60_000))
		if i < times-1 || !stays {
			add(d.Disconnect(session, presence.Network, at+int64(i)*60_000+20_000))
			if i%3 == 0 {
				add(d.GoOffline(at+int64(i)*60_000+55_000, 30_000))
			}
		}
	}
	if len(evs) > 0 {
		flush()
	}
}

// changes has a shadow changed so many times.
func changes(t testing.TB, n *Node, device, query string, times int) {
	t.Helper()
	for i := range times {
		must(t, n, "POST", "/v1/devices/"+device+"/shadow"+query, fmt.Sprintf(`{"state":{"desired":{"target":%d,"lights":{"l%d":[1,{"x":%d}]}},"reported":{"target":%d,"note":"%s"}}}`, i/2*2, i%4, i, i, strings.Repeat("n", 200)))
	}
}

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

// TestCompactKilled: a process that is killed with -9 at any step of compacting leaves
// a log of which every fold is what it was; the next pass brings it to its end.
func TestCompactKilled(t *testing.T) {
	config := func(dir string) Config {
		c := defaults(t, "--keep-control", "24h", "--role", "gateway,api")
		c.Data, c.LogBytes, c.least, c.settle = dir, 20<<20, 1, time.Nanosecond
		return c
	}
	if step := os.Getenv("TACHO_TEST_DIE_AT"); step != "" { // the process that is killed
		c := config(os.Getenv("TACHO_TEST_DATA"))
		c.fault = func(at string) error {
			if at == step {
				_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
			}
			return nil
		}
		n := startNode(t, c)
		if err := n.compactor.Pass(t.Context(), time.Now().Add(25*time.Hour)); err != nil {
			t.Fatal(err)
		}
		t.Fatal("it was not killed")
	}
	dir := t.TempDir()
	n := startNode(t, config(dir))
	devices := []string{"car-1", "roams"}
	for _, device := range devices {
		if _, err := n.auth.Add(t.Context(), device); err != nil {
			t.Fatal(err)
		}
	}
	comesAndGoes(t, n.log, "roams", 7000, false)
	changes(t, n, "car-1", "", 20)
	must(t, n, "POST", "/v1/devices/car-1/commands", `{"name":"park","policy":"until_deadline","deadline":"1h"}`)
	want := foldedAnew(t, n.log, devices...)
	stopNode(t, n)
	for _, step := range []string{"base fact", "base stored", "base synced", "base pointed at"} {
		child := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestCompactKilled$", "-test.timeout=5m")
		child.Env = append(os.Environ(), "TACHO_TEST_DIE_AT="+step, "TACHO_TEST_DATA="+dir)
		out, err := child.CombinedOutput()
		if status, ok := child.ProcessState.Sys().(syscall.WaitStatus); !ok || status.Signal() != syscall.SIGKILL {
			t.Fatalf("%s: %v: %s", step, err, out)
		}
		n := startNode(t, config(dir))
		same(t, "killed at "+step, foldedAnew(t, n.log, devices...), want)
		b, err := n.log.Bounds(t.Context(), events.ControlPartition)
		if err != nil || b.Oldest.Seq != 1 {
			t.Fatalf("killed at %s: %+v, %v", step, b, err)
		}
		base, err := n.log.Base(t.Context())
		if err != nil || (base.UpTo.Seq > 0) != (step == "base pointed at") {
			t.Fatalf("killed at %s: %+v, %v", step, base, err)
		}
		stopNode(t, n)
	}
	n = startNode(t, config(dir))
	if err := n.compactor.Pass(t.Context(), time.Now().Add(25*time.Hour)); err != nil {
		t.Fatal(err)
	}
	b, err := n.log.Bounds(t.Context(), events.ControlPartition)
	if err != nil || b.Oldest.Seq == 1 {
		t.Fatalf("%+v, %v", b, err)
	}
	same(t, "purged", foldedAnew(t, n.log, devices...), want)
	stopNode(t, n)
	n = startNode(t, config(dir))
	same(t, "purged and started anew", foldedAnew(t, n.log, devices...), want)
}

// recorded is a log of which somebody has written down every control fact.
type recorded struct {
	events.Log
	all []events.Event
}

func (r *recorded) Base(context.Context) (events.Base, error) { return events.Base{}, nil }

func (r *recorded) Bounds(context.Context, uint16) (events.Bounds, error) {
	return events.Bounds{Newest: r.all[len(r.all)-1].Position}, nil
}

func (r *recorded) Follow(ctx context.Context, _ uint16, after events.Cursor) iter.Seq2[events.Event, error] {
	return func(yield func(events.Event, error) bool) {
		for _, e := range r.all {
			if e.Position.Seq > after.Position.Seq && !yield(e, nil) {
				return
			}
		}
		<-ctx.Done()
	}
}

// TestCompactByTwo: two processes on an existing NATS compact again and again, at the
// same time, while both write: every fold that begins is what the whole history makes.
func TestCompactByTwo(t *testing.T) {
	t.Parallel()
	s := startServer(t, server.Options{Port: -1, StoreDir: t.TempDir()})
	var nodes [2]*Node
	for i := range nodes {
		c := defaults(t, "--nats", s.ClientURL(), "--keep-control", "24h", "--role", "gateway,api")
		c.least, c.settle = 1, time.Second
		nodes[i] = startNode(t, c)
	}
	devices := []string{"car-0", "car-1", "roams"}
	for i, device := range devices[:2] {
		if _, err := nodes[i].auth.Add(t.Context(), device); err != nil {
			t.Fatal(err)
		}
	}
	whole, stop := &recorded{Log: nodes[0].log}, make(chan struct{})
	following, end := context.WithCancel(t.Context())
	defer end()
	heard := make(chan events.Event)
	go func() {
		defer close(heard)
		for e, err := range nodes[0].log.Follow(following, events.ControlPartition, events.Cursor{}) {
			if err != nil {
				if following.Err() == nil {
					t.Error(err)
				}
				return
			}
			heard <- e
		}
	}()
	var work, writers sync.WaitGroup
	won, began := [2]atomic.Int32{}, time.Now()
	for i, n := range nodes {
		writers.Go(func() {
			for round := 0; time.Since(began) < 8*time.Second; round++ {
				changes(t, n, devices[i], "", 3)
				changes(t, n, "car-0", "?name=both", 1) // the two are in each other's way
				if round%32 == i {
					must(t, n, "POST", "/v1/devices/"+devices[i]+"/commands", `{"name":"park","policy":"until_deadline","deadline":"1h"}`)
				}
			}
		})
		work.Go(func() {
			for {
				before, err := n.log.Base(t.Context())
				if err == nil {
					err = n.compactor.Pass(t.Context(), time.Now().Add(25*time.Hour))
				}
				if after, _ := n.log.Base(t.Context()); after.Revision > before.Revision {
					won[i].Add(1)
				}
				var slow *events.TruncatedError // the other has purged what this one was reading
				if err != nil && !errors.As(err, &slow) {
					t.Error(err)
				}
				select {
				case <-stop:
					return
				case <-time.After(time.Duration(200+i) * time.Millisecond):
				}
			}
		})
	}
	comesAndGoes(t, nodes[0].log, "roams", 300, false)
	ended := make(chan struct{})
	go func() { writers.Wait(); close(stop); work.Wait(); close(ended) }()
	for done := false; !done; {
		select {
		case e := <-heard:
			whole.all = append(whole.all, e)
		case <-ended:
			done = true
		}
	}
	newest, err := events.Newest(t.Context(), nodes[0].log, events.ControlPartition)
	if err != nil {
		t.Fatal(err)
	}
	for whole.all[len(whole.all)-1].Position.Seq < newest.Seq {
		whole.all = append(whole.all, <-heard)
	}
	want := foldedAnew(t, whole, devices...)
	for i, n := range nodes {
		same(t, fmt.Sprint("process ", i), foldedAnew(t, n.log, devices...), want)
	}
	base, err := nodes[1].log.Base(t.Context())
	oldest, err2 := nodes[0].log.Bounds(t.Context(), events.ControlPartition)
	if err != nil || err2 != nil || base.UpTo.Seq < newest.Seq/2 || oldest.Oldest.Seq == 1 || won[0].Load()+won[1].Load() < 4 {
		t.Fatalf("up to %s of %s, from %s, %d and %d bases: %v", base.UpTo, newest, oldest.Oldest, won[0].Load(), won[1].Load(), err)
	}
	t.Logf("%d facts, of which %d are kept; %d and %d bases", newest.Seq, base.Facts, won[0].Load(), won[1].Load())
}
