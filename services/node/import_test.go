package node

import (
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"
)

// tacho runs the real program to its end.
func (p *program) tacho(args ...string) (out string, err error) {
	p.t.Helper()
	binary := tacho(p.t)
	b, err := exec.CommandContext(p.t.Context(), binary, args...).CombinedOutput()
	return string(b), err
}

func (p *program) must(args ...string) string {
	p.t.Helper()
	out, err := p.tacho(args...)
	if err != nil {
		p.t.Fatal(args, err, out)
	}
	return out
}

// end stops the program in order.
func (p *program) end() {
	p.t.Helper()
	if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		p.t.Fatal(err)
	}
	select {
	case err := <-p.exited:
		if err != nil {
			p.t.Fatal(err, p.stderr.String())
		}
	case <-time.After(time.Minute):
		p.t.Fatal("the node does not stop")
	}
}

// lines sends messages as NDJSON; some cannot be read, which is told of each.
func (p *program) lines(token, device, message string, body []string) {
	p.t.Helper()
	req, err := http.NewRequest(http.MethodPost, "http://"+p.HTTP+"/v1/devices/"+device+"/telemetry/"+message, strings.NewReader(strings.Join(body, "\n")))
	if err != nil {
		p.t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+token)
	req.Header.Set("Content-Type", "application/x-ndjson")
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		p.t.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode/100 != 2 && resp.StatusCode != http.StatusUnprocessableEntity {
		p.t.Fatal(resp.Status)
	}
}

// folded is everything that is made of the log: tables row by row, and views.
func (p *program) folded() map[string]string {
	p.t.Helper()
	all := map[string]string{}
	for _, table := range strings.Fields(p.sql("SELECT name FROM system.tables WHERE database = 'tacho' AND engine LIKE '%MergeTree%' AND name NOT LIKE '\\_%' AND name != 'checkpoints'")) {
		columns := p.sql("SELECT arrayStringConcat(groupArray('`' || name || '`'), ',') FROM system.columns WHERE database = 'tacho' AND table = '" + table + "' AND name != '_stored'")
		all["table "+table] = p.sql("SELECT count(), sum(cityHash64(" + columns + ")) FROM tacho." + table)
	}
	for _, device := range []string{"car-1", "car-2"} {
		all["state "+device] = p.request("GET", "/v1/devices/"+device+"/state", "")
		all["shadow "+device] = p.request("GET", "/v1/devices/"+device+"/shadow/history", "")
		all["commands "+device] = p.request("GET", "/v1/devices/"+device+"/commands", "")
	}
	all["schemas"] = p.request("GET", "/v1/schemas", "")
	all["letters"] = p.request("GET", "/v1/dead-letters", "")
	for what, text := range all { // tables keep microseconds
		all[what] = nanoseconds.ReplaceAllStringFunc(text, func(at string) string { // and a time ends in no zero
			return strings.TrimRight(strings.TrimRight(nanoseconds.ReplaceAllString(at, "$1"), "0"), ".") + "Z"
		})
	}
	return all
}

var nanoseconds = regexp.MustCompile(`(T[0-9:]{8}\.[0-9]{6})[0-9]{1,3}Z`)

