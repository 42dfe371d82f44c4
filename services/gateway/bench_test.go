package gateway_test

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"sync"
	"syscall"
	"testing"
	"time"

	mochi "github.com/mochi-mqtt/server/v2/packets"

	"github.com/tachograph/tachograph/events"
	"github.com/tachograph/tachograph/events/jetlog"
	"github.com/tachograph/tachograph/services/gateway"
	"github.com/tachograph/tachograph/services/gateway/gatewaytest"
)

// A nullLog stores no telemetry and answers at once, or, like a group commit, in
// batches: what is measured over it is the gateway alone.
type nullLog struct {
	events.Log
	queue chan func(error)
}

func newNullLog(b testing.TB, batched bool) *nullLog {
	l := &nullLog{Log: newMemlog(b)}
	if batched {
		l.queue = make(chan func(error), 32768)
		var ended sync.WaitGroup
		ended.Go(func() {
			for done := range l.queue {
				time.Sleep(500 * time.Microsecond) // a commit
				done(nil)
				for n := len(l.queue); n > 0; n-- {
					(<-l.queue)(nil)
				}
			}
		})
		b.Cleanup(func() { close(l.queue); ended.Wait() })
	}
	return l
}

func (l *nullLog) Enqueue(_ context.Context, _ events.Event, done func(error)) error {
	if l.queue != nil {
		l.queue <- done
	} else {
		done(nil)
	}
	return nil
}

var fullPosition = `{"time":1700000000000,"latitude":30.267153,"longitude":-97.743061,"altitude":149.5,"heading":271.5,"speed":48.3,"is_moving":true}`

func BenchmarkAccept(b *testing.B) {
	for _, c := range []struct{ name, typ, id, payload string }{
		{"position", "position", "", fullPosition},
		{"position-own-id", "position", "boot-7_42", fullPosition},
		{"no-schema", "unheard_of", "", fullPosition},
	} {
		b.Run(c.name, func(b *testing.B) {
			f := gatewaytest.Start(b, newNullLog(b, false), gateway.Limits{MessagesPerSecond: 1e12, BytesPerSecond: 1e15})
			sender, payload, done := f.Sender("car-1"), []byte(c.payload), func(error) {}
			b.SetBytes(int64(len(payload)))
			b.ReportAllocs()
			var m gateway.Message
			for b.Loop() {
				m = gateway.Message{Sender: sender, Type: c.typ, ID: c.id, Payload: payload, Patient: true}
				if err := f.Accept(b.Context(), &m, done); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// BenchmarkMQTT measures the whole front over loopback, clients included: over a
// log that is a group commit of half a millisecond and stores nothing, then over
// JetStream, server included.
func BenchmarkMQTT(b *testing.B) {
	null := func(b *testing.B) events.Log { return newNullLog(b, true) }
	jet := func(d jetlog.Durability) func(*testing.B) events.Log {
		return func(b *testing.B) events.Log { return gatewaytest.JetLog(b, d, 0) }
	}
	for _, c := range []struct {
		log                 string
		open                func(*testing.B) events.Log
		connections, window int
		version, qos        byte
	}{
		{"null", null, 100, 20, 4, 1}, {"null", null, 100, 20, 5, 1}, {"null", null, 1000, 1, 4, 1}, {"null", null, 100, 20, 4, 2}, {"null", null, 100, 20, 4, 0},
		{"os", jet(jetlog.OS), 100, 20, 4, 1}, {"disk", jet(jetlog.Disk), 100, 20, 4, 1}, {"os", jet(jetlog.OS), 1000, 1, 4, 1}, {"disk", jet(jetlog.Disk), 1000, 1, 4, 1},
	} {
		b.Run(fmt.Sprintf("%s/v%d-qos%d-%dx%d", c.log, c.version, c.qos, c.connections, c.window), func(b *testing.B) {
			f := gatewaytest.Start(b, c.open(b), gateway.Limits{MessagesPerSecond: 1e12, BytesPerSecond: 1e15, ConnectionsPerSecond: 1e9})
			clients := make([]*raw, c.connections)
			for i := range clients {
				device := fmt.Sprint("car-", i)
				clients[i] = connected(b, f, c.version, device, f.Add(b, device))
			}
			each := b.N/c.connections + 1
			b.SetBytes(int64(len(fullPosition)))
			before := cpuTime()
			b.ResetTimer()
			var wg sync.WaitGroup
			for _, r := range clients {
				wg.Go(func() {
					if err := flood(b, r, c.qos, c.window, each); err != nil {
						b.Error(err)
					}
				})
			}
			wg.Wait()
			b.StopTimer()
			n := float64(each * c.connections)
			b.ReportMetric(n/b.Elapsed().Seconds(), "msg/s")
			b.ReportMetric(float64((cpuTime()-before).Nanoseconds())/n/1e3, "cpu-µs/msg")
		})
	}
}

func cpuTime() time.Duration {
	var u syscall.Rusage
	_ = syscall.Getrusage(syscall.RUSAGE_SELF, &u)
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// flood sends n messages, window of them on their way, in as few writes as the
// acknowledgements allow.
func flood(t testing.TB, r *raw, qos byte, window, n int) error {
	one := encode(t, publish(qos, 1, "telemetry/position", fullPosition), r.version)
	idAt := 2 + 2 + len("telemetry/position")
	if len(one) > 129 {
		idAt++
	}
	in := bufio.NewReaderSize(r.nc, 4096)
	var out []byte
	sent, acked := 0, 0
	push := func() {
		out = append(out, one...)
		if qos > 0 {
			id := sent%60000 + 1
			at := len(out) - len(one) + idAt
			out[at], out[at+1] = byte(id>>8), byte(id)
		}
		sent++
	}
	for acked < n {
		for sent < n && sent-acked < window {
			push()
			if qos == 0 {
				acked++
			}
		}
		if len(out) > 0 {
			if _, err := r.nc.Write(out); err != nil {
				return err
			}
			out = out[:0]
		}
		if qos == 0 {
			continue
		}
		for first := true; first || in.Buffered() >= 4; first = false {
			var ack [4]byte
			if _, err := io.ReadFull(in, ack[:]); err != nil {
				return err
			}
			switch ack[0] >> 4 {
			case mochi.Puback, mochi.Pubcomp:
				acked++
			case mochi.Pubrec:
				out = append(out, 0x62, 2, ack[2], ack[3])
			default:
				return fmt.Errorf("packet %x", ack)
			}
		}
	}
	if qos == 0 { // all were read when this is answered
		if _, err := r.nc.Write([]byte{0xC0, 0}); err != nil {
			return err
		}
		var pong [2]byte
		_, err := io.ReadFull(in, pong[:])
		return err
	}
	return nil
}
