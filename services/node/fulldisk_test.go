package node

import (
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/tachograph/tachograph/projections/columnar/engine/enginetest"
	"github.com/tachograph/tachograph/services/gateway"
	"github.com/tachograph/tachograph/services/replays"
)

// serveOnDisk starts the program with a data folder that is a file system of its
// own, of so many bytes, in a mount namespace of its own.
func serveOnDisk(t *testing.T, size int64, flags ...string) (p *program, disk string) {
	t.Helper()
	binary := tacho(t)
	data := t.TempDir()
	script := fmt.Sprintf(`mount -t tmpfs -o size=%d tmpfs "$0" && exec "$@"`, size)
	p = &program{t: t, dir: data, exited: make(chan error, 1)}
	p.cmd = exec.Command("unshare", append([]string{"-rm", "sh", "-c", script, data, binary, "serve", "--data", data, "--ports", "auto"}, flags...)...)
	p.cmd.Stderr = &p.stderr
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() {
		p.exited <- p.cmd.Wait()
		close(ended)
	}()
	t.Cleanup(func() {
		_ = p.cmd.Process.Kill()
		<-ended
		if t.Failed() {
			t.Log(p.stderr.String())
		}
	})
	disk = fmt.Sprintf("/proc/%d/root%s", p.cmd.Process.Pid, data)
	for deadline := time.Now().Add(3 * time.Minute); ; time.Sleep(20 * time.Millisecond) {
		if b, err := os.ReadFile(filepath.Join(disk, addressesFile)); err == nil && json.Unmarshal(b, &p.Addresses) == nil {
			break
		}
		select {
		case err := <-p.exited:
			t.Fatalf("%v: %s", err, p.stderr.String())
		default:
		}
		if time.Now().After(deadline) {
			t.Fatal("no addresses")
		}
	}
	for _, file := range []*string{&p.AdminTokenFile, &p.ClickHousePasswordFile} {
		*file = filepath.Join(disk, filepath.Base(*file))
	}
	return p, disk
}

// A driver is a car that sends to a program on a small disk, each sample another.
type driver struct {
	*program
	disk, token, admin string
	sent               int
}

// driveOnDisk starts a program on a disk of 500 MiB, of which the log leaves so many
// bytes free, and has a car send what a replay takes a while to read.
func driveOnDisk(t *testing.T, reserve int) *driver {
	t.Helper()
	p, disk := serveOnDisk(t, 500<<20, "--log-reserve", strconv.Itoa(reserve))
	within(t, time.Minute, "ready", func() bool { return p.status("/readyz") == 200 })
	var registered struct{ Token string }
	if err := json.Unmarshal([]byte(p.request("POST", "/v1/devices", `{"id":"car-1"}`)), &registered); err != nil {
		t.Fatal(err)
	}
	admin, err := os.ReadFile(p.AdminTokenFile)
	if err != nil {
		t.Fatal(err)
	}
	d := &driver{program: p, disk: disk, token: registered.Token, admin: strings.TrimSpace(string(admin))}
	d.send(2000)
	p.await("SELECT count() FROM tacho.position", fmt.Sprint(d.sent))
	return d
}

// send has the car send n more.
func (d *driver) send(n int) {
	d.t.Helper()
	var body []string
	for range n {
		d.sent++
		body = append(body, fmt.Sprintf(`{"time":%d,"speed":%d}`, 1_700_000_000_000+d.sent*1000, d.sent%90))
	}
	d.lines(d.token, "car-1", "position", body)
}

// replay is how a replay stands.
func (d *driver) replay(name string) (s replays.Status) {
	d.t.Helper()
	if err := json.Unmarshal([]byte(d.request("GET", "/v1/replays/"+name, "")), &s); err != nil {
		d.t.Fatal(err)
	}
	return s
}

func (p *program) status(path string) int {
	resp, err := http.Get("http://" + p.HTTP + path)
	if err != nil {
		return 0
	}
	resp.Body.Close()
	return resp.StatusCode
}

// fill makes the file as large as its disk lets it be.
func fill(t *testing.T, path string) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := enginetest.FillDisk(f); err != nil {
		t.Fatal(err)
	}
}

