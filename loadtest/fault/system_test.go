package fault

import (
	"context"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/tachograph/tachograph/events"
	"github.com/tachograph/tachograph/events/aptget"
	"github.com/tachograph/tachograph/loadtest/fleet"
	"github.com/tachograph/tachograph/loadtest/ledger"
)

// builds is where the program is built; "" before.
var builds string

// tacho builds the program once for all tests of the package.
var tacho = sync.OnceValues(func() (string, error) {
	var err error
	if builds, err = os.MkdirTemp("", "tacho-fault-"); err != nil {
		return "", err
	}
	out := filepath.Join(builds, "tacho")
	cmd := exec.Command("go", "build", "-o", out, "./cmd/tacho")
	cmd.Dir = "../../services"
	if b, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build tacho: %w: %s", err, b)
	}
	return out, nil
})

func TestMain(m *testing.M) {
	MaybeNATS()
	code := m.Run()
	if builds != "" {
		os.RemoveAll(builds)
	}
	os.Exit(code)
}

// program is for what happens in processes of their own. The race detector, for
// which the short tests are there, would see none of it.
func program(t *testing.T) string {
	t.Helper()
	if testing.Short() {
		t.Skip("processes of their own, made without the race detector: make test runs this")
	}
	path, err := tacho()
	if err != nil {
		t.Fatal(err)
	}
	return path
}

func start(t *testing.T, dir string, wrap []string, args ...string) *Process {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Minute) // the first start fetches ClickHouse
	defer cancel()
	p, err := Start(ctx, program(t), dir, wrap, args...)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// traced publishes over several connections to a node under strace, kills it
