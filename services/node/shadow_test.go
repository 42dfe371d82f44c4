package node

import (
	"bufio"
	"encoding/json"
	"net"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/tachograph/tachograph/services/gateway/gatewaytest"
	"github.com/tachograph/tachograph/services/shadows"
)

// TestShadowConformance goes with mosquitto's own clients and AWS's HTTP paths
// through a shadow's whole life on a running program: connect, get (404), report,
// desired by HTTP, delta, report, delta gone, conflict, delete, make anew; then a
// restart, and what services see of it all.
func TestShadowConformance(t *testing.T) {
	dir := t.TempDir()
	p := serve(t, dir)
	var device struct{ Token string }
	if err := json.Unmarshal([]byte(p.request("POST", "/v1/devices", `{"id":"car-1"}`)), &device); err != nil {
		t.Fatal(err)
	}
	client := func(name string, args ...string) *exec.Cmd {
		host, port, err := net.SplitHostPort(p.MQTT)
		if err != nil {
			t.Fatal(err)
		}
		return exec.Command(gatewaytest.Mosquitto(t, name), append([]string{"-h", host, "-p", port, "-u", "car-1", "-P", device.Token, "-q", "1"}, args...)...)
	}
	const base = "$aws/things/car-1/shadow/"
	lines := make(chan string, 100)
	listen := func() {
		sub := client("mosquitto_sub", "-F", "%t %p", "-t", base+"get/+", "-t", base+"update/+", "-t", base+"delete/+")
		out, err := sub.StdoutPipe()
		if err == nil {
			err = sub.Start()
		}
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = sub.Process.Kill(); _ = sub.Wait() })
		go func() {
			for s := bufio.NewScanner(out); s.Scan(); {
				lines <- strings.TrimPrefix(s.Text(), base)
			}
		}()
	}
	hear := func(topic string, parts ...string) {
		t.Helper()
		select {
		case line := <-lines:
			heard, body, _ := strings.Cut(line, " ")
			for _, part := range parts {
				if !strings.Contains(body, part) {
					t.Errorf("%s: no %s", line, part)
				}
			}
			if heard != topic {
				t.Fatalf("heard %s, want %s", line, topic)
			}
		case <-time.After(30 * time.Second):
			t.Fatalf("never heard %s", topic)
		}
	}
	say := func(verb, body string) {
		t.Helper()
		if out, err := client("mosquitto_pub", "-t", base+verb, "-m", body).CombinedOutput(); err != nil {
			t.Fatal(err, string(out))
		}
	}
	listen()
	// There is no other way to know that mosquitto_sub has subscribed than to hear something.
	heard := false
	for deadline := time.Now().Add(3 * time.Minute); !heard && time.Now().Before(deadline); {
		say("get", "")
		select {
		case line := <-lines:
			heard = strings.HasPrefix(line, `get/rejected {"code":404,`)
		case <-time.After(200 * time.Millisecond):
		}
	}
	if !heard {
		t.Fatal("get was never rejected with 404")
	}
	for drained := false; !drained; { // further answers to the gets above
		select {
		case <-lines:
		case <-time.After(300 * time.Millisecond):
			drained = true
		}
	}
	say("update", `{"state":{"reported":{"locked":true}}}`)
	hear("update/accepted", `"reported":{"locked":true}`, `"version":1`)
	hear("update/documents", `"previous":`, `"current":`)
	p.request("POST", "/things/car-1/shadow", `{"state":{"desired":{"locked":false}},"clientToken":"app"}`)
	hear("update/accepted", `"clientToken":"app"`)
	hear("update/delta", `"state":{"locked":false}`, `"version":2`)
	hear("update/documents")
	say("update", `{"state":{"reported":{"locked":false}},"version":2}`)
	hear("update/accepted", `"version":3`)
	hear("update/documents") // no delta between them
	say("update", `{"state":{"reported":{"locked":true}},"version":2}`)
	hear("update/rejected", `{"code":409,"message":"Version conflict"`)
	if doc := p.request("GET", "/things/car-1/shadow", ""); !strings.Contains(doc, `"state":{"desired":{"locked":false},"reported":{"locked":false}}`) {
		t.Error(doc)
	}
	say("delete", "")
	hear("delete/accepted", `{"version":3,`)
	say("update", `{"state":{"desired":{"locked":true}}}`)
	hear("update/accepted", `"version":4`)
	hear("update/delta", `"locked":true`)
	hear("update/documents")

	// What a service sees with nothing but a NATS client.
	watch := func() string {
		password, err := os.ReadFile(p.NATSPasswordFile)
		if err != nil {
			t.Fatal(err)
		}
		nc, err := nats.Connect(p.NATS, nats.UserInfo(p.NATSUser, strings.TrimSpace(string(password))))
		if err != nil {
			t.Fatal(err)
		}
		defer nc.Close()
		js, err := jetstream.NewWithAPIPrefix(nc, ViewPrefix)
		if err != nil {
			t.Fatal(err)
		}
		kv, err := js.KeyValue(t.Context(), shadows.Bucket)
		if err != nil {
			t.Fatal(err)
		}
		e, err := kv.Get(t.Context(), shadows.Key("car-1", ""))
		if err != nil {
			return err.Error()
		}
		return string(e.Value())
	}
	gatewaytest.Eventually(t, "the view has version 4", func() bool { return strings.Contains(watch(), `"version":4`) })

	if err := p.cmd.Process.Kill(); err != nil { // -9
		t.Fatal(err)
	}
	<-p.exited
	p = serve(t, dir)
	listen()
	hear("update/delta", `"state":{"locked":true}`, `"version":4`) // at once, and by itself
	if now, want := watch(), `"version":4`; !strings.Contains(now, want) {
		t.Errorf("view %s, want %s", now, want)
	}
	p.await("SELECT count() FROM tacho.events WHERE kind = 'shadow' AND device = 'car-1'", "5")
	p.await("SELECT groupArray((version, change, by, section, path, value)) FROM (SELECT * FROM tacho.shadow_changes WHERE device = 'car-1' ORDER BY _seq, _row) FORMAT TSVRaw",
		`[(1,'updated','device','reported','/locked','true'),(2,'updated','admin','desired','/locked','false'),(3,'updated','device','reported','/locked','false'),`+
			`(3,'deleted','device','','',NULL),(4,'updated','device','desired','/locked','true')]`)
}
