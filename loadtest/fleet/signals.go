package fleet

import (
	"math"
	"math/rand/v2"
	"strconv"
	"time"
)

// signals are what a simulated car measures: it drives on, turns now and then
// and changes its speed, from a seed.
type signals struct {
	rng                      *rand.Rand
	latitude, longitude      float64 // degrees
	speed, heading, altitude float64 // km/h, degrees, m
	time                     int64   // of the newest message, ms
	size                     int
	buf                      []byte
}

func newSignals(seed uint64, car, size int) *signals {
	r := rand.New(rand.NewPCG(^seed, uint64(car)))
	return &signals{rng: r, latitude: 52 + r.Float64(), longitude: 13 + r.Float64(), speed: 50, heading: 360 * r.Float64(), altitude: 34, size: size}
}

// payload renders the car's next message of type position, of at least size
// bytes: a longer one carries a field that the schema does not know. No two
// messages of a car have the same time, so none can be taken for another. It
// is valid until the next call.
func (s *signals) payload(now time.Time) []byte {
	passed := s.time
	s.time = max(now.UnixMilli(), s.time+1)
	if passed > 0 {
		km := s.speed * float64(s.time-passed) / 3.6e6
		s.latitude += km / 111 * math.Cos(s.heading*math.Pi/180)
		s.longitude += km / 68 * math.Sin(s.heading*math.Pi/180)
	}
	s.heading = math.Mod(s.heading+10*s.rng.NormFloat64()+360, 360)
	s.speed = min(max(s.speed+3*s.rng.NormFloat64(), 0), 180)
	b := append(s.buf[:0], `{"time":`...)
	b = strconv.AppendInt(b, s.time, 10)
	for _, f := range []struct {
		name   string
		value  float64
		digits int
	}{{"latitude", s.latitude, 6}, {"longitude", s.longitude, 6}, {"altitude", s.altitude, 1}, {"heading", s.heading, 2}, {"speed", s.speed, 2}} {
		b = append(append(append(b, `,"`...), f.name...), `":`...)
		b = strconv.AppendFloat(b, f.value, 'f', f.digits, 64)
	}
	const pad = `,"pad":"`
	if missing := s.size - len(b) - len(pad) - len(`"}`); missing >= 0 {
		b = append(b, pad...)
		for range missing {
			b = append(b, 'x')
		}
		b = append(b, '"')
	}
	s.buf = append(b, '}')
	return s.buf
}
