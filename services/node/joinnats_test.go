package node

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/jwt/v2"
	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nkeys"

	"github.com/tachograph/tachograph/projections/columnar/engine/enginetest"
)

// A pen is a log output that can be read while it is written.
type pen struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (p *pen) Write(b []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.b.Write(b)
}

func (p *pen) String() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.b.String()
}

func freePort(t *testing.T) int {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port
}

func startServer(t *testing.T, opts server.Options) *server.Server {
	t.Helper()
	opts.Host, opts.JetStream, opts.SyncAlways, opts.NoLog, opts.NoSigs = "127.0.0.1", true, true, true, true
	s, err := server.NewServer(&opts)
	if err != nil {
		t.Fatal(err)
	}
	s.Start()
	t.Cleanup(func() { s.Shutdown(); s.WaitForShutdown() })
	if !s.ReadyForConnections(20 * time.Second) {
		t.Fatal("nats-server is not ready")
	}
	return s
}

// TestNATSComesLater: the node waits for its NATS and says so, and lives through
// a restart of it: nothing acknowledged is lost, nothing doubled.
func TestNATSComesLater(t *testing.T) {
	clickhouse := enginetest.Start(t)
	user, password := clickhouse.Writer()
	opts := server.Options{Port: freePort(t), Username: "tacho", Password: "secret", StoreDir: t.TempDir()}
	c := defaults(t, "--nats", fmt.Sprintf("nats://tacho:secret@127.0.0.1:%d", opts.Port),
		"--clickhouse", fmt.Sprintf("http://%s:%s@%s", user, password, clickhouse.HTTPAddr()))
	said := new(pen)
	type started struct {
		node *Node
		err  error
	}
	start := make(chan started, 1)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	go func() {
		n, err := Start(ctx, c, slog.New(slog.NewTextHandler(said, nil)))
		start <- started{n, err}
	}()
	within(t, 20*time.Second, "it says that it waits", func() bool { return strings.Contains(said.String(), "waiting for NATS") })
	if strings.Contains(said.String(), "secret") {
		t.Error("it says its password")
	}
	s := startServer(t, opts)
	result := <-start
	if result.err != nil {
		t.Fatal(result.err)
	}
	n := result.node
	t.Cleanup(func() { stopNode(t, n) })
	ready := func() bool { ok, _ := n.Ready(); return ok }
	within(t, time.Minute, "ready", ready)
	publish(t, n, "car-1", 0, 10)

	s.Shutdown()
	s.WaitForShutdown()
	within(t, 20*time.Second, "not ready without NATS", func() bool { return !ready() })
	startServer(t, opts)
	within(t, time.Minute, "ready again", ready)
	publish(t, n, "car-1", 10, 10)
	awaitRows(t, n, "SELECT count(), uniqExact(time) FROM tacho.position", "20\t20")
}

// TestNATSCredentials: a credentials file lets the node in; a wrong password is
// told at once.
func TestNATSCredentials(t *testing.T) {
	must := func(kp nkeys.KeyPair, err error) (nkeys.KeyPair, string) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		public, err := kp.PublicKey()
		if err != nil {
			t.Fatal(err)
		}
		return kp, public
	}
	operator, operatorKey := must(nkeys.CreateOperator())
	account, accountKey := must(nkeys.CreateAccount())
	user, userKey := must(nkeys.CreateUser())
	encode := func(text string, err error) string {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return text
	}
	claims := jwt.NewAccountClaims(accountKey)
	claims.Limits.JetStreamLimits = jwt.JetStreamLimits{MemoryStorage: -1, DiskStorage: -1, Streams: -1, Consumer: -1}
	resolver := new(server.MemAccResolver)
	if err := resolver.Store(accountKey, encode(claims.Encode(operator))); err != nil {
		t.Fatal(err)
	}
	_, systemKey := must(nkeys.CreateAccount())
	if err := resolver.Store(systemKey, encode(jwt.NewAccountClaims(systemKey).Encode(operator))); err != nil {
		t.Fatal(err)
	}
	seed, err := user.Seed()
	if err != nil {
		t.Fatal(err)
	}
	text, err := jwt.FormatUserConfig(encode(jwt.NewUserClaims(userKey).Encode(account)), seed)
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "tacho.creds")
	if err := os.WriteFile(file, text, 0o600); err != nil {
		t.Fatal(err)
	}
	s := startServer(t, server.Options{
		Port: -1, StoreDir: t.TempDir(), TrustedKeys: []string{operatorKey}, AccountResolver: resolver, SystemAccount: systemKey,
	})
	n := startNode(t, defaults(t, "--nats", s.ClientURL(), "--nats-creds", file, "--role", "gateway"))
	publish(t, n, "car-1", 0, 3)

	if _, err := Start(t.Context(), defaults(t, "--nats", s.ClientURL(), "--role", "gateway"), slog.New(slog.DiscardHandler)); err == nil || !strings.Contains(err.Error(), "--nats-creds") {
		t.Errorf("without credentials: %v", err)
	}
}
