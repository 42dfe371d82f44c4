package node

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	mqtt "github.com/eclipse/paho.mqtt.golang"

	"github.com/tachograph/tachograph/projections/columnar/engine"
	"github.com/tachograph/tachograph/projections/columnar/engine/enginetest"
)

// tachoBinary builds the real program once.
var tachoBinary = sync.OnceValues(func() (string, error) {
	dir, err := os.MkdirTemp("", "tacho-")
	if err != nil {
		return "", err
	}
	path := filepath.Join(dir, "tacho")
	if out, err := exec.Command("go", "build", "-o", path, "../cmd/tacho").CombinedOutput(); err != nil {
		return "", fmt.Errorf("%w: %s", err, out)
	}
	return path, nil
})

// tacho is the program, for what happens in processes of their own. The race
// detector, for which the short tests are there, would see none of it.
func tacho(t testing.TB) string {
	t.Helper()
	if testing.Short() {
		t.Skip("processes of their own, made without the race detector: make test runs this")
	}
	path, err := tachoBinary()
	if err != nil {
		t.Fatal(err)
	}
	return path
}

// A program is tacho serve as a process of its own.
type program struct {
	Addresses
	t      *testing.T
	dir    string
	cmd    *exec.Cmd
	stderr bytes.Buffer
	exited chan error
}

func launch(t *testing.T, dir string, env []string, flags ...string) *program {
	t.Helper()
	binary := tacho(t)
	p := &program{t: t, dir: dir, exited: make(chan error, 1)}
	p.cmd = exec.Command(binary, append([]string{"serve", "--data", dir}, flags...)...)
	p.cmd.Stderr = &p.stderr
	p.cmd.Env = append(os.Environ(), env...)
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() {
		err := p.cmd.Wait()
		p.exited <- err
		close(ended)
	}()
	t.Cleanup(func() {
		_ = p.cmd.Process.Kill()
		<-ended
	})
	return p
}

func serve(t *testing.T, dir string, flags ...string) *program {
	t.Helper()
	t.Cleanup(func() { // after the program's own
		if err := enginetest.EndOrphans(dir); err != nil {
			t.Error(err)
		}
	})
	p := launch(t, dir, nil, append([]string{"--ports", "auto"}, flags...)...)
	said := "nothing" // of what is missing
	for deadline := time.Now().Add(3 * time.Minute); ; time.Sleep(50 * time.Millisecond) {
		if b, err := os.ReadFile(filepath.Join(dir, addressesFile)); err == nil && json.Unmarshal(b, &p.Addresses) == nil && p.PID == p.cmd.Process.Pid {
			if resp, err := http.Get("http://" + p.HTTP + "/readyz"); err == nil {
				b, _ := io.ReadAll(resp.Body) // it may end meanwhile
				resp.Body.Close()
				if resp.StatusCode == http.StatusOK {
					return p
				}
				said = string(b)
			}
		}
		select {
		case err := <-p.exited:
			t.Fatalf("it ended before it was ready: %v", err)
		default:
		}
		if time.Now().After(deadline) {
			t.Fatalf("not ready in time; it says: %s", said)
		}
	}
}

// children lists the processes that the program has started.
func (p *program) children() []int {
	p.t.Helper()
	var pids []int
	tasks, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", p.cmd.Process.Pid))
	if err != nil {
		p.t.Fatal(err)
	}
	for _, file := range tasks {
		b, _ := os.ReadFile(file) // a thread may end
		for _, field := range strings.Fields(string(b)) {
			pid, err := strconv.Atoi(field)
			if err != nil {
				p.t.Fatal(err)
			}
			pids = append(pids, pid)
		}
	}
	return pids
}

func alive(pid int) bool { return !errors.Is(syscall.Kill(pid, 0), syscall.ESRCH) }

func (p *program) request(method, path, body string) string {
	p.t.Helper()
	token, err := os.ReadFile(p.AdminTokenFile)
	if err != nil {
		p.t.Fatal(err)
	}
	req, err := http.NewRequest(method, "http://"+p.HTTP+path, strings.NewReader(body))
	if err != nil {
		p.t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+strings.TrimSpace(string(token)))
	req.Header.Set("Content-Type", "application/json")
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		p.t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode/100 != 2 {
		p.t.Fatal(resp.Status, string(b), err)
	}
	return string(b)
}

