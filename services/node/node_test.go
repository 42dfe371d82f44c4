package node

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/alecthomas/kong"
	mqtt "github.com/eclipse/paho.mqtt.golang"
	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"

	"github.com/tachograph/tachograph/projections/columnar/engine/enginetest"
)

func TestMain(m *testing.M) { enginetest.Main(m) }

// defaults is the configuration without any flag, on free ports.
func defaults(t testing.TB, flags ...string) Config {
	t.Helper()
	var c Config
	parser, err := kong.New(&c)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := parser.Parse(append([]string{"--data", t.TempDir(), "--ports", "auto"}, flags...)); err != nil {
		t.Fatal(err)
	}
	return c
}

func startNode(t testing.TB, c Config) *Node {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Minute)
	defer cancel()
	n, err := Start(ctx, c, slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelError})))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { stopNode(t, n) })
	for {
		ok, why := n.Ready()
		if ok {
			return n
		}
		select {
		case <-ctx.Done():
			t.Fatalf("not ready: %v", why)
		case <-time.After(20 * time.Millisecond):
		}
	}
}

func stopNode(t testing.TB, n *Node) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	if err := n.Stop(ctx); err != nil {
		t.Error(err)
	}
}

// publish sends n messages at QoS 1 and waits for every acknowledgement.
func publish(t *testing.T, node *Node, device string, from, n int) {
	t.Helper()
	token, err := node.auth.NewToken(t.Context(), device)
	if err != nil {
		if token, err = node.auth.Add(t.Context(), device); err != nil {
			t.Fatal(err)
		}
	}
	c := mqtt.NewClient(mqtt.NewClientOptions().AddBroker("tcp://" + node.Addresses().MQTT).SetClientID(device).SetUsername(device).SetPassword(token))
	if tok := c.Connect(); tok.WaitTimeout(2*time.Minute) && tok.Error() != nil {
		t.Fatal(tok.Error())
	}
	defer c.Disconnect(100)
	for i := range n {
		tok := c.Publish("telemetry/position", 1, false, fmt.Sprintf(`{"time":%d,"speed":%d}`, 1700000000000+from+i, i))
		if !tok.WaitTimeout(2*time.Minute) || tok.Error() != nil {
			t.Fatal("not acknowledged: ", tok.Error())
		}
	}
}

// awaitRows waits until ClickHouse answers a query as expected.
func awaitRows(t testing.TB, node *Node, sql, want string) {
	t.Helper()
	got := ""
	for deadline, pause := time.Now().Add(3*time.Minute), 50*time.Millisecond; time.Now().Before(deadline); pause = longer(pause) {
		if got = answerOf(t, node, sql); got == want {
			return
		}
	}
	t.Fatalf("%s\ngot  %s\nwant %s", sql, got, want)
}

// longer sleeps, and returns the pause before the next look: each look takes
// ClickHouse's time from what is waited for.
func longer(pause time.Duration) time.Duration {
	time.Sleep(pause)
	return min(pause*3/2, 500*time.Millisecond)
}

// answerOf asks the node's ClickHouse, once.
func answerOf(t testing.TB, node *Node, sql string) string {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, node.shards.Servers[0].URL, strings.NewReader(sql))
	if err != nil {
		t.Fatal(err)
	}
	req.Close = true
	req.Header.Set("X-ClickHouse-User", node.shards.Servers[0].User)
	req.Header.Set("X-ClickHouse-Key", node.shards.Servers[0].Password)
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return err.Error()
	}
	defer resp.Body.Close()
	b, _ := io.ReadAll(resp.Body)
	return strings.TrimSpace(string(b))
}

