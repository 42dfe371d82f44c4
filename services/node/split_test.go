package node

import (
	"bufio"
	"encoding/json"
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/tachograph/tachograph/events"
)

// A sentBy is all that a device sent, in its order, and what is to come of it by
// slow code of our own.
type sentBy struct {
	token string
	all   []sentMessage
	alive int // events: with replays of dead letters
}

type sentMessage struct {
	typ, body string
	bad       bool
}

// fresh tells of a message whether none of the 128 before it is the same.
func (s *sentBy) fresh(i int) bool {
	for j := max(0, i-128); j < i; j++ {
		if s.all[j].typ == s.all[i].typ && s.all[j].body == s.all[i].body {
			return false
		}
	}
	return true
}

// A fleet is devices of which some stay in their partition and some leave it.
type splitFleet struct {
	*program
	devices map[string]*sentBy
}

func (f *splitFleet) send(device, typ string, bad bool, body ...string) {
	f.t.Helper()
	d := f.devices[device]
	for _, b := range body {
		d.all = append(d.all, sentMessage{typ, b, bad})
	}
	d.alive += len(body)
	f.lines(d.token, device, typ, body)
}

const (
	splitHour = 1_700_000_000_000
	splitCars = 8 // in all of four partitions, and in seven of eight
)

// drive has each device send n positions, some late, some again; round tells them apart.
func (f *splitFleet) drive(round, n int) {
	f.t.Helper()
	for device, d := range f.devices {
		var body []string
		for i := range n {
			line := fmt.Sprintf(`{"time":%d,"speed":%d}`, splitHour+(round*n+i)*1000, (round*7+i)%90)
			switch {
			case i%20 == 7: // late, into a bucket of long ago
				line = fmt.Sprintf(`{"time":%d,"speed":%d}`, splitHour-round*100-i, i)
			case i%20 == 9 && len(body) > 3: // sent again
				line = body[i-3]
			case i < 12 && round > 0: // what was sent last, before the node was stopped, comes again
				line = d.last("position", 12-i)
			}
			body = append(body, line)
		}
		f.send(device, "position", false, body...)
	}
}

// last returns what was sent so many messages of a type ago.
func (s *sentBy) last(typ string, ago int) string {
	for i := len(s.all) - 1; ; i-- {
		if s.all[i].typ == typ {
			if ago--; ago == 0 {
				return s.all[i].body
			}
		}
	}
}

// judge holds tables, states and history to what was sent.
func (f *splitFleet) judge() {
	f.t.Helper()
	total, rows := 0, 0
	for _, d := range f.devices {
		total += d.alive
	}
	f.await("SELECT count() FROM tacho.events WHERE kind = 'telemetry'", fmt.Sprint(total))
	for device, d := range f.devices {
		repeats, positions, tyres := 0, 0, 0
		newest, speed := int64(0), 0.0
		for i, m := range d.all {
			if !d.fresh(i) {
				repeats++
				continue
			}
			switch {
			case m.bad:
			case m.typ == "position":
				positions++
				var at struct {
					Time  int64
					Speed float64
				}
				if err := json.Unmarshal([]byte(m.body), &at); err != nil {
					f.t.Fatal(err)
				}
				if at.Time > newest {
					newest, speed = at.Time, at.Speed
				}
			default:
				tyres++
			}
		}
		rows += positions
		tyres += d.alive - len(d.all) // replays
		want := fmt.Sprintf("%d\t%d\t%d\t%d", d.alive, repeats, positions, tyres)
		f.await(fmt.Sprintf(`SELECT count(), countIf(repeat), (SELECT count() FROM tacho.position WHERE device = '%[1]s'), (SELECT count() FROM tacho.tyre WHERE device = '%[1]s')
			FROM tacho.events WHERE device = '%[1]s' AND kind = 'telemetry'`, device), want)
		var state struct {
			Events   int
			Messages map[string]map[string]struct{ Value float64 }
		}
		for deadline := time.Now().Add(time.Minute); ; time.Sleep(50 * time.Millisecond) {
			if err := json.Unmarshal([]byte(f.request("GET", "/v1/devices/"+device+"/state", "")), &state); err != nil {
				f.t.Fatal(err)
			}
			if state.Events == d.alive && state.Messages["position"]["speed"].Value == speed {
				break
			}
			if time.Now().After(deadline) {
				f.t.Fatalf("state of %s: %+v, want %d events and speed %v; %s", device, state, d.alive, speed, f.request("GET", "/v1/projections", ""))
			}
		}
		f.readOn(device, "", 0)
	}
	f.await("SELECT sum(count) FROM tacho.position_1h WHERE signal = 'speed'", fmt.Sprint(rows))
}

