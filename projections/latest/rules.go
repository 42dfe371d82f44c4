package latest

import (
	"math"
	"time"
)

// Rules say which of a device's times are believed. The zero value of a field
// means its default. They are part of the fold: a view that was folded by other
// rules is not the same view.
type Rules struct {
	Tolerance time.Duration // how far a device's clock may be ahead of the arrival; default 5 minutes
	Oldest    time.Time     // no device measured anything before; default 2010-01-01

	// Until leaves out what a device measured later, for a look at the past by the
	// device's clock. Zero: nothing is left out.
	Until time.Time
}

// The defaults.
const DefaultTolerance = 5 * time.Minute

func (r Rules) complete() Rules {
	if r.Tolerance == 0 {
		r.Tolerance = DefaultTolerance
	}
	if r.Oldest.IsZero() {
		r.Oldest = time.Date(2010, 1, 1, 0, 0, 0, 0, time.UTC)
	}
	return r
}

// bounds are Rules in microseconds.
type bounds struct{ tolerance, oldest, until int64 }

func (r Rules) bounds() bounds {
	r = r.complete()
	until := int64(math.MaxInt64)
	if !r.Until.IsZero() {
		until = r.Until.UnixMicro()
	}
	return bounds{r.Tolerance.Microseconds(), r.Oldest.UnixMicro(), until}
}

// judge returns the time to order a sample by, in microseconds, and why it is
// not its own.
func (b bounds) judge(device, received int64) (order int64, flag Flag) {
	switch {
	case device > received+b.tolerance:
		return received, Future
	case device < b.oldest && device < received:
		return received, Ancient
	}
	return device, ""
}
