// Package enginetest gives tests the real ClickHouse.
package enginetest

import (
	"context"
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
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Minute)
	defer cancel()
	cache, err := engine.CacheDir()
	if err != nil {
		t.Fatal(err)
	}
	library, err := engine.Fetch(ctx, cache, os.Stderr)
	if err != nil {
		t.Fatal(err)
	}
	e, err := engine.Start(ctx, engine.Config{Dir: dir, Library: library, WriterPassword: "writer", AnalystPassword: "analyst", QueryPassword: "query", Query: limits})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
		defer cancel()
		if err := e.Stop(ctx); err != nil {
			t.Error(err)
		}
	})
	return e
}
