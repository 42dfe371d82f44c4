package jetlog

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/tachograph/tachograph/events"
	"github.com/tachograph/tachograph/events/logtest"
)

// TestMendMeta: a server that was killed between a stream's configuration and its
// checksum has the stream again, as it was written down last; a configuration that
// was damaged later stays as it is.
func TestMendMeta(t *testing.T) {
	for _, harm := range []struct {
		name  string
		do    func(t *testing.T, meta, sum string, before []byte)
		there bool
	}{
		{"nothing", func(*testing.T, string, string, []byte) {}, true},
		{"no checksum", func(t *testing.T, _, sum string, _ []byte) {
			if err := os.Remove(sum); err != nil {
				t.Fatal(err)
			}
		}, true},
		{"the checksum of before", func(t *testing.T, meta, sum string, before []byte) {
			if err := os.WriteFile(sum, before, 0o600); err != nil {
				t.Fatal(err)
			}
			old := time.Now().Add(-time.Hour)
			if err := os.Chtimes(sum, old, old); err != nil {
				t.Fatal(err)
			}
		}, true},
		{"damage", func(t *testing.T, meta, sum string, _ []byte) {
			b, err := os.ReadFile(meta)
			if err != nil {
				t.Fatal(err)
			}
			written, err := os.Stat(meta)
			if err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(meta, bytes.Replace(b, []byte("in.*"), []byte("im.*"), 1), 0o600); err != nil {
				t.Fatal(err)
			}
			if err := os.Chtimes(meta, written.ModTime(), written.ModTime()); err != nil {
				t.Fatal(err)
			}
		}, false},
	} {
		t.Run(harm.name, func(t *testing.T) {
			dir := t.TempDir()
			s := startServer(t, dir, false)
			l := open(t, Config{Publish: connect(t, s), StoreDir: dir})
			logtest.EnqueueAll(t, l, []events.Event{logtest.Telemetry("car", 0), logtest.Telemetry("car", 1)})
			meta := filepath.Join(filepath.Dir(l.blockDir(0)), "meta.inf")
			sum := filepath.Join(filepath.Dir(meta), "meta.sum")
			before, err := os.ReadFile(sum)
			if err != nil {
				t.Fatal(err)
			}
			stream, err := l.js.Stream(t.Context(), streamName(0))
			if err != nil {
				t.Fatal(err)
			}
			if err := l.rewrite(t.Context(), stream, func(c *jetstream.StreamConfig) { c.Metadata["written"] = "last" }); err != nil {
				t.Fatal(err)
			}
			if err := l.Close(); err != nil {
				t.Fatal(err)
			}
			s.Shutdown()
			s.WaitForShutdown()
			harm.do(t, meta, sum, before)
			if err := MendMeta(dir); err != nil {
				t.Fatal(err)
			}
			js, err := jetstream.New(connect(t, startServer(t, dir, false)))
			if err != nil {
				t.Fatal(err)
			}
			stream, err = js.Stream(t.Context(), streamName(0))
			if (err == nil) != harm.there {
				t.Fatalf("there %t, want %t: %v", err == nil, harm.there, err)
			}
			if harm.there && (stream.CachedInfo().State.Msgs != 2 || stream.CachedInfo().Config.Metadata["written"] != "last") {
				t.Errorf("%+v", stream.CachedInfo())
			}
		})
	}
}