// TestLife: a message goes from MQTT into ClickHouse and into the state; the
// next start goes on where the last one was; what is running is protected.
func TestLife(t *testing.T) {
	c := defaults(t)
	n := startNode(t, c)
	publish(t, n, "car-1", 0, 20)
	awaitRows(t, n, "SELECT count(), max(_seq) FROM tacho.position", "20\t20")

	if _, err := Start(t.Context(), c, slog.New(slog.DiscardHandler)); err == nil || !strings.Contains(err.Error(), "in use by process") {
		t.Fatalf("a second node in the folder: %v", err)
	}
	taken := defaults(t)
	taken.Ports = "fixed"
	for addr, port := range map[string]*int{n.Addresses().MQTT: &taken.MQTTPort, n.Addresses().HTTP: &taken.HTTPPort} {
		_, p, err := net.SplitHostPort(addr)
		if err != nil {
			t.Fatal(err)
		}
		fmt.Sscan(p, port)
	}
	taken.NATSPort, taken.ClickHouseNativePort, taken.ClickHouseHTTPPort = 42221, 42222, 42223
	if _, err := Start(t.Context(), taken, slog.New(slog.DiscardHandler)); err == nil || !strings.Contains(err.Error(), "mqtt-port") {
		t.Fatalf("a taken port: %v", err)
	}
	token, err := n.auth.NewToken(t.Context(), "car-1")
	if err != nil {
		t.Fatal(err)
	}
	closed := make(chan struct{})
	nc, err := nats.Connect(n.Addresses().NATS, nats.UserInfo("car-1", token), nats.CustomInboxPrefix("_INBOX_car-1"),
		nats.NoReconnect(), nats.ClosedHandler(func(*nats.Conn) { close(closed) }))
	if err != nil {
		t.Fatal(err)
	}
	if answer, err := nc.Request("ingest.car-1.position", []byte(`{"time":1700000009000,"speed":1}`), 10*time.Second); err != nil || !strings.Contains(string(answer.Data), `"id"`) {
		t.Fatalf("over NATS: %v, %v", answer, err)
	}
	if err := n.auth.Remove(t.Context(), "car-1"); err != nil {
		t.Fatal(err)
	}
	select {
	case <-closed:
	case <-time.After(10 * time.Second):
		t.Fatal("a removed device is still connected to NATS")
	}
	stopNode(t, n)
	if _, err := os.Stat(c.file(addressesFile)); !os.IsNotExist(err) {
		t.Fatal("addresses.json is left")
	}

	n = startNode(t, c)
	publish(t, n, "car-1", 100, 5)
	awaitRows(t, n, "SELECT count(), max(_seq), uniqExact(_seq) FROM tacho.position", "26\t26\t26")
	entry, err := n.views.Get(t.Context(), "car-1")
	if err != nil || !strings.Contains(string(entry.Value()), `"speed"`) {
		t.Fatalf("state %s, %v", entry.Value(), err)
	}
}

// TestExisting: the same with a NATS server and a ClickHouse that were there
// before, as in the distributed shape.
func TestExisting(t *testing.T) {
	s, err := server.NewServer(&server.Options{
		Host: "127.0.0.1", Port: -1, Username: "tacho", Password: "secret", JetStream: true, StoreDir: t.TempDir(), SyncAlways: true, NoLog: true, NoSigs: true,
	})
	if err != nil {
		t.Fatal(err)
	}
	s.Start()
	t.Cleanup(func() { s.Shutdown(); s.WaitForShutdown() })
	if !s.ReadyForConnections(10 * time.Second) {
		t.Fatal("nats-server is not ready")
	}
	clickhouse := enginetest.Start(t)
	user, password := clickhouse.Writer()
	flags := []string{
		"--nats", strings.Replace(s.ClientURL(), "nats://", "nats://tacho:secret@", 1),
		"--clickhouse", fmt.Sprintf("http://%s:%s@%s", user, password, clickhouse.HTTPAddr()),
	}
	gateway := startNode(t, defaults(t, append(flags, "--role", "gateway")...))
	projector := startNode(t, defaults(t, append(flags, "--role", "project")...))
	publish(t, gateway, "car-1", 0, 10)
	awaitRows(t, projector, "SELECT count(), uniqExact(_seq) FROM tacho.position", "10\t10")
	if projector.Addresses().MQTT != "" || gateway.Addresses().ClickHouseHTTP != "" {
		t.Fatal("a role runs what it should not")
	}
	if strings.Contains(gateway.Addresses().NATS, "secret") {
		t.Fatal("a password is in addresses.json")
	}
}
