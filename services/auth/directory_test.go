package auth

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"

	"github.com/tachograph/tachograph/events"
	"github.com/tachograph/tachograph/events/jetlog"
	"github.com/tachograph/tachograph/events/memlog"
)

// eachLog runs a test on every kind of log.
func eachLog(t *testing.T, run func(t *testing.T, log events.Log)) {
	t.Run("memlog", func(t *testing.T) {
		l := memlog.New(memlog.Options{})
		t.Cleanup(func() { _ = l.Close() })
		run(t, l)
	})
	t.Run("jetlog", func(t *testing.T) {
		dir := t.TempDir()
		s, err := server.NewServer(&server.Options{Host: "127.0.0.1", Port: -1, JetStream: true, StoreDir: dir, NoLog: true, NoSigs: true})
		if err != nil {
			t.Fatal(err)
		}
		s.Start()
		if !s.ReadyForConnections(20 * time.Second) {
			t.Fatal("nats-server is not ready")
		}
		t.Cleanup(func() { s.Shutdown(); s.WaitForShutdown() })
		nc, err := nats.Connect(s.ClientURL())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(nc.Close)
		l, err := jetlog.Open(t.Context(), jetlog.Config{Publish: nc, StoreDir: dir})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = l.Close() })
		run(t, l)
	})
}

func open(t *testing.T, log events.Log) *Directory {
	t.Helper()
	d, err := Open(t.Context(), log, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// running opens a directory that follows the log until the test ends.
func running(t *testing.T, log events.Log) *Directory {
	t.Helper()
	d := open(t, log)
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- d.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	return d
}

func add(t *testing.T, d *Directory, id string) string {
	t.Helper()
	token, err := d.Add(t.Context(), id)
	if err != nil {
		t.Fatal(err)
	}
	return token
}

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("never: " + what)
		}
	}
}

func TestLifeOfADevice(t *testing.T) {
	eachLog(t, func(t *testing.T, log events.Log) {
		for _, follow := range []func(*testing.T, events.Log) *Directory{open, running} {
			d := follow(t, log)
			var revoked []string
			d.OnRevoke(func(id string) { revoked = append(revoked, id) })

			first := add(t, d, "car 1.*>")
			if !strings.HasPrefix(first, "tacho_") || len(first) != 49 {
				t.Errorf("token %q", first)
			}
			if _, err := d.Add(t.Context(), "car 1.*>"); !errors.Is(err, ErrExists) {
				t.Errorf("second add: %v", err)
			}
			if !d.Authenticate("car 1.*>", first) || d.Authenticate("car 1.*>", first+"x") || d.Authenticate("car 1.*>", "") || d.Authenticate("car-2", first) {
				t.Error("wrong answer about the first token")
			}
			if got, ok := d.Get("car 1.*>"); !ok || time.Since(got.Added) > time.Minute {
				t.Errorf("get: %+v %v", got, ok)
			}

			second, err := d.NewToken(t.Context(), "car 1.*>")
			if err != nil {
				t.Fatal(err)
			}
			if d.Authenticate("car 1.*>", first) || !d.Authenticate("car 1.*>", second) {
				t.Error("rotation did not replace the token")
			}
			if owner, ok := d.Owner(second); !ok || owner != "car 1.*>" {
				t.Errorf("owner %q %v", owner, ok)
			}
			if _, ok := d.Owner(first); ok {
				t.Error("the old token has an owner")
			}

			if err := d.Remove(t.Context(), "car 1.*>"); err != nil {
				t.Fatal(err)
			}
			if _, ok := d.Get("car 1.*>"); ok || d.Authenticate("car 1.*>", second) {
				t.Error("removed device lives on")
			}
			if err := d.Remove(t.Context(), "car 1.*>"); !errors.Is(err, ErrNotFound) {
				t.Errorf("second remove: %v", err)
			}
			if _, err := d.NewToken(t.Context(), "car 1.*>"); !errors.Is(err, ErrNotFound) {
				t.Errorf("new token of a removed device: %v", err)
			}

			third := add(t, d, "car 1.*>")
			if d.Authenticate("car 1.*>", second) || !d.Authenticate("car 1.*>", third) {
				t.Error("the old token came back with the device")
			}
			if want := []string{"car 1.*>", "car 1.*>"}; !slices.Equal(revoked, want) {
				t.Errorf("revoked %q, want %q", revoked, want)
			}
			if again := open(t, log); !again.Authenticate("car 1.*>", third) {
				t.Error("a fresh fold does not know the token")
			}
			if err := d.Remove(t.Context(), "car 1.*>"); err != nil {
				t.Fatal(err)
			}
		}
	})
}

func TestTwoProcesses(t *testing.T) {
	eachLog(t, func(t *testing.T, log events.Log) {
		here, there := running(t, log), running(t, log)
		gone := make(chan string, 8)
		there.OnRevoke(func(id string) { gone <- id })
		token := add(t, here, "car-1")
		eventually(t, "the other process knows the device", func() bool { return there.Authenticate("car-1", token) })
		if err := here.Remove(t.Context(), "car-1"); err != nil {
			t.Fatal(err)
		}
		if id := <-gone; id != "car-1" {
			t.Errorf("revoked %q", id)
		}
	})
}

