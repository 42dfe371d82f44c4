package fleet

import (
	"sync"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
)

// A Latency collects how long answers took, to three digits, from a
// microsecond to ten minutes. It is safe for all goroutines.
type Latency struct {
	mu sync.Mutex
	h  *hdrhistogram.Histogram
}

const longest = 10 * time.Minute

// NewLatency returns an empty one.
func NewLatency() *Latency {
	return &Latency{h: hdrhistogram.New(1, longest.Microseconds(), 3)}
}

// Add records one answer; what took longer than ten minutes counts as ten.
func (l *Latency) Add(d time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	_ = l.h.RecordValue(min(max(d, 0), longest).Microseconds()) // within its range by the line's own bounds
}

// At is the time within which the given percentage of the answers came.
func (l *Latency) At(percent float64) time.Duration {
	l.mu.Lock()
	defer l.mu.Unlock()
	return time.Duration(l.h.ValueAtPercentile(percent)) * time.Microsecond
}

// Max is the longest that an answer took.
func (l *Latency) Max() time.Duration {
	l.mu.Lock()
	defer l.mu.Unlock()
	return time.Duration(l.h.Max()) * time.Microsecond
}
