package node

import (
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/tachograph/tachograph/projections/columnar/engine/enginetest"
)

// A gate stands before a server: shut, it takes connections and says nothing.
type gate struct {
	net.Listener
	target string
	mu     sync.Mutex
	open   bool
	held   []net.Conn
}

func newGate(t *testing.T, target string) *gate {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	g := &gate{Listener: l, target: target}
	t.Cleanup(func() { l.Close(); g.lift() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			g.mu.Lock()
			if g.open {
				go g.pass(c)
			} else {
				g.held = append(g.held, c)
			}
			g.mu.Unlock()
		}
	}()
	return g
}

// lift opens the gate. Who waits before it is sent away and comes again.
func (g *gate) lift() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.open = true
	for _, c := range g.held {
		c.Close()
	}
	g.held = nil
}

func (g *gate) pass(c net.Conn) {
	defer c.Close()
	s, err := net.Dial("tcp", g.target)
	if err != nil {
		return
	}
	defer s.Close()
	go func() {
		_, _ = io.Copy(s, c)
		s.Close()
	}()
	_, _ = io.Copy(c, s)
}

// TestNotReadyBeforeClickHouse: a writer that waits for a ClickHouse which never
// answered is not ready, though nothing has failed yet; meanwhile messages are
// taken in, and they are rows once it answers.
func TestNotReadyBeforeClickHouse(t *testing.T) {
	clickhouse := enginetest.Start(t)
	g := newGate(t, clickhouse.HTTPAddr())
	user, password := clickhouse.Writer()
	c := defaults(t, "--clickhouse", fmt.Sprintf("http://%s:%s@%s", user, password, g.Addr()))
	n, err := Start(t.Context(), c, slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelError})))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { stopNode(t, n) })
	publish(t, n, "car-1", 0, 10)
	for range 3 {
		resp, err := http.Get("http://" + n.Addresses().HTTP + "/readyz")
		if err != nil {
			t.Fatal(err)
		}
		body, _ := io.ReadAll(resp.Body)
		resp.Body.Close()
		if resp.StatusCode != http.StatusServiceUnavailable || !strings.Contains(string(body), "columnar of partition 0") {
			t.Fatalf("ready without ClickHouse: %s %s", resp.Status, body)
		}
	}
	g.lift()
	for deadline := time.Now().Add(3 * time.Minute); ; time.Sleep(20 * time.Millisecond) {
		ok, why := n.Ready()
		if ok {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("not ready: %v", why)
		}
	}
	n.shards.Servers[0].URL = "http://" + clickhouse.HTTPAddr()
	for _, s := range n.catalog.Schemas().All() {
		if got := answerOf(t, n, fmt.Sprintf("SELECT count() >= 0 FROM tacho.`%s_1h`", s.Name())); got != "true" && got != "1" {
			t.Errorf("ready before the tables of %s are there: %s", s.Name(), got)
		}
	}
	awaitRows(t, n, "SELECT count() FROM tacho.position", "10")
}
