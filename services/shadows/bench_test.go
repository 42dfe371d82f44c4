package shadows_test

import (
	"encoding/json"
	"fmt"
	"runtime"
	"slices"
	"sync"
	"testing"
	"time"

	mqtt "github.com/eclipse/paho.mqtt.golang"

	"github.com/tachograph/tachograph/events"
	"github.com/tachograph/tachograph/events/jetlog"
	"github.com/tachograph/tachograph/projections/shadow"
	"github.com/tachograph/tachograph/services/gateway/gatewaytest"
	"github.com/tachograph/tachograph/services/shadows"
)

// BenchmarkUpdate measures, in one run on one log, updates by MQTT (from the
// publish until update/accepted is heard), each of 50 devices waiting for its
// answer before its next update, beside 50 writers that append the same facts
// bare at the expected sequence.
func BenchmarkUpdate(b *testing.B) {
	const devices = 50
	for name, durability := range map[string]jetlog.Durability{"disk": jetlog.Disk, "os": jetlog.OS} {
		b.Run(name, func(b *testing.B) {
			log := gatewaytest.JetLog(b, durability, 0)
			s := start(b, log, shadows.Limits{})
			cars := make([]*car, devices)
			for i := range cars {
				id := fmt.Sprintf("car-%d", i)
				cars[i] = s.connectQuiet(id, s.gw.Add(b, id), "shadow/update/accepted")
			}
			payload := func(n int) string {
				return fmt.Sprintf(`{"state":{"reported":{"locked":true,"interval":%d}}}`, n)
			}
			each := max(1, b.N/devices)
			times := make([][]time.Duration, devices)
			all := func(f func(i int)) time.Duration {
				began := time.Now()
				var wg sync.WaitGroup
				for i := range devices {
					wg.Go(func() { f(i) })
				}
				wg.Wait()
				return time.Since(began)
			}
			b.ResetTimer()
			byMQTT := all(func(i int) {
				for n := range each {
					began := time.Now()
					cars[i].Publish("shadow/update", 1, false, payload(n))
					<-cars[i].heard
					times[i] = append(times[i], time.Since(began))
				}
			})
			b.StopTimer()
			bare := all(func(i int) {
				stream := events.Stream{Kind: events.Shadow, ID: fmt.Sprintf("bare-%d", i)}
				last := uint64(0)
				for n := range each {
					pos, err := log.Append(b.Context(), events.At(last), events.Event{Stream: stream, Type: shadow.TypeUpdated, ID: events.UniqueID(),
						Payload: fmt.Appendf(nil, `{"version":%d,"at":1,"by":"device","reported":{"locked":true,"interval":%d}}`, n+1, n)})
					if err != nil {
						b.Error(err)
						return
					}
					last = pos.Seq
				}
			})
			sorted := slices.Sorted(slices.Values(slices.Concat(times...)))
			done := float64(each * devices)
			b.ReportMetric(done/byMQTT.Seconds(), "updates/s")
			b.ReportMetric(bare.Seconds()/byMQTT.Seconds(), "of-bare-append")
			b.ReportMetric(float64(sorted[len(sorted)/2].Microseconds())/1000, "p50-ms")
			b.ReportMetric(float64(sorted[len(sorted)*99/100].Microseconds())/1000, "p99-ms")
		})
	}
}

// BenchmarkRebuild folds 100,000 shadows from the log.
func BenchmarkRebuild(b *testing.B) {
	const fleet = 100_000
	log := gatewaytest.JetLog(b, jetlog.Fast, 0)
	var wg sync.WaitGroup
	for w := range 64 {
		wg.Go(func() {
			for i := w; i < fleet; i += 64 {
				stream := events.Stream{Kind: events.Shadow, ID: fmt.Sprintf("car-%d", i)}
				_, err := log.Append(b.Context(), events.Fresh, events.Event{Stream: stream, Type: shadow.TypeUpdated, ID: events.UniqueID(), Payload: fmt.Appendf(nil,
					`{"version":1,"at":1700000000000,"by":"admin","desired":{"interval":%d,"climate":{"target":21.5,"on":true},"geofence":[52.5,13.4,52.6,13.5]},"reported":{"firmware":"1.2.%d"}}`, i%60, i%7)})
				if err != nil {
					b.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
	before := heap()
	var s *shadows.Shadows
	b.ResetTimer()
	for b.Loop() {
		s = open(b, log, shadows.Limits{})
	}
	b.ReportMetric(fleet*float64(b.N)/b.Elapsed().Seconds(), "events/s")
	b.ReportMetric(float64(heap()-before)/fleet, "B/shadow")
	runtime.KeepAlive(s)
}

func heap() uint64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

// connectQuiet connects a device that counts what it hears and no more.
func (s *site) connectQuiet(device, token, filter string) *car {
	s.t.Helper()
	c := &car{t: s.t, heard: make(chan heard, 100)}
	c.Client = mqtt.NewClient(mqtt.NewClientOptions().AddBroker("tcp://" + s.gw.MQTT).SetClientID(device).SetUsername(device).SetPassword(token).
		SetDefaultPublishHandler(func(_ mqtt.Client, m mqtt.Message) {
			if !json.Valid(m.Payload()) {
				s.t.Errorf("%s: %s", m.Topic(), m.Payload())
			}
			c.heard <- heard{}
		}))
	c.wait(c.Connect())
	c.wait(c.Subscribe(filter, 1, nil))
	return c
}
