package catalog

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
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
	"github.com/tachograph/tachograph/schemas"
	"github.com/tachograph/tachograph/schemas/vehicle"
)

func quiet() *slog.Logger { return slog.New(slog.DiscardHandler) }

func gauge(fields ...string) schemas.Source {
	var b strings.Builder
	for i, f := range fields {
		if i > 0 {
			b.WriteByte(',')
		}
		fmt.Fprintf(&b, `%q:{"type":"number"}`, f)
	}
	return schemas.Source{Format: schemas.FormatJSONSchema, Text: `{"type":"object","properties":{` + b.String() + `}}`}
}

func open(t *testing.T, log events.Log) *Catalog {
	t.Helper()
	c, err := Open(t.Context(), log, quiet())
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func inMemory(t *testing.T) *memlog.Log {
	t.Helper()
	log := memlog.New(memlog.Options{})
	t.Cleanup(func() { log.Close() })
	return log
}

func inJetStream(t *testing.T) events.Log {
	t.Helper()
	s, err := server.NewServer(&server.Options{Host: "127.0.0.1", Port: server.RANDOM_PORT, JetStream: true, StoreDir: t.TempDir(), NoSigs: true})
	if err != nil {
		t.Fatal(err)
	}
	s.Start()
	t.Cleanup(func() { s.Shutdown(); s.WaitForShutdown() })
	if !s.ReadyForConnections(10 * time.Second) {
		t.Fatal("the server did not start")
	}
	connect := func() *nats.Conn {
		nc, err := nats.Connect(s.ClientURL())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(nc.Close)
		return nc
	}
	log, err := jetlog.Open(t.Context(), jetlog.Config{Publish: connect(), Read: connect(), Durability: jetlog.OS, Logger: quiet()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { log.Close() })
	return log
}

func bothLogs(t *testing.T, f func(*testing.T, events.Log)) {
	t.Run("memlog", func(t *testing.T) { f(t, inMemory(t)) })
	t.Run("jetlog", func(t *testing.T) { f(t, inJetStream(t)) })
}

func TestRegistersBuiltInsOnce(t *testing.T) {
	bothLogs(t, func(t *testing.T, log events.Log) {
		first := open(t, log)
		tail, err := log.Tail(t.Context(), events.ControlPartition)
		if err != nil {
			t.Fatal(err)
		}
		for _, named := range vehicle.Schemas() {
			if s, ok := first.Schemas().Current(named.Name); !ok || s.Version() != 1 || s.Source() != named.Source {
				t.Errorf("%s is not there", named.Name)
			}
		}
		second := open(t, log)
		again, err := log.Tail(t.Context(), events.ControlPartition)
		if err != nil || again != tail {
			t.Errorf("a second start appended: %s, then %s, %v", tail, again, err)
		}
		if got, want := len(second.Schemas().All()), len(first.Schemas().All()); got != want {
			t.Errorf("%d schemas, want %d", got, want)
		}
	})
}

func TestConcurrentStartsAndAdds(t *testing.T) {
	bothLogs(t, func(t *testing.T, log events.Log) {
		const processes = 4
		var (
			wg       sync.WaitGroup
			catalogs [processes]*Catalog
			changed  atomic.Int32
		)
		for i := range processes {
			wg.Go(func() {
				c, err := Open(t.Context(), log, quiet())
				if err != nil {
					t.Error(err)
					return
				}
				catalogs[i] = c
				// All grow one schema; they can follow each other in one order only.
				for n := range 5 {
					fields := []string{"a", "b", "c", "d", "e"}[:n+1]
					_, ok, err := c.Add(t.Context(), "gauge", gauge(fields...))
					if ok {
						changed.Add(1)
					}
					var incompatible *schemas.IncompatibleError
					if err != nil && !errors.As(err, &incompatible) {
						t.Error(err)
					}
				}
			})
		}
		wg.Wait()
		if t.Failed() {
			return
		}
		fresh := open(t, log)
		want := versions(fresh)
		for i, c := range catalogs {
			if err := c.catchUp(t.Context()); err != nil {
				t.Fatal(err)
			}
			if got := versions(c); got != want || c.Unusable() != 0 {
				t.Errorf("process %d has\n%s\na fresh one has\n%s", i, got, want)
			}
		}
	})
}

func versions(c *Catalog) string {
	var b strings.Builder
	for _, s := range c.Schemas().All() {
		for v := uint32(1); ; v++ {
			s, ok := c.Schemas().Version(s.Name(), v)
			if !ok {
				break
			}
			fmt.Fprintf(&b, "%s %d %x\n", s.Name(), v, len(s.Source().Text))
		}
	}
	return b.String()
}

func TestAdd(t *testing.T) {
	c := open(t, inMemory(t)) // Run is not running
	s, changed, err := c.Add(t.Context(), "gauge", gauge("a"))
	if err != nil || !changed || s.Version() != 1 {
		t.Fatal(s, changed, err)
	}
	if s, changed, err = c.Add(t.Context(), "gauge", gauge("a")); err != nil || changed || s.Version() != 1 {
		t.Fatal(s, changed, err)
	}
	if s, changed, err = c.Add(t.Context(), "gauge", gauge("a", "b")); err != nil || !changed || s.Version() != 2 {
		t.Fatal(s, changed, err)
	}
	var incompatible *schemas.IncompatibleError
	if _, _, err = c.Add(t.Context(), "gauge", schemas.Source{Format: schemas.FormatJSONSchema, Text: `{"type":"object","properties":{"a":{"type":"string"}}}`}); !errors.As(err, &incompatible) {
		t.Errorf("got %v", err)
	}
	var invalid *schemas.InvalidError
	if _, _, err = c.Add(t.Context(), "gauge", schemas.Source{Format: schemas.FormatProto, Text: `syntax =`}); !errors.As(err, &invalid) {
		t.Errorf("got %v", err)
	}
	if _, _, err = c.Add(t.Context(), "events", gauge("a")); err == nil {
		t.Error("a reserved name was taken")
	}
}

func TestAwaitAndRun(t *testing.T) {
	bothLogs(t, func(t *testing.T, log events.Log) {
		writer, reader := open(t, log), open(t, log)
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- reader.Run(ctx) }()
		got := make(chan error, 1)
		go func() {
			s, err := reader.Await(t.Context(), "gauge", 2)
			if err == nil && s.Version() != 2 {
				err = fmt.Errorf("version %d", s.Version())
			}
			got <- err
		}()
		for n := range 2 {
			if _, _, err := writer.Add(t.Context(), "gauge", gauge([]string{"a", "b"}[:n+1]...)); err != nil {
				t.Fatal(err)
			}
		}
		if err := <-got; err != nil {
			t.Error(err)
		}
		short, stop := context.WithTimeout(t.Context(), 20*time.Millisecond)
		defer stop()
		if _, err := reader.Await(short, "gauge", 3); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("got %v", err)
		}
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

// What a newer release registered stands still here; everything else goes on.
func TestUnusableRegistration(t *testing.T) {
	log := inMemory(t)
	c := open(t, log)
	if _, _, err := c.Add(t.Context(), "gauge", gauge("a")); err != nil {
		t.Fatal(err)
	}
	put := func(name, typ, payload string) {
		t.Helper()
		_, err := log.Append(t.Context(), events.Any, events.Event{
			Stream: events.Stream{Kind: events.SchemaKind, ID: name}, Type: typ, ID: events.UniqueID(), Payload: []byte(payload)})
		if err != nil {
			t.Fatal(err)
		}
	}
	put("gauge", typeRegistered, `{"version":2,"source":{"format":"avro","text":"?"}}`)
	put("gauge", typeRegistered, `{"version":3,"source":{"format":"json-schema","text":"{\"type\":\"object\",\"properties\":{\"a\":{\"type\":\"number\"},\"z\":{\"type\":\"number\"}}}"}}`)
	put("other", "sealed", `{}`)
	put("third", typeRegistered, `not JSON`)
	var logs strings.Builder
	fresh, err := Open(t.Context(), log, slog.New(slog.NewTextHandler(&logs, nil)))
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]*Catalog{"from the start": fresh, "as it went": c} {
		if err := c.catchUp(t.Context()); err != nil {
			t.Fatal(err)
		}
		if s, ok := c.Schemas().Current("gauge"); !ok || s.Version() != 1 {
			t.Errorf("%s: gauge is not at version 1", name)
		}
		if c.Unusable() != 4 {
			t.Errorf("%s: %d unusable, want 4", name, c.Unusable())
		}
		if _, _, err := c.Add(t.Context(), "gauge", gauge("a", "b")); !errors.Is(err, ErrUnusable) {
			t.Errorf("%s: got %v", name, err)
		}
		if _, _, err := c.Add(t.Context(), "fourth", gauge("a")); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	if !strings.Contains(logs.String(), "schema=gauge") {
		t.Error("not logged")
	}
}

// An older release must not put its built-in schema on top of a newer one.
func TestOlderReleaseLeavesNewerBuiltIns(t *testing.T) {
	log := inMemory(t)
	c := open(t, log)
	grown := vehicle.Schemas()[5].Source
	grown.Text = strings.Replace(grown.Text, "message Position {", "message Position {\n  optional double tilt = 77;", 1)
	if _, changed, err := c.Add(t.Context(), "position", grown); err != nil || !changed {
		t.Fatal(changed, err)
	}
	for range 2 {
		if s, _ := open(t, log).Schemas().Current("position"); s.Version() != 2 || s.Source() != grown {
			t.Errorf("version %d", s.Version())
		}
	}
}

// An append whose outcome is unknown is looked up before it is repeated.
func TestUnknownOutcome(t *testing.T) {
	for _, happened := range []bool{true, false} {
		var armed atomic.Bool
		log := memlog.New(memlog.Options{Fault: func(op string) error {
			if op != "append" || !armed.CompareAndSwap(true, false) {
				return nil
			}
			if happened {
				return fmt.Errorf("no answer: %w", events.ErrUnknown)
			}
			return fmt.Errorf("no answer: %w", events.ErrFull)
		}})
		t.Cleanup(func() { log.Close() })
		c := open(t, log)
		armed.Store(true)
		s, changed, err := c.Add(t.Context(), "gauge", gauge("a"))
		if happened && (err != nil || !changed || s.Version() != 1) || !happened && !errors.Is(err, events.ErrFull) {
			t.Errorf("happened %v: got %v %v", happened, changed, err)
		}
	}
}
