// Package openloop sends messages when their time has come, whether or not
// earlier ones were answered, as a fleet does. A latency counts from the time a
// message was due, so a server that stalls cannot hide it by keeping the client
// waiting.
package openloop

import (
	"fmt"
	"math/rand/v2"
	"time"
)

// A Plan is when which device sends. The same plan is the same schedule.
type Plan struct {
	Rate     float64 // messages a second of all devices together
	Devices  int
	Duration time.Duration
	Seed     uint64
}

// most messages a plan may have; each is a due time in memory.
const most = 50_000_000

// Schedule returns for each device when its messages are due, counted from the
// start: a Poisson process, as of many devices that know nothing of each other.
// A device's times differ by a millisecond at least, so they can be the times
// of its messages.
func (p Plan) Schedule() ([][]time.Duration, error) {
	if !(p.Rate > 0) || p.Devices < 1 || p.Duration <= 0 || p.Rate*p.Duration.Seconds() > most {
		return nil, fmt.Errorf("schedule: %v messages a second of %d devices for %s; at most %d messages", p.Rate, p.Devices, p.Duration, most)
	}
	rng := rand.New(rand.NewPCG(p.Seed, 0x7461636f)) // the second half is any constant
	due := make([][]time.Duration, p.Devices)
	for at := 0.0; ; {
		at += rng.ExpFloat64() / p.Rate
		d := rng.IntN(p.Devices)
		t := time.Duration(at * float64(time.Second))
		if t >= p.Duration {
			return due, nil
		}
		if n := len(due[d]); n > 0 {
			t = max(t, due[d][n-1]+time.Millisecond)
		}
		due[d] = append(due[d], t)
	}
}
