package fleet

import (
	"context"
	"encoding/json"
	"errors"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// A fakeLink answers each message after a while, one after the other.
type fakeLink struct {
	ear     ear
	work    chan int
	service func(n int) (wait time.Duration, refusal string, err error) // of the n-th message
	over    chan struct{}
	wg      sync.WaitGroup
}

func fake(service func(n int) (time.Duration, string, error)) func(context.Context, string, ear) (link, error) {
	n := 0
	return func(_ context.Context, _ string, e ear) (link, error) {
		l := &fakeLink{ear: e, work: make(chan int, 10_000), service: service, over: make(chan struct{})}
		l.wg.Go(func() {
			for {
				select {
				case slot := <-l.work:
					n++
					wait, refusal, err := l.service(n)
					select {
					case <-time.After(wait):
					case <-l.over:
						return
					}
					if err != nil {
						l.ear.broken(err)
						return
					}
					l.ear.acknowledged(slot, refusal)
					l.ear.free(slot)
				case <-l.over:
					return
				}
			}
		})
		return l, nil
	}
}

func (l *fakeLink) send(slot int, _ []byte) error { l.work <- slot; return nil }
func (l *fakeLink) flush() error                  { return nil }
func (l *fakeLink) close()                        { close(l.over); l.wg.Wait() }

func oneCar() *Load {
	return &Load{Protocol: "mqtt", QoS: 1, Cars: 1, Rate: 100, Duration: 10 * time.Second, Window: 4, Seed: 1, Patience: 5 * time.Second}
}

// TestAStallIsNotOmitted: a node that answers in 1 ms but once stalls for two
// seconds delays all that fell due meanwhile. A client that waits for answers
// before it sends would see one slow message.
func TestAStallIsNotOmitted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := oneCar()
		r, err := l.run(t.Context(), []string{"car-1"}, fake(func(n int) (time.Duration, string, error) {
			if n == 300 {
				return 2 * time.Second, "", nil
			}
			return time.Millisecond, "", nil
		}))
		if err != nil {
			t.Fatal(err)
		}
		if r.Offered < 900 || r.Offered > 1100 || r.Acknowledged != r.Offered || r.Sent != r.Offered || int(r.Offered) != len(r.Entries) {
			t.Fatal(r)
		}
		// About 200 of 1,000 fell due within the stall, evenly.
		if p50, p90, most := r.Latency.At(50), r.Latency.At(90), r.Latency.Max(); p50 > 5*time.Millisecond || p90 < 700*time.Millisecond || most < 1990*time.Millisecond {
			t.Fatalf("p50 %s, p90 %s, max %s", p50, p90, most)
		}
	})
}

// TestArrivalsDoNotWait: a node that answers nothing still is offered as many.
func TestArrivalsDoNotWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := oneCar()
		r, err := l.run(t.Context(), []string{"car-1"}, fake(func(int) (time.Duration, string, error) { return time.Hour, "", nil }))
		if err != nil {
			t.Fatal(err)
		}
		if r.Offered < 900 || r.Sent != 4 || r.Unanswered != 4 || r.Unsent != r.Offered-4 || r.Acknowledged != 0 || r.Elapsed != 15*time.Second {
			t.Fatal(r)
		}
	})
}

func TestRefusalsAndLostConnectionsAreCounted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := oneCar()
		r, err := l.run(t.Context(), []string{"car-1"}, fake(func(n int) (time.Duration, string, error) {
			switch {
			case n == 100 || n == 200:
				return 0, "", errors.New("reset by peer")
			case n%10 == 5:
				return 0, "reason code 0x99", nil
			}
			return 0, "", nil
		}))
		if err != nil {
			t.Fatal(err)
		}
		if r.Disconnects != 2 || r.Again < 2 || r.Again > 8 || r.Unanswered != 0 || r.Refused < 80 || r.Refusals["reason code 0x99"] != r.Refused || len(r.Failures) != 1 ||
			r.Acknowledged+r.Refused+r.Unanswered != r.Sent || r.Sent != r.Offered {
			t.Fatal(r)
		}
	})
}