// Whoever found that nobody folds, and folds up to its own event while Run has
// begun and is further, waits for no event beyond it.
func TestFoldBesideRun(t *testing.T) {
	eachLog(t, func(t *testing.T, log events.Log) {
		d := open(t, log)
		if _, err := d.Add(t.Context(), "car-1"); err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		defer cancel()
		for _, seq := range []uint64{1, d.cursor.Position.Seq} {
			if err := d.foldTo(ctx, seq); err != nil {
				t.Fatalf("fold to %d, which was folded: %v", seq, err)
			}
		}
	})
}

func TestOneOfManyAddsWins(t *testing.T) {
	eachLog(t, func(t *testing.T, log events.Log) {
		a, b := running(t, log), running(t, log)
		for round := range 10 {
			id := fmt.Sprintf("car-%d", round)
			var wg sync.WaitGroup
			var won atomic.Int32
			var winner atomic.Value
			for _, d := range []*Directory{a, b, a, b} {
				wg.Go(func() {
					switch token, err := d.Add(t.Context(), id); {
					case err == nil:
						won.Add(1)
						winner.Store(token)
					case !errors.Is(err, ErrExists):
						t.Error(err)
					}
				})
			}
			wg.Wait()
			if won.Load() != 1 {
				t.Fatalf("%d adds of %s won", won.Load(), id)
			}
			token := winner.Load().(string)
			eventually(t, "both know the winner's token", func() bool { return a.Authenticate(id, token) && b.Authenticate(id, token) })
		}
	})
}

// A kill between "added" and "issued" leaves a device without a token; adding
// it again finishes the work.
func TestAddGoesOnAfterACrash(t *testing.T) {
	var fail atomic.Int32
	log := memlog.New(memlog.Options{Fault: func(op string) error {
		if op == "append" && fail.Add(-1) == 0 {
			return errors.New("killed")
		}
		return nil
	}})
	defer log.Close()
	d := open(t, log)
	fail.Store(2)
	if _, err := d.Add(t.Context(), "car-1"); err == nil {
		t.Fatal("the fault was not felt")
	}
	if _, ok := d.Get("car-1"); !ok {
		t.Fatal("the first fact is missing")
	}
	if d.Authenticate("car-1", "") || d.Authenticate("car-1", "tacho_") {
		t.Error("a device without a token got in")
	}
	if token := add(t, d, "car-1"); !d.Authenticate("car-1", token) {
		t.Error("token is not valid")
	}
}

func TestNoTokenInTheLog(t *testing.T) {
	log := memlog.New(memlog.Options{})
	defer log.Close()
	d := open(t, log)
	token := add(t, d, "car-1")
	for e, err := range log.Read(t.Context(), events.Stream{Kind: events.Credential, ID: "car-1"}, events.Latest) {
		if err != nil {
			t.Fatal(err)
		}
		if text, _ := json.Marshal(e); strings.Contains(string(e.Payload), token) || strings.Contains(string(text), token) {
			t.Errorf("the token is in the log: %s", text)
		}
		if !strings.HasPrefix(e.Subject(), "secret.") {
			t.Errorf("a credential under %s", e.Subject())
		}
	}
}

func TestAuthenticateAllocatesNothing(t *testing.T) {
	if testing.Short() {
		t.Skip("make race compiles without inlining, and values escape that otherwise do not: make test runs this")
	}
	log := memlog.New(memlog.Options{})
	defer log.Close()
	d := open(t, log)
	token := add(t, d, "car-1")
	if n := testing.AllocsPerRun(100, func() { d.Authenticate("car-1", token) }); n > 0 {
		t.Errorf("%v allocations", n)
	}
}

func TestList(t *testing.T) {
	log := memlog.New(memlog.Options{})
	defer log.Close()
	d := open(t, log)
	for _, id := range []string{"c", "a", "d", "b"} {
		add(t, d, id)
	}
	if err := d.Remove(t.Context(), "c"); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		after string
		limit int
		want  string
	}{{"", 10, "abd"}, {"", 2, "ab"}, {"b", 2, "d"}, {"aa", 1, "b"}, {"d", 5, ""}, {"", 0, ""}, {"", -1, ""}} {
		var got string
		for _, dev := range d.List(c.after, c.limit) {
			got += dev.ID
		}
		if got != c.want {
			t.Errorf("List(%q, %d) = %s, want %s", c.after, c.limit, got, c.want)
		}
	}
}

func TestValidDeviceID(t *testing.T) {
	for _, id := range []string{"car-1", "a", "WDB 123.4", "*", ">", "$x", "ü車", strings.Repeat("x", 128)} {
		if err := ValidDeviceID(id); err != nil {
			t.Errorf("%q: %v", id, err)
		}
	}
	for _, id := range []string{"", " a", "a ", "a/b", "#", "a+", "a\n", "a\x00b", "\x7f", "a\u0085b", "\xff", strings.Repeat("x", 129), strings.Repeat("x", 10000)} {
		err := ValidDeviceID(id)
		if err == nil {
			t.Errorf("%.20q is allowed", id)
		} else if len(err.Error()) > 400 {
			t.Errorf("error of %d bytes", len(err.Error()))
		}
	}
}
