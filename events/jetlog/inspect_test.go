package jetlog

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/nats-io/nats-server/v2/server"

	"github.com/tachograph/tachograph/events"
	"github.com/tachograph/tachograph/events/logtest"
)

// TestInspectDamage: whatever byte of a block is flipped, the positions that it
// costs are named and the others are read. What nats-server makes of it was found
// by trying: a damaged message is "not found"; a block whose frames do not fit, or
// whose index is gone, is cut off at the damage, and the stream ends there.
func TestInspectDamage(t *testing.T) {
	const n, hit = 3000, 300 // hit is the event whose record is damaged
	for _, test := range []struct {
		name    string
		byte    func(block []byte, payload int) int // where to flip
		noIndex bool
		last    uint64 // of the stream afterwards
		bad     []uint64
	}{
		{"payload", func(_ []byte, payload int) int { return payload + 5 }, false, n, []uint64{hit + 1}},
		{"frame", frame(1), false, hit, nil},
		{"payload, index gone", func(_ []byte, payload int) int { return payload + 5 }, true, hit, nil},
	} {
		t.Run(test.name, func(t *testing.T) {
			dir := t.TempDir()
			s := startServer(t, dir, false)
			l := open(t, Config{Publish: connect(t, s), Durability: OS})
			logtest.EnqueueAll(t, l, numbered(n))
			removed := uint64(0)
			if !test.noIndex { // without, what was removed comes back with the damage
				removed = 1
				stream, err := l.js.Stream(t.Context(), streamName(0))
				if err == nil {
					err = stream.DeleteMsg(t.Context(), 20)
				}
				if err != nil {
					t.Fatal(err)
				}
			}
			stop(t, l, s)
			block := filepath.Join(dir, "jetstream", "$G", "streams", streamName(0), "msgs", "1.blk")
			flip(t, block, func(data []byte) int { return test.byte(data, bytes.Index(data, numbered(n)[hit].Payload)) })
			if test.noIndex {
				if err := os.Remove(filepath.Join(filepath.Dir(block), "index.db")); err != nil {
					t.Fatal(err)
				}
			}
			l = open(t, Config{Publish: connect(t, startServer(t, dir, false)), Durability: OS})
			good, bad := inspectAll(t, l, n)
			_, last, err := l.Extent(t.Context(), 0)
			if err != nil || last.Seq != test.last {
				t.Errorf("the log ends at %v (%v), want %d", last, err, test.last)
			}
			if fmt.Sprint(bad) != fmt.Sprint(test.bad) || uint64(good+len(bad)) != last.Seq-removed {
				t.Errorf("%d read, unreadable %v, want %v", good, bad, test.bad)
			}
		})
	}
}

// TestInspectLongDamage: of many damaged messages in a row none is tried one by
// one for ever, and what stands behind them is read.
func TestInspectLongDamage(t *testing.T) {
	const n, from, to = 2000, 500, 900 // events, those from and up to are damaged
	dir := t.TempDir()
	s := startServer(t, dir, false)
	l := open(t, Config{Publish: connect(t, s), Durability: OS})
	evs := numbered(n)
	logtest.EnqueueAll(t, l, evs)
	stop(t, l, s)
	block := filepath.Join(dir, "jetstream", "$G", "streams", streamName(0), "msgs", "1.blk")
	for i := from; i <= to; i++ {
		flip(t, block, func(data []byte) int { return bytes.Index(data, evs[i].Payload) + 5 })
	}
	l = open(t, Config{Publish: connect(t, startServer(t, dir, false)), Durability: OS})
	good, bad := inspectAll(t, l, n)
	if good != n-(to-from+1) || len(bad) != to-from+1 || bad[0] != from+1 || bad[len(bad)-1] != to+1 {
		t.Errorf("%d read, %d unreadable", good, len(bad))
	}
}

// numbered are events whose payloads differ.
func numbered(n int) (evs []events.Event) {
	for i := range n {
		e := logtest.Telemetry(fmt.Sprint("car-", i%10), i)
		e.Payload = fmt.Appendf(nil, `{"n":%d,"pad":"%0200d"}`, i, i)
		evs = append(evs, e)
	}
	return evs
}

// frame is a byte of the 22 in front of a record's subject: its length comes first.
func frame(offset int) func([]byte, int) int {
	return func(block []byte, payload int) int {
		return bytes.LastIndex(block[:payload], []byte("in.")) - 22 + offset
	}
}

func flip(t *testing.T, file string, where func([]byte) int) {
	t.Helper()
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	data[where(data)] ^= 0x10
	if err := os.WriteFile(file, data, 0o600); err != nil {
		t.Fatal(err)
	}
}

func stop(t *testing.T, l *Log, s *server.Server) {
	t.Helper()
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	s.Shutdown()
	s.WaitForShutdown()
}

// inspectAll holds the order and returns how many were read and which were not.
func inspectAll(t *testing.T, l *Log, to uint64) (good int, bad []uint64) {
	t.Helper()
	at := uint64(0)
	for e, err := range l.Inspect(t.Context(), 0, 1, to) {
		var u *events.UnreadableError
		switch {
		case errors.As(err, &u):
			bad = append(bad, u.Position.Seq)
			e.Position = u.Position
		case err != nil:
			t.Fatal(err)
		default:
			good++
		}
		if e.Position.Seq <= at {
			t.Fatalf("%s after %d", e.Position, at)
		}
		at = e.Position.Seq
	}
	return good, bad
}
