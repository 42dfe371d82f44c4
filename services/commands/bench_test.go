package commands_test

import (
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	mqtt "github.com/eclipse/paho.mqtt.golang"

	"github.com/tachograph/tachograph/events/jetlog"
	"github.com/tachograph/tachograph/projections/command"
	"github.com/tachograph/tachograph/services/commands"
	"github.com/tachograph/tachograph/services/gateway/gatewaytest"
)

// BenchmarkRoundTrip is from Queue to the device and its answer to whom waits,
// with the log synced to disk, beside a bare QoS 1 message of the same device
// through the same gateway.
func BenchmarkRoundTrip(b *testing.B) {
	s := start(b, gatewaytest.JetLog(b, jetlog.Disk, 0), commands.Limits{})
	car := s.connect("car-1", s.gw.Add(b, "car-1"), func(o *mqtt.ClientOptions) {
		o.SetOrderMatters(false).SetDefaultPublishHandler(func(c mqtt.Client, m mqtt.Message) {
			c.Publish(m.Topic()+"/answer", 1, false, `{"state":"succeeded"}`)
		})
	})
	b.Run("bare", func(b *testing.B) {
		var took []time.Duration
		for b.Loop() {
			began := time.Now()
			car.wait(car.Publish("telemetry/position", 1, false, `{"latitude":52.5}`))
			took = append(took, time.Since(began))
		}
		report(b, took)
	})
	b.Run("command", func(b *testing.B) {
		var took []time.Duration
		for b.Loop() {
			began := time.Now()
			v := s.queue(order("car-1", command.NowOrNever))
			for got, err := range s.Watch(b.Context(), "car-1", v.Order.ID) {
				if err != nil {
					b.Fatal(err)
				}
				v = got
			}
			if v.State != command.Succeeded {
				b.Fatal(steps(v))
			}
			took = append(took, time.Since(began))
		}
		report(b, took)
	})
}

// BenchmarkSustained has 64 cars obey as fast as they are told.
func BenchmarkSustained(b *testing.B) {
	s := start(b, gatewaytest.JetLog(b, jetlog.Disk, 0), commands.Limits{})
	const cars = 64
	for i := range cars {
		name := fmt.Sprintf("car-%d", i)
		s.connect(name, s.gw.Add(b, name), func(o *mqtt.ClientOptions) {
			o.SetOrderMatters(false).SetDefaultPublishHandler(func(c mqtt.Client, m mqtt.Message) {
				c.Publish(m.Topic()+"/answer", 1, false, `{"state":"succeeded"}`)
			})
		})
	}
	began, n := time.Now(), 0
	for b.Loop() {
		var work sync.WaitGroup
		for i := range cars {
			work.Go(func() {
				device := fmt.Sprintf("car-%d", i)
				v, err := s.Queue(b.Context(), order(device, command.UntilDeadline))
				if err != nil {
					b.Error(err)
					return
				}
				for _, err := range s.Watch(b.Context(), device, v.Order.ID) {
					if err != nil {
						b.Error(err)
					}
				}
			})
		}
		work.Wait()
		n += cars
	}
	b.ReportMetric(float64(n)/time.Since(began).Seconds(), "commands/s")
}

func report(b *testing.B, took []time.Duration) {
	slices.Sort(took)
	for name, q := range map[string]float64{"p50-us": 0.5, "p99-us": 0.99} {
		b.ReportMetric(float64(took[int(q*float64(len(took)-1))].Microseconds()), name)
	}
}
