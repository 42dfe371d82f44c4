//go:build !race

package gateway_test

import (
	"fmt"
	"runtime"
	"testing"

	"github.com/tachograph/tachograph/services/gateway"
	"github.com/tachograph/tachograph/services/gateway/gatewaytest"
)

// The race detector has pools forget on purpose, so budgets hold without it.

// The hot path's budget: the id; for a type that nobody registered also what
// looking for its time costs.
func TestAcceptAllocations(t *testing.T) {
	f := gatewaytest.Start(t, newNullLog(t, false), gateway.Limits{MessagesPerSecond: 1e12, BytesPerSecond: 1e15})
	sender, payload, done := f.Sender("car-1"), []byte(fullPosition), func(error) {}
	var m gateway.Message
	for _, c := range []struct {
		typ, id string
		most    float64
	}{{"position", "", 1}, {"position", "boot-7_42", 0}, {"unheard_of", "", 4}} {
		if n := testing.AllocsPerRun(1000, func() {
			m = gateway.Message{Sender: sender, Type: c.typ, ID: c.id, Payload: payload, Patient: true}
			if err := f.Accept(t.Context(), &m, done); err != nil {
				t.Fatal(err)
			}
		}); n > c.most {
			t.Errorf("%+v: %v allocations a message", c, n)
		}
	}
}

// What an idle connection costs us, clients in the same process included.
func TestIdleConnectionIsCheap(t *testing.T) {
	const n = 500
	f := gatewaytest.Start(t, newMemlog(t), gateway.Limits{ConnectionsPerSecond: 1e9, MaxConnectionsPerDevice: n})
	token := f.Add(t, "car-1")
	before := memoryInUse()
	for i := range n {
		r := connected(t, f, 4, "car-1", token, clientID(fmt.Sprint(i)))
		r.in = nil
	}
	each := (memoryInUse() - before) / n
	t.Logf("%d bytes a connection", each)
	if each > 24<<10 {
		t.Errorf("%d bytes a connection", each)
	}
}

func memoryInUse() int {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int(m.HeapAlloc + m.StackInuse)
}
