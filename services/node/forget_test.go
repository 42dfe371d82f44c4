package node

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	mqtt "github.com/eclipse/paho.mqtt.golang"
)

// filesWith lists the files below dir that hold a text.
func filesWith(t *testing.T, dir, text string) (files []string) {
	t.Helper()
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if os.IsNotExist(err) || err == nil && !d.Type().IsRegular() {
			return nil // gone while we look
		}
		if err != nil {
			return err
		}
		b, err := os.ReadFile(path)
		if bytes.Contains(b, []byte(text)) {
			files = append(files, strings.TrimPrefix(path, dir))
		}
		if os.IsNotExist(err) {
			return nil
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return files
}

// owner runs a statement as the user that owns the tables.
func (p *program) owner(sql string) {
	p.t.Helper()
	password, err := os.ReadFile(filepath.Join(p.dir, "clickhouse.writer.password"))
	if err != nil {
		p.t.Fatal(err)
	}
	req, err := http.NewRequest(http.MethodPost, "http://"+p.ClickHouseHTTP, strings.NewReader(sql))
	if err != nil {
		p.t.Fatal(err)
	}
	req.Close = true
	req.Header.Set("X-ClickHouse-User", "tacho")
	req.Header.Set("X-ClickHouse-Key", strings.TrimSpace(string(password)))
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		p.t.Fatal(err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		p.t.Fatal(sql, resp.Status)
	}
}

// telemetry sends one message and returns once it is stored; what cannot be read
// is refused, and kept.
func (p *program) telemetry(token, device, message, body string) {
	p.t.Helper()
	req, err := http.NewRequest(http.MethodPost, "http://"+p.HTTP+"/v1/devices/"+device+"/telemetry/"+message, strings.NewReader(body))
	if err != nil {
		p.t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+token)
	req.Header.Set("Content-Type", "application/json")
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		p.t.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode != http.StatusOK && resp.StatusCode != http.StatusUnprocessableEntity {
		p.t.Fatal(resp.Status)
	}
}

// TestForget: of the hour in which somebody else had the car nothing is left in
// any file, though the node is killed with -9 again and again meanwhile; the rest
// is as it was, and a replay agrees.
func TestForget(t *testing.T) {
	t.Parallel()
	const secret, kept = "SECRET-OF-THE-RENTER", "KEPT-OF-THE-OTHERS"
	dir := t.TempDir()
	p := serve(t, dir)
	tokens := map[string]string{}
	for _, device := range []string{"car-1", "car-2"} {
		var added struct{ Token string }
		if err := json.Unmarshal([]byte(p.request("POST", "/v1/devices", fmt.Sprintf(`{"id":%q}`, device))), &added); err != nil {
			t.Fatal(err)
		}
		tokens[device] = added.Token
	}
	p.await("SELECT count() FROM tacho.position", "0") // it is made in time
	// Compressed, the texts could not be found.
	for table, columns := range map[string][]string{"events": {"payload"}, "dead_letters": {"payload", "detail"}, "position": {"_unknown"}, "presence": {"client"}} {
		for _, column := range columns {
			p.owner(fmt.Sprintf("ALTER TABLE tacho.%s MODIFY COLUMN %s CODEC(NONE)", table, column))
		}
	}
	sent := map[string]int{}
	send := func(device, message, body string) {
		p.telemetry(tokens[device], device, message, body)
		sent[device]++
	}
	const hour = 1_700_000_000_000
	drive := func(n int, note string, measured int) {
		for i := range n {
			send("car-1", "position", fmt.Sprintf(`{"time":%d,"speed":%d,"note":%q}`, hour+measured+i*1000, i, note))
			send("car-2", "position", fmt.Sprintf(`{"time":%d,"speed":%d,"note":%q}`, hour+measured+i*1000, i, kept))
			if i%5 == 0 {
				time.Sleep(60 * time.Millisecond) // so that there are states of several moments
			}
		}
	}
	drive(20, "", 0)
	before := sent["car-1"]
	from := time.Now().UTC()
	time.Sleep(5 * time.Millisecond)
	drive(40, secret, 500)
	client := mqtt.NewClient(mqtt.NewClientOptions().AddBroker("tcp://" + p.MQTT).SetClientID(secret).SetUsername("car-1").SetPassword(tokens["car-1"]))
	if tok := client.Connect(); !tok.WaitTimeout(2*time.Minute) || tok.Error() != nil {
		t.Fatal("connect: ", tok.Error())
	}
	client.Disconnect(100)
	p.await("SELECT groupArray(change) FROM (SELECT change FROM tacho.presence WHERE client = '"+secret+"' ORDER BY _seq)", "['connected','disconnected']")
	send("car-1", "position", fmt.Sprintf(`{"time":%d,"speed":%q}`, hour, secret)) // cannot be read
	send("car-1", "mystery", fmt.Sprintf(`{"time":%d,"who":%q}`, hour, secret))
	time.Sleep(5 * time.Millisecond)
	to := time.Now().UTC()
	time.Sleep(5 * time.Millisecond)
	drive(10, "", 250)
	again := fmt.Sprintf(`{"time":%d,"speed":%d,"note":%q}`, hour+500, 0, secret)
	send("car-1", "position", again) // the same, after all
	after := 10
	p.await("SELECT countIf(device = 'car-1'), countIf(device = 'car-2') FROM tacho.events WHERE kind = 'telemetry'", fmt.Sprintf("%d\t%d", sent["car-1"], sent["car-2"]))
	p.await("SELECT sum(count) FROM tacho.position_1h WHERE signal = 'speed'", fmt.Sprint(sent["car-1"]-3+sent["car-2"]))
	for deadline := time.Now().Add(3 * time.Minute); !strings.Contains(p.request("GET", "/v1/devices/car-1/state", ""), secret); time.Sleep(50 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("the state does not show the secret")
		}
	}
	for _, part := range []string{"/nats/jetstream/TACHO/streams/TELEMETRY_0", "/nats/jetstream/TACHO/streams/DEAD_LETTERS", "/nats/jetstream/TACHO/streams/CONTROL", "/nats/jetstream/SERVICES/streams/KV_latest", "/clickhouse"} {
		if len(filesWith(t, dir+part, secret)) == 0 {
			t.Fatalf("the secret is not in %s: this test shows nothing", part)
		}
	}

	type status struct {
		ID, State, Doing string
		Counts           map[string]uint64
	}
	var asked status
	ask := fmt.Sprintf(`{"device":"car-1","from":%q,"to":%q}`, from.Format(time.RFC3339Nano), to.Format(time.RFC3339Nano))
	if err := json.Unmarshal([]byte(p.request("POST", "/v1/forget", ask)), &asked); err != nil {
		t.Fatal(err)
	}
	now := func() (s status) {
		t.Helper()
		if err := json.Unmarshal([]byte(p.request("GET", "/v1/forget/"+asked.ID, "")), &s); err != nil {
			t.Fatal(err)
		}
		return s
	}
	await := func(what string, reached func(status) bool) status {
		t.Helper()
		for deadline := time.Now().Add(3 * time.Minute); ; time.Sleep(5 * time.Millisecond) {
			s := now()
			if reached(s) || s.State == "done" {
				return s
			}
			if time.Now().After(deadline) {
				t.Fatalf("%s: %+v", what, s)
			}
		}
	}
	for _, at := range []string{"overwriting events of partition 0", "buckets", "old parts"} { // -9 in the log, in the tables, before the end
		await(at, func(s status) bool { return strings.Contains(s.Doing, at) })
		if err := p.cmd.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		<-p.exited
		p = serve(t, dir)
	}
	done := await("done", func(s status) bool { return s.State == "done" })
	if n := uint64(40 + 2 + 1); done.Counts["log"] != n || done.Counts["table events"] != n+2 || done.Counts["table position"] != 40 || done.Counts["log dead letters"] != 1 ||
		done.Counts["log presence"] != 2 || done.Counts["table presence"] != 2 {
		t.Errorf("%+v", done)
	}
	if files := filesWith(t, dir, secret); len(files) > 0 {
		t.Errorf("the secret is in %v", files)
	}
	if len(filesWith(t, dir+"/nats", kept)) == 0 || len(filesWith(t, dir+"/clickhouse", kept)) == 0 {
		t.Error("the others' data are gone")
	}
	p.await("SELECT countIf(device = 'car-1'), countIf(device = 'car-2') FROM tacho.events WHERE kind = 'telemetry'", fmt.Sprintf("%d\t%d", before+after, sent["car-2"]))
	p.await("SELECT countIf(device = 'car-1'), countIf(device = 'car-2') FROM tacho.position", fmt.Sprintf("%d\t%d", before+after, sent["car-2"]))
	p.await("SELECT sum(count) FROM tacho.position_1h WHERE signal = 'speed'", fmt.Sprint(before+after+sent["car-2"]))
	if lines := strings.Count(p.request("GET", "/v1/events?device=car-1", ""), "\n"); lines != before+after {
		t.Errorf("the log has %d events of car-1, want %d", lines, before+after)
	}
	var state struct {
		Events   int
		Messages map[string]map[string]struct{ Time string }
	}
	if err := json.Unmarshal([]byte(p.request("GET", "/v1/devices/car-1/state", "")), &state); err != nil {
		t.Fatal(err)
	}
	if want := time.UnixMilli(hour + 19_000).UTC().Format(time.RFC3339); state.Events != before+after || state.Messages["position"]["speed"].Time != want || len(state.Messages) != 1 {
		t.Errorf("state %+v, want the speed of %s", state, want)
	}
	if lines := strings.Split(strings.TrimSpace(p.request("GET", "/v1/events?device=car-1&kind=presence", "")), "\n"); !strings.Contains(lines[0], `"offline"`) {
		t.Errorf("presence: %s", lines)
	}
	if facts := p.request("GET", "/v1/events?kind=forgotten", ""); strings.Count(facts, "\n") != 3 {
		t.Errorf("the ledger: %s", facts)
	}

	// The car is heard on, and a replay of what is left makes the same tables.
	p.telemetry(tokens["car-1"], "car-1", "position", fmt.Sprintf(`{"time":%d,"speed":99}`, hour+99_000))
	p.await("SELECT max(speed) FROM tacho.position WHERE device = 'car-1'", "99")
	if found := p.request("POST", "/v1/verify", ""); !strings.Contains(found, `"total":0,`) || strings.Contains(found, `"absent":0,`) {
		t.Errorf("the log and the tables do not agree: %s", found)
	}
	p.request("POST", "/v1/replays/columnar?dry_run=true", "")
	for deadline := time.Now().Add(3 * time.Minute); ; time.Sleep(50 * time.Millisecond) {
		var replay struct {
			State  string
			Tables []struct {
				Table    string
				Old, New uint64
				OnlyOld  uint64 `json:"only_old"`
				OnlyNew  uint64 `json:"only_new"`
				Changed  uint64
			}
		}
		if err := json.Unmarshal([]byte(p.request("GET", "/v1/replays/columnar", "")), &replay); err != nil {
			t.Fatal(err)
		}
		if replay.State == "done" {
			for _, table := range replay.Tables {
				if table.OnlyOld+table.OnlyNew+table.Changed > 0 || table.Old != table.New {
					t.Errorf("a replay differs: %+v", table)
				}
			}
			break
		}
		if replay.State != "running" || time.Now().After(deadline) {
			t.Fatalf("%+v", replay)
		}
	}
}