func TestAnAnswerToNothingEndsTheLink(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := oneCar()
		l.Duration = time.Second
		open := fake(func(int) (time.Duration, string, error) { return 0, "", nil })
		r, err := l.run(t.Context(), []string{"car-1"}, func(ctx context.Context, car string, e ear) (link, error) {
			made, err := open(ctx, car, e)
			e.acknowledged(3, "")
			e.free(7)
			return made, err
		})
		if err != nil || r.Disconnects == 0 || !strings.Contains(r.Failures[0], "answer to nothing") {
			t.Fatal(r, err)
		}
	})
}

func TestACarThatCannotConnectIsAnError(t *testing.T) {
	refused := errors.New("refused")
	_, err := oneCar().run(t.Context(), []string{"car-1", "car-2"}, func(context.Context, string, ear) (link, error) { return nil, refused })
	if !errors.Is(err, refused) {
		t.Fatal(err)
	}
}

func TestTheSameSeedIsTheSameLoad(t *testing.T) {
	now := time.UnixMilli(1_800_000_000_000)
	for car := range 3 {
		a, b, c := newArrivals(5, car, 10), newArrivals(5, car, 10), newArrivals(6, car, 10)
		x, y := newSignals(5, car, 200), newSignals(5, car, 200)
		var other bool
		for range 100 {
			at := a.next()
			if at != b.next() || string(x.payload(now.Add(at))) != string(y.payload(now.Add(at))) {
				t.Fatal("the same seed, another load")
			}
			other = other || at != c.next()
		}
		if !other {
			t.Fatal("another seed, the same load")
		}
	}
}

func TestArrivalsHaveTheRate(t *testing.T) {
	a := newArrivals(1, 0, 1000)
	n := 0
	for a.next() < 100*time.Second {
		n++
	}
	if math.Abs(float64(n)-100_000) > 4*math.Sqrt(100_000) {
		t.Fatalf("%d arrivals in 100 s at 1000/s", n)
	}
}

// TestSignals: every message is valid, has the asked size and its own time.
func TestSignals(t *testing.T) {
	s := newSignals(1, 0, 300)
	now := time.UnixMilli(1_800_000_000_000)
	last := 0.0
	for range 1000 {
		b := s.payload(now)
		var m map[string]any
		if err := json.Unmarshal(b, &m); err != nil || len(b) != 300 {
			t.Fatalf("%d bytes: %s: %v", len(b), b, err)
		}
		if at := m["time"].(float64); at <= last {
			t.Fatal("a time came twice")
		} else {
			last = at
		}
		if lat, speed := m["latitude"].(float64), m["speed"].(float64); lat < 51 || lat > 54 || speed < 0 || speed > 180 {
			t.Fatalf("%s", b)
		}
	}
}

func TestLatency(t *testing.T) {
	l := NewLatency()
	r := rand.New(rand.NewPCG(1, 1))
	var all []time.Duration
	for range 10_000 {
		d := time.Duration(r.ExpFloat64() * float64(20*time.Millisecond))
		all = append(all, d)
		l.Add(d)
	}
	slices.Sort(all)
	for _, percent := range []float64{50, 90, 99, 99.9} {
		want, got := all[int(percent/100*float64(len(all)))-1], l.At(percent)
		if diff := (got - want).Abs(); diff > want/500+2*time.Microsecond {
			t.Errorf("p%v is %s, want %s", percent, got, want)
		}
	}
	l.Add(time.Hour)
	l.Add(-time.Second)
	if most := l.Max(); most < longest-time.Second || most > longest+time.Second {
		t.Error(most)
	}
}

func TestValidateNamesAllThatIsWrong(t *testing.T) {
	err := (&Load{Protocol: "amqp", QoS: 3, Rate: math.NaN(), Bytes: -1}).Validate()
	for _, word := range []string{"protocol", "qos", "cars", "rate", "duration", "window", "bytes", "patience"} {
		if err == nil || !strings.Contains(err.Error(), word) {
			t.Errorf("%s is not in: %v", word, err)
		}
	}
	if err := oneCar().Validate(); err != nil {
		t.Error(err)
	}
}
