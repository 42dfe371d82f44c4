package openloop

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"net"
	"net/http"
	"net/http/httptest"
	"reflect"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

func TestScheduleIsSeededAndKeepsItsRate(t *testing.T) {
	p := Plan{Rate: 5000, Devices: 50, Duration: 10 * time.Second, Seed: 7}
	a, err := p.Schedule()
	if err != nil {
		t.Fatal(err)
	}
	b, err := p.Schedule()
	if err != nil || !reflect.DeepEqual(a, b) {
		t.Fatal("the same seed is another schedule", err)
	}
	total := 0
	for _, times := range a {
		total += len(times)
		for i := 1; i < len(times); i++ {
			if times[i]-times[i-1] < time.Millisecond {
				t.Fatal("two messages of a device in a millisecond")
			}
		}
	}
	if math.Abs(float64(total)-50_000) > 1500 { // 6 sigma of a Poisson process
		t.Fatalf("%d messages", total)
	}
	p.Seed = 8
	if c, err := p.Schedule(); err != nil || reflect.DeepEqual(a, c) {
		t.Fatal("another seed is the same schedule", err)
	}
	for _, bad := range []Plan{{}, {Rate: math.NaN(), Devices: 1, Duration: 1}, {Rate: 1e12, Devices: 1, Duration: time.Hour}} {
		if _, err := bad.Schedule(); err == nil {
			t.Errorf("%+v is a plan", bad)
		}
	}
}

type linkFunc func(context.Context, []byte) error

func (f linkFunc) Publish(ctx context.Context, p []byte) error { return f(ctx, p) }
func (linkFunc) Close()                                        {}

// A server that stalls for a while must show in the latencies of all that were
// due meanwhile, not only of those it held.
func TestLatencyCountsFromWhenAMessageWasDue(t *testing.T) {
	begin := time.Now()
	l := Load{
		Plan: Plan{Rate: 500, Devices: 1, Duration: 400 * time.Millisecond, Seed: 1}, Window: 1, Patience: 10 * time.Second,
		Dial: func(int) Link {
			return linkFunc(func(context.Context, []byte) error {
				time.Sleep(time.Until(begin.Add(300 * time.Millisecond)))
				return nil
			})
		},
		Acked: func(int, []byte) error { return nil },
	}
	r, err := l.Run(t.Context())
	if err != nil || r.Acknowledged != r.Offered || r.Unanswered != 0 || int(r.Latency.TotalCount()) != r.Offered {
		t.Fatal(r, err)
	}
	if p50 := r.Latency.ValueAtPercentile(50); p50 < 50_000 {
		t.Fatalf("median latency %d us", p50)
	}
}

func TestLossesAreCounted(t *testing.T) {
	var calls atomic.Int32
	l := Load{
		Plan: Plan{Rate: 1000, Devices: 3, Duration: 100 * time.Millisecond, Seed: 3}, Window: 4, Patience: 500 * time.Millisecond,
		Dial: func(device int) Link {
			return linkFunc(func(ctx context.Context, _ []byte) error {
				switch device {
				case 0:
					return fmt.Errorf("too large: %w", ErrRefused)
				case 1:
					<-ctx.Done()
					return ctx.Err()
				}
				if calls.Add(1) == 1 {
					return errors.New("connection reset")
				}
				return nil
			})
		},
	}
	var acked atomic.Int32
	l.Acked = func(int, []byte) error { acked.Add(1); return nil }
	r, err := l.Run(t.Context())
	due, _ := l.Plan.Schedule()
	if err != nil || r.Refused != len(due[0]) || r.Unanswered != len(due[1]) || r.Acknowledged != len(due[2]) || int(acked.Load()) != len(due[2]) || r.Again != 1 || r.Example == nil {
		t.Fatalf("%+v, %v", r, err)
	}
	l.Acked = func(int, []byte) error { return errors.New("disk full") }
	if _, err := l.Run(t.Context()); err == nil {
		t.Fatal("a ledger that cannot be written is no error")
	}
}

// The server answers the first connection's first message, takes the second
// without an answer and hangs up; what was not answered comes again.
func TestMQTTSendsAgainAfterALoss(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	var mu sync.Mutex
	var packets int
	go func() {
		for connection := 0; ; connection++ {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				b := make([]byte, 4096)
				_, _ = c.Read(b)
				_, _ = io.WriteString(c, "\x20\x02\x00\x00")
				for n := 0; ; n++ {
					_, err := c.Read(b) // window 1: one packet at a time
					if err != nil || b[0] != 0x32 || connection == 0 && n == 1 {
						return
					}
					mu.Lock()
					packets++
					mu.Unlock()
					at := 1 // after the fixed header
					for ; b[at]&0x80 != 0; at++ {
						continue
					}
					at += 3 + int(b[at+2]) // the topic is short
					_, _ = c.Write([]byte{0x40, 2, b[at], b[at+1]})
				}
			}()
		}
	}()
	load := Load{Plan: Plan{Rate: 100, Devices: 1, Duration: 200 * time.Millisecond, Seed: 5}, Window: 1, Patience: 5 * time.Second,
		Dial: func(int) Link {
			return &MQTT{Addr: l.Addr().String(), Device: "car-1", Token: "x", Topic: "telemetry/position"}
		},
		Acked: func(int, []byte) error { return nil }}
	r, err := load.Run(t.Context())
	mu.Lock()
	defer mu.Unlock()
	if err != nil || r.Again != 1 || r.Acknowledged != r.Offered || packets != r.Offered {
		t.Fatalf("%+v, %v, %d packets", r, err, packets)
	}
}

func TestHTTPTellsARefusalFromALoss(t *testing.T) {
	status := make(chan int, 1)
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") != "Bearer x" {
			t.Error("no token")
		}
		w.WriteHeader(<-status)
	}))
	defer s.Close()
	h := &HTTP{Client: s.Client(), URL: s.URL, Token: "x"}
	for code, want := range map[int]string{202: "fine", 422: "refused", 401: "refused", 429: "again", 503: "again"} {
		status <- code
		err := h.Publish(t.Context(), []byte("{}"))
		got := "again"
		if err == nil {
			got = "fine"
		} else if errors.Is(err, ErrRefused) {
			got = "refused"
		}
		if got != want {
			t.Errorf("%d: %s, %v", code, got, err)
		}
	}
}
