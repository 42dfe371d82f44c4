package columnar

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/tachograph/tachograph/events"
	"github.com/tachograph/tachograph/events/jetlog"
)

// flipByte changes one bit of a file.
func flipByte(t *testing.T, file string, where func([]byte) int) {
	t.Helper()
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	f, err := os.OpenFile(file, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	at := where(data)
	if _, err := f.WriteAt([]byte{data[at] ^ 4}, int64(at)); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
}

// TestAuditBlock: a flipped byte in a block file of the real nats-server, a
// message that was deleted behind everybody's back and a tail that is gone are
// named by their positions.
func TestAuditBlock(t *testing.T) {
	long(t)
	b := newBench(t)
	dir := t.TempDir()
	s := startNATS(t, dir, server.RANDOM_PORT)
	defer func() { s.Shutdown(); s.WaitForShutdown() }()
	open := func() *jetlog.Log {
		t.Helper()
		log, err := jetlog.Open(t.Context(), jetlog.Config{Publish: connectNATS(t, s), Read: connectNATS(t, s), Durability: jetlog.OS, StoreDir: dir})
		if err != nil {
			t.Fatal(err)
		}
		return log
	}
	restart := func(log *jetlog.Log, between func(block string)) *jetlog.Log {
		t.Helper()
		if err := log.Close(); err != nil {
			t.Fatal(err)
		}
		s.Shutdown()
		s.WaitForShutdown()
		between(filepath.Join(dir, "jetstream", "$G", "streams", "TELEMETRY_0", "msgs", "1.blk"))
		s = startNATS(t, dir, server.RANDOM_PORT)
		return open()
	}
	log := open()
	payload := func(n int) []byte { return fmt.Appendf(nil, `{"time":%d,"speed":1}`, 1700000000000+n) }
	const n = 500
	for i := range n {
		e := events.Event{Stream: events.Stream{Kind: events.Telemetry, ID: fmt.Sprint("car-", i%3)}, Type: "position", Schema: 1, Payload: payload(i)}
		if i == 200 {
			e.Payload = payload(99) // a repeat of what will be unreadable
		}
		e.ID = events.DeriveID(e.Stream.ID, e.Type, e.Payload)
		done := make(chan error, 1)
		if err := log.Enqueue(t.Context(), e, func(err error) { done <- err }); err != nil {
			t.Fatal(err)
		}
		if err := <-done; err != nil {
			t.Fatal(err)
		}
	}
	cfg := Config{Log: log, Catalog: b.catalog, Server: b.server, MaxAge: 20 * time.Millisecond, RollUpEvery: 20 * time.Millisecond}
	w, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- w.Run(ctx) }()
	for deadline := time.Now().Add(3 * time.Minute); w.Status().Position.Seq < n; time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not caught up: %+v", w.Status())
		}
	}
	cancel()
	if err := <-ended; err != nil {
		t.Fatal(err)
	}
	audit := func(want ...string) {
		t.Helper()
		r, err := (&Audit{Writer: cfg, Log: log}).Run(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if got := told(r); !slices.Equal(got, want) {
			t.Errorf("%q, want %q", got, want)
		}
		for _, d := range r.Differences {
			if d.Kind != LogShorter && d.Device == "" {
				t.Errorf("%+v names no device", d)
			}
		}
	}
	audit()

	js, err := jetstream.New(connectNATS(t, s))
	if err != nil {
		t.Fatal(err)
	}
	stream, err := js.Stream(t.Context(), "TELEMETRY_0")
	if err == nil {
		err = stream.DeleteMsg(t.Context(), 50)
	}
	if err != nil {
		t.Fatal(err)
	}
	audit("missing_in_log 1.0.50")

	log = restart(log, func(block string) {
		flipByte(t, block, func(data []byte) int { return bytes.Index(data, payload(99)) + 10 })
	})
	audit("missing_in_log 1.0.50", "unreadable_in_log 1.0.100")

	// The frame of 1.0.401: now the server reads the block anew when it needs it, and
	// cuts it off at the first record that is damaged.
	log = restart(log, func(block string) {
		flipByte(t, block, func(data []byte) int {
			return bytes.LastIndex(data[:bytes.Index(data, payload(400))], []byte("in.")) - 22 + 2
		})
	})
	defer log.Close()
	audit("log_shorter 1.0.100-500", "missing_in_log 1.0.50")
}
