package fleet

import (
	"math/rand/v2"
	"time"
)

// arrivals are the moments at which one car has something to say: a Poisson
// process, which does not wait for anybody's answers. The same seed and car
// give the same moments.
type arrivals struct {
	rng  *rand.Rand
	mean float64 // nanoseconds between two
	at   float64
}

func newArrivals(seed uint64, car int, perSecond float64) *arrivals {
	return &arrivals{rng: rand.New(rand.NewPCG(seed, uint64(car))), mean: float64(time.Second) / perSecond}
}

// next is the next moment, counted from the start of the load.
func (a *arrivals) next() time.Duration {
	a.at += a.rng.ExpFloat64() * a.mean
	return time.Duration(a.at)
}