// with -9 after the last acknowledgement, and returns what it did.
func traced(t *testing.T, dir, durability string) (calls []Call, acks []Ack) {
	t.Helper()
	out := filepath.Join(t.TempDir(), "trace")
	p := start(t, dir, []string{aptget.Program(t, "strace", "strace"), "-f", "-yy", "-xx", "-s", "100000", "-o", out,
		"-e", "trace=pwrite64,fsync,fdatasync,write,writev,sendto,openat,mkdirat,?mkdir,renameat,renameat2,?rename", "--seccomp-bpf"}, "--role", "gateway", "--durability", durability)
	tokens, err := p.Node.Tokens(t.Context(), []string{"car-0", "car-1", "car-2", "car-3"})
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	var mu sync.Mutex
	for device, token := range tokens {
		wg.Go(func() {
			w, err := dialWire(p.Node.MQTT, device, token)
			if err != nil {
				t.Error(err)
				return
			}
			const n, window = 60, 5
			payload := func(i int) []byte {
				return fmt.Appendf(nil, `{"time":%d,"speed":1,"mark":"%s-%04d"}`, 1700000000000+i, device, i)
			}
			sent := 0
			for heard := 1; heard <= n; heard++ {
				for ; sent < min(heard-1+window, n); sent++ {
					if err := w.publish(uint16(sent+1), "telemetry/position", payload(sent+1)); err != nil {
						t.Error(err)
						return
					}
				}
				id, err := w.puback()
				if err != nil {
					t.Error(err)
					return
				}
				mu.Lock()
				acks = append(acks, Ack{device, w.port, id, payload(int(id))})
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	p.Kill()
	f, err := os.Open(out)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if calls, err = ReadTrace(f); err != nil {
		t.Fatal(err)
	}
	return calls, acks
}

// TestSyncedBeforePUBACK: for every PUBACK, the fsync that covers its message
// came before. Then the power fails at a moment in the middle of the trace: the
// log keeps what was synced by then, indexes are gone, blocks end in a torn
// message. A new start has every message that had been acknowledged.
func TestSyncedBeforePUBACK(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "data")
	calls, acks := traced(t, dir, "disk")
	if len(acks) != 240 {
		t.Fatalf("%d acknowledgements", len(acks))
	}
	for _, sentence := range CheckOrder(calls, acks) {
		t.Error(sentence)
	}
	disk := ReadDisk(calls)
	t.Logf("%d messages in 4 connections with window 5: %d fsyncs of the telemetry log", len(acks), disk.Syncs(isTelemetryBlock))
	slices.SortFunc(acks, func(a, b Ack) int { return a.line(calls) - b.line(calls) })
	acks = acks[:160]
	failure := acks[159].line(calls)
	var acknowledged []ledger.Entry
	for _, a := range acks {
		acknowledged = append(acknowledged, ledger.Entry{Device: a.Device, Type: "position", ID: events.DeriveID(a.Device, "position", a.Payload)})
	}
	cut := failPower(t, dir, disk, failure)
	t.Logf("the power fails at line %d, at the PUBACK of message %d; %d files of the log are cut back", failure, len(acks), cut)
	if cut == 0 {
		t.Error("nothing was cut back, so nothing is proven")
	}
	p := start(t, dir, nil)
	v, err := p.Node.Verify(t.Context(), acknowledged, time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	if t.Log(v); !v.Good() {
		t.Error("not as promised")
	}
	// The devices were answered as well: they are still known.
	tokens, err := p.Node.Tokens(t.Context(), nil)
	if err != nil || len(tokens) != 4 {
		t.Fatal(tokens, err)
	}
	for device, token := range tokens {
		if _, err := dialWire(p.Node.MQTT, device, token); err != nil {
			t.Errorf("%s: %v", device, err)
		}
	}
	if err := p.Stop(); err != nil {
		t.Error(err)
	}
}

// failPower leaves of the log's files what had been synced when the trace was
// at a line, and a few bytes more where more had been written.
func failPower(t *testing.T, dir string, disk *Disk, line int) (cut int) {
	t.Helper()
	err := filepath.WalkDir(filepath.Join(dir, "nats"), func(path string, d fs.DirEntry, err error) error {
		if err != nil || !isLog(path) || d.IsDir() {
			return err
		}
		switch meta := strings.HasPrefix(d.Name(), "meta."); {
		case disk.Unnamed(path, line) != "", meta && !disk.Settled(path, line):
			cut++
			return os.Remove(path)
		case meta:
			return nil
		case isBlock(path):
			info, err := d.Info()
			to := disk.Extent(path, line)
			if err != nil || to >= info.Size() {
				return err
			}
			cut++
			return os.Truncate(path, min(to+7, info.Size()))
		default: // an index; the log must do without
			return os.Remove(path)
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	return cut
}

// TestTheTraceShowsWhenItIsNotSynced: the same judge fails a node that does
// not wait for the disk, so that passing means something.
func TestTheTraceShowsWhenItIsNotSynced(t *testing.T) {
	calls, acks := traced(t, filepath.Join(t.TempDir(), "data"), "os")
	broken := CheckOrder(calls, acks)
	if len(broken) < len(acks)/2 {
		t.Fatalf("--durability os passes as synced: %d of %d acknowledgements are found early", len(broken), len(acks))
	}
	for _, sentence := range broken {
		if !strings.Contains(sentence, "sync") {
			t.Fatal(sentence)
		}
	}
}

// TestKilled kills a node again and again, whole and in part.
func TestKilled(t *testing.T) {
	c := Campaign{Tacho: program(t), Dir: filepath.Join(t.TempDir(), "data"), Fixes: someFixes(), Runs: 8, Seed: 7, Say: t.Logf}
	t.Logf("seed %d", c.Seed)
	v, err := c.Run(t.Context())
	if t.Log(v); err != nil || !v.Good() {
		t.Fatal(err)
	}
	if v.Acknowledged != len(c.Fixes) {
		t.Errorf("%d acknowledged of %d", v.Acknowledged, len(c.Fixes))
	}
}

// TestLoad: what cars hear acknowledged over each protocol is in the log and
// in ClickHouse, once.
func TestLoad(t *testing.T) {
	p := start(t, filepath.Join(t.TempDir(), "data"), nil)
	var entries []ledger.Entry
	for i, l := range []fleet.Load{{Protocol: "mqtt", QoS: 1}, {Protocol: "mqtt", QoS: 2}, {Protocol: "mqtt5", QoS: 1}, {Protocol: "mqtt5", QoS: 2}, {Protocol: "http"}, {Protocol: "nats"}} {
		l.Node, l.Cars, l.Rate, l.Duration, l.Window, l.Seed, l.Patience = p.Node, 20, 500, 2*time.Second, 5, uint64(i), 30*time.Second
		name := fmt.Sprintf("%s QoS %d", l.Protocol, l.QoS)
		r, err := l.Run(t.Context())
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		t.Logf("%s: %s", name, r)
		if r.Offered < 800 || r.Acknowledged != r.Offered || r.Refused+r.Unanswered+r.Unsent+r.Disconnects != 0 {
			t.Errorf("%s: not all acknowledged", name)
		}
		entries = append(entries, r.Entries...)
	}
	silent := fleet.Load{Node: p.Node, Protocol: "mqtt", Cars: 5, Rate: 200, Duration: time.Second, Window: 5, Patience: 5 * time.Second}
	if r, err := silent.Run(t.Context()); err != nil || r.Sent != r.Offered || r.Acknowledged+r.Unanswered != 0 {
		t.Errorf("QoS 0: %v %v", r, err)
	}
	v, err := p.Node.Verify(t.Context(), entries, time.Minute)
	if t.Log(v); err != nil || !v.Good() || v.Repeats != 0 {
		t.Error("not as promised", err)
	}
	if err := p.Stop(); err != nil {
		t.Error(err)
	}
}

// someFixes is a minute of twenty vehicles.
func someFixes() []fleet.Fix {
	var fixes []fleet.Fix
	begin := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	for i := range 3000 {
		fixes = append(fixes, fleet.Fix{
			Device: fmt.Sprintf("car-%02d", i%20), Time: begin.Add(time.Duration(i) * 20 * time.Millisecond),
			Speed: float64(i % 30), Latitude: 52 + float64(i)/1e4, Longitude: 13, Route: "1", Trip: fmt.Sprint(i),
		})
	}
	return fixes
}
