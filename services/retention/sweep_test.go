package retention

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// TestSweep: after a sweep every key has its value, or is deleted, as before, and
// can be changed by who has read its revision.
func TestSweep(t *testing.T) {
	s, err := server.NewServer(&server.Options{Host: "127.0.0.1", Port: -1, JetStream: true, StoreDir: t.TempDir(), NoLog: true, NoSigs: true})
	if err != nil {
		t.Fatal(err)
	}
	s.Start()
	t.Cleanup(func() { s.Shutdown(); s.WaitForShutdown() })
	if !s.ReadyForConnections(20 * time.Second) {
		t.Fatal("nats-server is not ready")
	}
	nc, err := nats.Connect(s.ClientURL())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	kv, err := js.CreateKeyValue(t.Context(), jetstream.KeyValueConfig{Bucket: "latest"})
	if err != nil {
		t.Fatal(err)
	}
	for round := range 3 {
		for i := range 5 {
			if _, err := kv.Put(t.Context(), fmt.Sprint("car-", i), fmt.Append(nil, round*10+i)); err != nil {
				t.Fatal(err)
			}
		}
		if err := kv.Delete(t.Context(), "car-4"); err != nil {
			t.Fatal(err)
		}
		for range 2 {
			if err := Sweep(t.Context(), js, "latest"); err != nil {
				t.Fatal(err)
			}
		}
		for i := range 4 {
			key := fmt.Sprint("car-", i)
			e, err := kv.Get(t.Context(), key)
			if err != nil || string(e.Value()) != fmt.Sprint(round*10+i) {
				t.Fatalf("%s is %v, %v", key, e, err)
			}
			if _, err := kv.Update(t.Context(), key, e.Value(), e.Revision()); err != nil {
				t.Errorf("round %d: %s cannot be changed: %v", round, key, err)
			}
		}
		if _, err := kv.Get(t.Context(), "car-4"); !errors.Is(err, jetstream.ErrKeyNotFound) {
			t.Errorf("what was deleted: %v", err)
		}
	}
}