// TestArchive: what is exported and imported into another log is folded to the
// same tables and views, though the import is killed with -9 again and again; a
// torn file, a log that holds something and half an import are refused; what was
// forgotten after the export does not come back.
func TestArchive(t *testing.T) {
	t.Parallel()
	p := serve(t, t.TempDir())
	tokens := map[string]string{}
	for _, device := range []string{"car-1", "car-2"} {
		var added struct{ Token string }
		if err := json.Unmarshal([]byte(p.request("POST", "/v1/devices", fmt.Sprintf(`{"id":%q}`, device))), &added); err != nil {
			t.Fatal(err)
		}
		tokens[device] = added.Token
	}
	const secret = "SECRET-OF-THE-RENTER"
	const hour, each = 1_700_000_000_000, 10_000
	for _, device := range []string{"car-1", "car-2"} {
		var body []string
		for i := range each {
			line := fmt.Sprintf(`{"time":%d,"speed":%d}`, hour+i*1000, i%90)
			switch {
			case i%1000 == 7: // late
				line = fmt.Sprintf(`{"time":%d,"speed":%d,"note":%q}`, hour-i, i, secret+device)
			case i%1000 == 9: // sent again
				line = body[i-3]
			case i%1000 == 11: // cannot be read
				line = `{"speed":"` + secret + device + `"}`
			}
			body = append(body, line)
		}
		p.lines(tokens[device], device, "position", body)
	}
	p.telemetry(tokens["car-1"], "car-1", "blob", "\xff\xfe\x00\x01")
	for _, device := range []string{"car-1", "car-2"} {
		p.request("POST", "/v1/devices/"+device+"/shadow", `{"state":{"desired":{"locked":true}}}`)
	}
	p.request("POST", "/v1/devices/car-2/commands", `{"name":"unlock","deadline":"1h"}`)
	p.await("SELECT count() FROM tacho.events WHERE kind = 'telemetry'", fmt.Sprint(2*each+1))
	p.await("SELECT count() FROM tacho.dead_letters", fmt.Sprint(2*each/1000))
	p.await("SELECT count() > 0 FROM tacho.command_steps", "1")
	whole, filtered, ledger := filepath.Join(t.TempDir(), "whole"), filepath.Join(t.TempDir(), "some"), filepath.Join(t.TempDir(), "ledger")
	p.must("export", whole, "--rows", "3000", "--data", p.dir)
	files, err := filepath.Glob(filepath.Join(whole, "events-1-0-*.parquet"))
	if err != nil || len(files) < 5 {
		t.Fatal("the events of partition 0 are in ", files, err)
	}
	victim := filepath.Base(files[2])
	p.must("export", filtered, "--device", "car-1", "--data", p.dir)
	if out, err := p.tacho("export", whole, "--data", p.dir); err == nil || !strings.Contains(out, "not empty") {
		t.Fatal("exported into a folder that holds something: ", out)
	}
	want := p.folded()
	p.must("forget", "car-1", "--no-wait", "--data", p.dir)
	p.await("SELECT count() > 0 FROM tacho.events WHERE kind = 'forgotten'", "1")
	p.must("export", ledger, "--kind", "forgotten", "--data", p.dir)

	// What cannot be imported is refused before anything is stored.
	into := t.TempDir()
	for name, harm := range map[string]func(file string) error{
		"torn":    func(file string) error { return os.Truncate(file, 1000) },
		"missing": os.Remove,
		"changed": func(file string) error {
			b, err := os.ReadFile(file)
			if err != nil {
				return err
			}
			b[len(b)/2] ^= 1
			return os.WriteFile(file, b, 0o600)
		},
	} {
		broken := filepath.Join(t.TempDir(), name)
		if err := os.CopyFS(broken, os.DirFS(whole)); err != nil {
			t.Fatal(err)
		}
		if err := harm(filepath.Join(broken, victim)); err != nil {
			t.Fatal(err)
		}
		if out, err := p.tacho("import", broken, "--data", into); err == nil || !strings.Contains(out, victim) || !strings.Contains(out, "remedy") {
			t.Fatalf("%s: %s", name, out)
		}
	}
	if out, err := p.tacho("import", filtered, "--data", into); err == nil || !strings.Contains(out, "only some") {
		t.Fatal(out)
	}
	if out, err := p.tacho("import", filepath.Dir(whole), "--data", into); err == nil || !strings.Contains(out, "manifest.json") {
		t.Fatal(out)
	}

	// Killed at twenty moments, then let be.
	binary := tacho(t)
	halfFull := false
	for i := range 20 {
		cmd := exec.Command(binary, "import", whole, "--data", into)
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Duration(20+i*10) * time.Millisecond) // at another step each time
		_ = cmd.Process.Kill()
		if cmd.Wait() == nil {
			break // it was faster
		}
		if out, err := exec.Command(binary, "import", ledger, "--data", into).CombinedOutput(); err == nil {
			t.Fatal(string(out))
		}
		halfFull = true
	}
	if !halfFull {
		t.Error("no import was interrupted")
	}
	if out, err := p.tacho("import", whole, "--data", into); err != nil && !strings.Contains(out, "not empty") {
		t.Fatal(out, err)
	}
	if out, err := p.tacho("import", whole, "--data", into); err == nil || !strings.Contains(out, "not empty") {
		t.Fatal("imported twice: ", out)
	}
	obeying := t.TempDir()
	out := p.must("import", whole, "--data", obeying, "--obey", ledger)
	if !strings.Contains(out, fmt.Sprintf("%d left out", each+1)) {
		t.Error(out)
	}
	p.end()

	q := serve(t, into)
	for _, table := range []string{"events", "position", "dead_letters", "presence"} {
		q.await("SELECT count() FROM tacho."+table, strings.Fields(want["table "+table])[0])
	}
	q.await("SELECT count() FROM tacho.checkpoints FINAL WHERE table = 'events' AND seq > 0", "2")
	got := q.folded()
	for what := range want {
		if got[what] != want[what] {
			t.Errorf("%s differs:\ngot  %.400s\nwant %.400s", what, got[what], want[what])
		}
	}
	q.must("verify", "--data", into)
	q.end()
	for _, file := range filesWith(t, filepath.Join(obeying, "nats"), secret+"car-1") {
		t.Errorf("%s holds what was forgotten", file)
	}
	if len(filesWith(t, filepath.Join(obeying, "nats"), secret+"car-2")) == 0 {
		t.Error("what was not forgotten is not there")
	}
}
