// Package enginetest gives tests the real ClickHouse.
package enginetest

import (
	"context"
	"net"
	"os"
	"testing"
	"time"

	"github.com/tachograph/tachograph/projections/columnar/engine"
)

// Main is for TestMain of packages that call Start: the test binary is also
// the engine's child.
func Main(m *testing.M) {
	engine.MaybeChild()
	os.Exit(m.Run())
}

// Start runs an engine in a folder of the test's, fetching the library when it
// is not in the cache, and stops it when the test ends.
func Start(t testing.TB) *engine.Engine {
	t.Helper()
	return StartIn(t, t.TempDir())
}

// StartIn is Start in a given folder.
func StartIn(t testing.TB, dir string) *engine.Engine {
	t.Helper()
	return StartQuery(t, dir, engine.QueryLimits{})
}

// StartQuery is StartIn with limits for the user query.
func StartQuery(t testing.TB, dir string, limits engine.QueryLimits) *engine.Engine {
	t.Helper()
	return start(t, engine.Config{Dir: dir, Query: limits}, func(e *engine.Engine) {
		ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
		defer cancel()
		if err := e.Stop(ctx); err != nil {
			t.Error(err)
		}
	})
}

// StartShards runs engines that are the shards of one cluster. They are killed in
// the end: each would wait for what the others have open to it.
func StartShards(t testing.TB, cluster string, n int) (all []*engine.Engine) {
	t.Helper()
	c := engine.Cluster{Name: cluster, Secret: "<secret>"}
	var held []net.Listener
	for range n {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		held = append(held, l)
		c.Shards = append(c.Shards, l.Addr().String())
	}
	for _, l := range held { // each engine must know all ports before it starts
		l.Close()
	}
	over, cancel := context.WithCancel(context.Background())
	cancel()
	for _, l := range held {
		cfg := engine.Config{Dir: t.TempDir(), NativePort: l.Addr().(*net.TCPAddr).Port, Cluster: c}
		all = append(all, start(t, cfg, func(e *engine.Engine) { _ = e.Stop(over) }))
	}
	return all
}

func start(t testing.TB, cfg engine.Config, stop func(*engine.Engine)) *engine.Engine {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Minute)
	defer cancel()
	cache, err := engine.CacheDir()
	if err != nil {
		t.Fatal(err)
	}
	if cfg.Library, err = engine.Fetch(ctx, cache, os.Stderr); err != nil {
		t.Fatal(err)
	}
	cfg.WriterPassword, cfg.AnalystPassword, cfg.QueryPassword = "writer", "analyst", "query"
	e, err := engine.Start(ctx, cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { stop(e) })
	return e
}