// readOn reads a device's events after a token and holds their order to what was
// sent, from there on; it returns the token of the one in the middle.
func (f *splitFleet) readOn(device, token string, from int) (middle string, at int) {
	f.t.Helper()
	q := url.Values{"device": {device}, "kind": {"telemetry"}}
	if token != "" {
		q.Set("from", token)
	}
	answer := f.request("GET", "/v1/events?"+q.Encode(), "")
	next := from
	d := f.devices[device]
	lines := bufio.NewScanner(strings.NewReader(answer))
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		var e struct {
			Token, Source string
			Data          json.RawMessage
		}
		if err := json.Unmarshal(lines.Bytes(), &e); err != nil {
			f.t.Fatal(err, lines.Text())
		}
		if strings.Count(e.Source, "/") > 3 { // the replay of a dead letter
			continue
		}
		if next >= len(d.all) || string(e.Data) != d.all[next].body {
			f.t.Fatalf("event %d of %s is %s", next, device, e.Data)
		}
		if next++; next == (from+len(d.all))/2 {
			middle, at = e.Token, next
		}
	}
	if next != len(d.all) {
		f.t.Fatalf("%s has %d events, want %d", device, next, len(d.all))
	}
	return middle, at
}

func (f *splitFleet) replayEqual(name string, dry bool) {
	f.t.Helper()
	args := []string{"replay", name, "--data", f.dir}
	if dry {
		args = append(args, "--dry-run")
	}
	if out, err := f.tacho(args...); err != nil {
		f.t.Errorf("%v: %v %s", args, err, out)
	}
	var s struct {
		State, Error string
		Tables       []struct {
			Table                               string
			OnlyOld, OnlyNew, Changed, Old, New uint64
		}
	}
	if err := json.Unmarshal([]byte(f.request("GET", "/v1/replays/"+name, "")), &s); err != nil {
		f.t.Fatal(err)
	}
	if s.State != "done" || len(s.Tables) == 0 {
		f.t.Errorf("%v: %+v", args, s)
	}
	for _, table := range s.Tables {
		if table.OnlyOld+table.OnlyNew+table.Changed > 0 || table.Old != table.New {
			f.t.Errorf("%v: %+v", args, table)
		}
	}
}