// sql asks as the analyst; "" when there is no answer.
func (p *program) sql(query string) string {
	password, err := os.ReadFile(p.ClickHousePasswordFile)
	if err != nil {
		p.t.Fatal(err)
	}
	req, err := http.NewRequest(http.MethodPost, "http://"+p.ClickHouseHTTP, strings.NewReader(query))
	if err != nil {
		p.t.Fatal(err)
	}
	req.Close = true
	req.Header.Set("X-ClickHouse-User", p.ClickHouseUser)
	req.Header.Set("X-ClickHouse-Key", strings.TrimSpace(string(password)))
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return ""
	}
	defer resp.Body.Close()
	b, _ := io.ReadAll(resp.Body)
	return strings.TrimSpace(string(b))
}

func (p *program) await(query, want string) {
	p.t.Helper()
	got := ""
	for deadline, pause := time.Now().Add(3*time.Minute), 50*time.Millisecond; time.Now().Before(deadline); pause = longer(pause) {
		if got = p.sql(query); got == want {
			return
		}
	}
	p.t.Fatalf("%s\ngot  %s\nwant %s", query, got, want)
}

// A sender publishes numbered messages at QoS 1 without a pause until it is
// stopped or cut off, and counts what was acknowledged.
type sender struct {
	stop  chan struct{}
	ended chan struct{}
	acked atomic.Int64 // 1 to acked were
	sent  atomic.Int64
	err   error
}

func (p *program) send(token string, from int64) *sender {
	s := &sender{stop: make(chan struct{}), ended: make(chan struct{})}
	s.acked.Store(from)
	s.sent.Store(from)
	c := mqtt.NewClient(mqtt.NewClientOptions().AddBroker("tcp://" + p.MQTT).SetClientID("car-1").SetUsername("car-1").SetPassword(token).SetAutoReconnect(false))
	if tok := c.Connect(); !tok.WaitTimeout(2*time.Minute) || tok.Error() != nil {
		p.t.Fatal("connect: ", tok.Error())
	}
	go func() {
		defer close(s.ended)
		defer c.Disconnect(10)
		for {
			select {
			case <-s.stop:
				return
			default:
			}
			i := s.sent.Add(1)
			tok := c.Publish("telemetry/position", 1, false, fmt.Sprintf(`{"time":%d,"altitude":%d}`, 1700000000000+i, i))
			if !tok.WaitTimeout(20 * time.Second) {
				s.err = errors.New("no acknowledgement in 20 s")
				return
			}
			if s.err = tok.Error(); s.err != nil {
				return
			}
			s.acked.Store(i)
		}
	}()
	return s
}

func (s *sender) halt() {
	close(s.stop)
	<-s.ended
}

const countRows = "SELECT count(), uniqExact(altitude), max(altitude) FROM tacho.position"