// starve keeps a disk full until it stays so for longer than it takes the node to
// look: what ends on it, ClickHouse for one, may leave room behind.
func starve(t *testing.T, ballast string) {
	t.Helper()
	full := 0
	within(t, time.Minute, "full for good", func() bool {
		fill(t, ballast)
		time.Sleep(diskLook + 100*time.Millisecond)
		var now syscall.Statfs_t
		if err := syscall.Statfs(filepath.Dir(ballast), &now); err != nil {
			t.Fatal(err)
		}
		if full++; now.Bavail*uint64(now.Bsize) > 1<<20 {
			full = 0
		}
		return full == 3
	})
}

// TestFullDisk fills a real disk to the last byte while a car sends. Everybody is
// told; when there is room again all go on, and what was acknowledged is there.
func TestFullDisk(t *testing.T) {
	const mib = 1 << 20
	p, disk := serveOnDisk(t, 400*mib, "--log-reserve", strconv.Itoa(64*mib))
	v := &victim{Node: &Node{addrs: p.Addresses}, t: t}
	v.eventually("ready", func() bool { return p.status("/readyz") == 200 })
	tokens := map[string]string{}
	for _, id := range []string{"car-1", "car-2"} {
		var d struct{ Token string }
		if err := json.Unmarshal([]byte(p.request("POST", "/v1/devices", `{"id":"`+id+`"}`)), &d); err != nil {
			t.Fatal(err)
		}
		tokens[id] = d.Token
	}
	v.token = tokens["car-1"]
	b, err := os.ReadFile(p.AdminTokenFile)
	if err != nil {
		t.Fatal(err)
	}
	v.admin = strings.TrimSpace(string(b))
	if v.nc, err = nats.Connect(p.NATS, nats.UserInfo("car-1", v.token), nats.CustomInboxPrefix(gateway.NATSInbox("car-1"))); err != nil {
		t.Fatal(err)
	}
	defer v.nc.Close()
	acked := 0
	post := func() bool {
		if v.http("POST", "/v1/devices/car-2/telemetry/position", tokens["car-2"], fmt.Sprintf(`{"altitude":%d}`, acked+1)) != "200" {
			return false
		}
		acked++
		return true
	}
	for range 20 {
		if !post() {
			t.Fatal("not taken in")
		}
	}
	p.await("SELECT count() FROM tacho.position WHERE device = 'car-2'", "20")
	ballast := filepath.Join(disk, "ballast")
	fill(t, ballast)
	hurried := impatient
	impatient = &http.Client{Timeout: time.Second} // of the first one nobody knows; it is answered by a restart at the latest
	for post() {
	}
	impatient = hurried
	v.eventually("not ready", func() bool { return p.status("/readyz") == 503 })
	starve(t, ballast)
	for what, told := range map[string][2]string{
		"MQTT":          {v.publish("telemetry/position", `{"altitude":-1}`), "PUBACK 0x97"},
		"HTTP":          {v.post(`{"altitude":-1}`), "503 log_full"},
		"NATS":          {v.request("ingest.car-1.position", `{"altitude":-1}`), "503 log_full"},
		"new device":    {v.http("POST", "/v1/devices", v.admin, `{"id":"car-3"}`), "503 log_full"},
		"new schema":    {v.http("POST", "/v1/schemas?name=tyre", v.admin, `syntax = "proto3"; message Tyre { double p = 1; }`), "503 log_full"},
		"what is there": {v.http("GET", "/v1/devices/car-2/state", v.admin, ""), "200"},
		"health":        {v.http("GET", "/healthz", "", ""), "200"},
	} {
		if told[0] != told[1] {
			t.Errorf("%s: told %q, want %q", what, told[0], told[1])
		}
	}
	for _, via := range []string{"mqtt", "http", "nats"} {
		if v.counted("tacho_gateway_refused_total", `via="`+via+`"`, `"log_full"`) < 1 {
			t.Errorf("%s: not counted", via)
		}
	}
	if err := os.Remove(ballast); err != nil {
		t.Fatal(err)
	}
	within(t, 2*time.Minute, "ready again", func() bool { return p.status("/readyz") == 200 })
	for range 20 {
		if !post() {
			t.Fatal("not taken in again")
		}
	}
	p.await("SELECT count() >= "+strconv.Itoa(acked)+", uniqExact(altitude), max(altitude) FROM tacho.position WHERE device = 'car-2'", fmt.Sprintf("1\t%d\t%d", acked, acked))
}