// TestSplit: the log of a node with one partition is split, killed with -9 in the
// midst of it, and split again later. Nothing that was there moves or changes;
// what comes again over the seams is known as such, late samples get into their
// buckets, dead letters come back once, tokens go on, looks at the past see what
// they saw, and all that is made anew is what it was.
func TestSplit(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	f := &splitFleet{program: serve(t, dir), devices: map[string]*sentBy{}}
	tyre := filepath.Join(t.TempDir(), "tyre.proto")
	schema := func(fields string) {
		t.Helper()
		text := `syntax = "proto3"; import "google/protobuf/timestamp.proto"; message Tyre { google.protobuf.Timestamp time = 1; ` + fields + ` }`
		if err := os.WriteFile(tyre, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		f.must("schema", "add", tyre, "--data", dir)
	}
	schema("int32 mileage = 2;")
	stays := 0
	for d := range splitCars {
		device := fmt.Sprint("car-", d)
		var added struct{ Token string }
		if err := json.Unmarshal([]byte(f.request("POST", "/v1/devices", fmt.Sprintf(`{"id":%q}`, device))), &added); err != nil {
			t.Fatal(err)
		}
		f.devices[device] = &sentBy{token: added.Token}
		if events.PartitionOf(events.Slot(device), 4) == 0 {
			stays++
		}
	}
	if stays == 0 || stays == splitCars {
		t.Fatalf("%d devices stay in their partition", stays)
	}
	f.drive(0, 100)
	for device := range f.devices {
		f.send(device, "tyre", false, `{"time":"2026-05-01T10:00:00Z","mileage":1}`)
		f.send(device, "tyre", true, `{"time":"2026-05-01T10:00:01Z","mileage":5000000001}`, `{"time":"2026-05-01T10:00:02Z","mileage":5000000002}`)
		f.request("POST", "/v1/devices/"+device+"/shadow", `{"state":{"desired":{"locked":true}}}`)
	}
	f.request("POST", "/v1/devices/car-2/commands", `{"name":"unlock","deadline":"1h"}`)
	f.judge()
	looks := map[string]string{} // looks at the past, and what they showed
	look := func() {
		t.Helper()
		time.Sleep(2 * time.Millisecond)
		at := url.QueryEscape(time.Now().UTC().Format(time.RFC3339Nano))
		for device := range f.devices {
			for _, path := range []string{"/state?at=" + at, "/shadow/history"} {
				looks["/v1/devices/"+device+path] = f.request("GET", "/v1/devices/"+device+path, "")
			}
		}
	}
	relook := func() {
		t.Helper()
		for path, want := range looks {
			if got := f.request("GET", path, ""); got != want {
				t.Errorf("%s\ngot  %.300s\nwant %.300s", path, got, want)
			}
		}
	}
	look()
	f.drive(1, 100)
	// Half of the letters come back before the split.
	schema("int64 mileage = 2;")
	f.await("SELECT count() FROM tacho.dead_letters", fmt.Sprint(2*splitCars))
	for d := range splitCars / 2 {
		device := fmt.Sprint("car-", d)
		f.must("dead-letters", "replay", "--device", device, "--limit", "1", "--data", dir)
		f.devices[device].alive++
	}
	f.judge()
	look()
	tokens, ats := map[string]string{}, map[string]int{}
	for device := range f.devices {
		tokens[device], ats[device] = f.readOn(device, "", 0)
	}
	before := f.folded()
	rows := f.rows()
	f.end()

	// Killed at many moments; then a start ends what was begun.
	binary := tacho(t)
	if out, err := exec.Command(binary, "split", "--partitions", "1", "--data", dir).CombinedOutput(); err != nil || !strings.Contains(string(out), "nothing was done") {
		t.Fatal(string(out), err)
	}
	begun := false
	for wait := 40 * time.Millisecond; !begun; wait += wait / 8 {
		cmd := exec.Command(binary, "split", "--partitions", "4", "--data", dir)
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		time.Sleep(wait) // at another step each time
		_ = cmd.Process.Kill()
		begun = cmd.Wait() == nil // it was faster
		out, err := exec.Command(binary, "split", "--partitions", "1", "--data", dir).CombinedOutput()
		switch text := string(out); {
		case err != nil && strings.Contains(text, "is being split into 4"): // the next start ends it
			begun = true
		case err != nil && strings.Contains(text, "can only become more"): // done, if killed before it said so
			begun = true
		case begun || err != nil || !strings.Contains(text, "nothing was done"):
			t.Fatalf("split into 1: %v %s", err, text)
		}
	}
	out, err := exec.Command(binary, "serve", "--ports", "auto", "--partitions", "1", "--data", dir).CombinedOutput()
	if err == nil || !strings.Contains(string(out), "--partitions 4") {
		t.Fatalf("started with one partition: %s", out)
	}
	f.program = serve(t, dir, "--partitions", "4")
	f.judge()
	if got := f.folded(); fmt.Sprint(got) != fmt.Sprint(before) {
		t.Errorf("after the split\ngot  %v\nwant %v", got, before)
	}
	if got := f.rows(); got != rows {
		t.Error("positions are not what they were")
	}
	relook()

	all := func(round int, anew bool) {
		t.Helper()
		f.drive(round, 100)
		f.judge()
		look()
		relook()
		for device, token := range tokens { // of before the split
			f.readOn(device, token, ats[device])
		}
		if out, err := f.tacho("verify", "--data", f.dir); err != nil {
			t.Errorf("verify: %s", out)
		}
		if anew {
			f.replayEqual("columnar", true)
			f.replayEqual("latest", true)
		}
	}
	all(2, true)
	if got := f.sql("SELECT count() > 1 FROM (SELECT DISTINCT _partition FROM tacho.events WHERE device = 'car-1' OR device = 'car-2' OR device = 'car-3')"); got != "1" {
		t.Error("all is in one partition")
	}
	// All letters come back, once. They bear the arrival of their messages: a look at
	// a moment after which nothing has come yet would see them.
	f.drive(7, 20)
	for range 2 {
		f.must("dead-letters", "replay", "--data", dir)
	}
	for d := range splitCars {
		device := fmt.Sprint("car-", d)
		f.devices[device].alive += 2
		if d < splitCars/2 {
			f.devices[device].alive--
		}
	}
	all(3, false)
	f.replayEqual("columnar", false)
	f.replayEqual("latest", false)
	all(4, false)
	f.end()

	if out, err = exec.Command(binary, "split", "--partitions", "8", "--data", dir).CombinedOutput(); err != nil || !strings.Contains(string(out), "4 telemetry partitions became 8") {
		t.Fatal(string(out), err)
	}
	f.program = serve(t, dir, "--partitions", "8")
	all(5, false)

	// What one of those that moved had sent goes, from both of its partitions.
	gone := ""
	for d := range splitCars { // folded looks at car-1 and car-2
		if device := fmt.Sprint("car-", d); d > 2 && events.PartitionOf(events.Slot(device), 4) > 0 {
			gone = device
		}
	}
	f.must("forget", gone, "--to", time.Now().UTC().Format(time.RFC3339Nano), "--data", dir)
	if got := f.sql(fmt.Sprintf("SELECT (SELECT count() FROM tacho.events WHERE device = '%[1]s' AND kind = 'telemetry'), (SELECT count() FROM tacho.position WHERE device = '%[1]s'), (SELECT count() FROM tacho.position_1m WHERE device = '%[1]s')", gone)); got != "0\t0\t0" {
		t.Errorf("of %s is left %s", gone, got)
	}
	if resp := f.request("GET", "/v1/events?device="+gone, ""); resp != "" {
		t.Errorf("of %s is left in the log: %.200s", gone, resp)
	}
	delete(f.devices, gone)
	for path := range looks {
		if strings.Contains(path, "/"+gone+"/") {
			delete(looks, path)
		}
	}
	delete(tokens, gone)
	all(6, true)

	// An archive becomes the same log, with its seams, though the import is killed.
	whole, into := filepath.Join(t.TempDir(), "whole"), t.TempDir()
	f.must("export", whole, "--data", dir)
	want := f.folded()
	rows = f.rows()
	layout := f.layout()
	f.end()
	for i := range 12 {
		cmd := exec.Command(binary, "import", whole, "--partitions", "8", "--data", into)
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Duration(60+i*25) * time.Millisecond) // at another step each time
		_ = cmd.Process.Kill()
		if cmd.Wait() == nil {
			break // it was faster
		}
	}
	if out, err := exec.Command(binary, "import", whole, "--partitions", "4", "--data", into).CombinedOutput(); err == nil || !strings.Contains(string(out), "--partitions 8") {
		t.Fatalf("imported into four partitions: %s", out)
	}
	if out, err := f.tacho("import", whole, "--partitions", "8", "--data", into); err != nil && !strings.Contains(out, "not empty") {
		t.Fatal(out, err)
	}
	f.program = serve(t, into, "--partitions", "8")
	f.judge()
	if got := f.layout(); got != layout || !strings.Contains(got, `"partitions":[1,4,8]`) {
		t.Errorf("layout %s, want %s", got, layout)
	}
	if got := f.rows(); got != rows {
		t.Error("positions are not what they were")
	}
	got := f.folded()
	for what := range want {
		if got[what] != want[what] {
			t.Errorf("%s differs:\ngot  %.400s\nwant %.400s", what, got[what], want[what])
		}
	}
	for device := range f.devices { // the hashes of tokens are in no archive
		var made struct{ Token string }
		if err := json.Unmarshal([]byte(f.request("POST", "/v1/devices/"+device+"/token", "")), &made); err != nil {
			t.Fatal(err)
		}
		f.devices[device].token = made.Token
	}
	clear(looks) // archives keep no nanoseconds
	all(8, false)
	f.end()
}

// rows is a sum over where in the log every event of telemetry is.
func (f *splitFleet) rows() string {
	return f.sql("SELECT count(), cityHash64(groupArray((_epoch, _partition, _seq, id))) FROM (SELECT * FROM tacho.events WHERE kind = 'telemetry' ORDER BY _epoch, _partition, _seq)")
}

func (f *splitFleet) layout() string {
	f.t.Helper()
	var log struct{ Layout json.RawMessage }
	if err := json.Unmarshal([]byte(f.request("GET", "/v1/log", "")), &log); err != nil {
		f.t.Fatal(err)
	}
	return string(log.Layout)
}