// TestEngineKilledAndSlow: ClickHouse dies, and later hangs, while a car sends:
// every message is acknowledged all the same, and is a row once.
func TestEngineKilledAndSlow(t *testing.T) {
	p := serve(t, t.TempDir())
	var d struct{ Token string }
	if err := json.Unmarshal([]byte(p.request("POST", "/v1/devices", `{"id":"car-1"}`)), &d); err != nil {
		t.Fatal(err)
	}
	s := p.send(d.Token, 0)
	for range 3 {
		time.Sleep(700 * time.Millisecond)
		children := p.children()
		if len(children) != 1 {
			t.Fatalf("children %v", children)
		}
		if err := syscall.Kill(children[0], syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		for deadline := time.Now().Add(3 * time.Minute); p.sql("SELECT 1") != "1"; time.Sleep(50 * time.Millisecond) {
			if time.Now().After(deadline) {
				t.Fatal("ClickHouse is not back")
			}
		}
	}
	hung := p.children()[0]
	if err := syscall.Kill(hung, syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	before := s.acked.Load()
	time.Sleep(2 * time.Second)
	after := s.acked.Load()
	if err := syscall.Kill(hung, syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	if after == before {
		t.Fatal("nothing was acknowledged while ClickHouse hung")
	}
	s.halt()
	n := s.acked.Load()
	if s.err != nil || n != s.sent.Load() {
		t.Fatalf("%d of %d acknowledged: %v", n, s.sent.Load(), s.err)
	}
	p.await(countRows, fmt.Sprintf("%d\t%d\t%d", n, n, n))
	t.Log(n, " messages")
}

// TestKilled: kill -9 of the program in the middle of it all leaves no child
// behind; the next start goes on: nothing acknowledged is lost, nothing doubled.
// An interrupt then stops it in order.
func TestKilled(t *testing.T) {
	dir := t.TempDir()
	p := serve(t, dir)
	var d struct{ Token string }
	if err := json.Unmarshal([]byte(p.request("POST", "/v1/devices", `{"id":"car-1"}`)), &d); err != nil {
		t.Fatal(err)
	}
	last, unknown := int64(0), "0"
	for range 2 {
		s := p.send(d.Token, last)
		time.Sleep(1500 * time.Millisecond)
		children := p.children()
		if err := p.cmd.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		<-p.exited
		<-s.ended
		acked, sent := s.acked.Load(), s.sent.Load()
		for deadline := time.Now().Add(3 * time.Minute); len(children) == 0 || alive(children[0]); time.Sleep(50 * time.Millisecond) {
			if len(children) == 0 || time.Now().After(deadline) {
				t.Fatalf("left behind: %v", children)
			}
		}
		p = serve(t, dir)
		// Of the one that was not acknowledged nobody knows.
		p.await(fmt.Sprintf("SELECT count() = uniqExact(altitude) AND max(altitude) <= %d, countIf(altitude <= %d AND altitude NOT IN (%s)) FROM tacho.position", sent, acked, unknown),
			fmt.Sprintf("1\t%d", acked-int64(strings.Count(unknown, ","))))
		for i := acked + 1; i <= sent; i++ {
			unknown += fmt.Sprintf(",%d", i)
		}
		last = sent
	}
	if state := p.request("GET", "/v1/devices/car-1/state", ""); !strings.Contains(state, `"altitude"`) {
		t.Fatal(state)
	}
	for _, metric := range []string{"tacho_projection_lag_events", "tacho_disk_free_bytes", "go_goroutines", "process_open_fds"} {
		if !strings.Contains(p.request("GET", "/metrics", ""), metric) {
			t.Error("no metric ", metric)
		}
	}
	children := p.children()
	if err := p.cmd.Process.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
	select {
	case err := <-p.exited:
		if err != nil {
			t.Fatal(err, p.stderr.String())
		}
	case <-time.After(20 * time.Second):
		t.Fatal("not stopped in time")
	}
	if alive(children[0]) {
		t.Fatal("a child is left")
	}
	if _, err := os.Stat(filepath.Join(dir, addressesFile)); !os.IsNotExist(err) {
		t.Fatal("addresses.json is left")
	}
}

// TestRefusesToStart: what is wrong is said at once, with what to do.
func TestRefusesToStart(t *testing.T) {
	dir := t.TempDir()
	running := serve(t, dir)
	wrong := t.TempDir()
	if err := os.WriteFile(filepath.Join(wrong, "libchdb-"+engine.PackageVersion+".so"), []byte("not it"), 0o644); err != nil {
		t.Fatal(err)
	}
	port := func(addr string) string {
		_, port, err := net.SplitHostPort(addr)
		if err != nil {
			t.Fatal(err)
		}
		return port
	}
	for name, c := range map[string]struct {
		dir   string
		env   []string
		flags []string
		want  []string
	}{
		"folder in use": {dir, nil, []string{"--ports", "auto"}, []string{"in use by process " + strconv.Itoa(running.PID), "--data"}},
		"wrong library": {t.TempDir(), []string{"TACHO_CACHE=" + wrong}, []string{"--ports", "auto"}, []string{"checksum is wrong", "delete the file"}},
		"ports taken": {t.TempDir(), nil, []string{
			"--mqtt-port", port(running.MQTT), "--http-port", port(running.HTTP), "--nats-port", port(strings.TrimPrefix(running.NATS, "nats://")),
			"--clickhouse-native-port", port(running.ClickHouseNative), "--clickhouse-http-port", port(running.ClickHouseHTTP),
		}, []string{"--mqtt-port", "--http-port", "--nats-port", "--clickhouse-native-port", "--clickhouse-http-port", port(running.MQTT), "--ports auto"}},
	} {
		t.Run(name, func(t *testing.T) {
			p := launch(t, c.dir, c.env, c.flags...)
			select {
			case err := <-p.exited:
				if err == nil {
					t.Fatal("it ended well")
				}
			case <-time.After(20 * time.Second):
				t.Fatal("it runs")
			}
			for _, want := range c.want {
				if !strings.Contains(p.stderr.String(), want) {
					t.Errorf("no %q in:\n%s", want, p.stderr.String())
				}
			}
		})
	}
	if running.sql("SELECT 1") != "1" {
		t.Error("the one that runs was harmed")
	}
}
