package commands_test

import (
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	mqtt "github.com/eclipse/paho.mqtt.golang"

	"github.com/tachograph/tachograph/events"
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

// BenchmarkListAt: the list at a moment, of a device that had 700 commands of three
// steps, in the log beside another that had 1,300.
func BenchmarkListAt(b *testing.B) {
	log := jetLog(b)
	for device, n := range map[string]int{"car-1": 700, "car-2": 1300} {
		fill(b, log, device, n)
	}
	c, err := commands.Open(b.Context(), commands.Config{Log: log})
	if err != nil {
		b.Fatal(err)
	}
	now := time.Now()
	for b.Loop() {
		list, _, err := c.ListAt(b.Context(), "car-1", now, 100)
		if err != nil || len(list) != 100 || list[0].State != command.Succeeded {
			b.Fatal(len(list), err)
		}
	}
}

// fill appends lives of n commands of a device.
func fill(b *testing.B, log events.Log, device string, n int) {
	b.Helper()
	var work sync.WaitGroup
	for w := range 32 {
		work.Go(func() {
			for i := w; i < n; i += 32 {
				id, at := events.UniqueID(), time.Now().UnixMilli()
				var c command.Command
				var evs []events.Event
				for _, step := range []func() (command.Fact, error){
					func() (command.Fact, error) {
						return c.Queue(command.Order{ID: id, Device: device, Name: "unlock", Policy: command.UntilDeadline, Deadline: at + 1000, AnswerBy: at + 2000}, at, "operator")
					},
					func() (command.Fact, error) { return c.Send(at) },
					func() (command.Fact, error) { return c.Answer(command.Answer{State: command.Succeeded}, at) },
				} {
					f, err := step()
					payload, rendered := f.Payload()
					if err != nil || rendered != nil {
						b.Error(err, rendered)
						return
					}
					c.Evolve(f)
					evs = append(evs, events.Event{Stream: events.Stream{Kind: events.Command, ID: device, Name: id}, Type: f.Type, ID: events.UniqueID(), Payload: payload})
				}
				if _, err := log.Append(b.Context(), events.At(0), evs...); err != nil {
					b.Error(err)
					return
				}
			}
		})
	}
	work.Wait()
}
