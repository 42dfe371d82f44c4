package openloop

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"

	"github.com/tachograph/tachograph/loadtest/peers"
)

// A Link takes one device's messages to a server. It is used by as many
// goroutines as the window has places.
type Link interface {
	// Publish returns nil once the message is acknowledged, and an error that is
	// ErrRefused if sending it again is of no use.
	Publish(ctx context.Context, payload []byte) error
	Close()
}

// ErrRefused is in the error of a message that the server does not want.
var ErrRefused = errors.New("refused")

// A Load is a plan with somebody to carry it out.
type Load struct {
	Plan     Plan
	Window   int                                    // messages of a device on their way at a time; the others wait, and their latency counts
	Patience time.Duration                          // how long after the end answers may take
	Dial     func(device int) Link                  // called once for each device; may connect later
	Acked    func(device int, payload []byte) error // told of every acknowledged message before it counts
}

// A Report is what came of a load, losses first.
type Report struct {
	Refused      int // the server said no
	Unanswered   int // no answer up to the end; the server may or may not have them
	Again        int // sendings after a lost answer
	Acknowledged int
	Offered      int
	Elapsed      time.Duration
	Example      error                   // of the newest refusal or lost answer
	Latency      *hdrhistogram.Histogram // microseconds from due to acknowledged
}

// The histogram's range in microseconds; three digits.
const longest = int64(10 * time.Minute / time.Microsecond)

// Run carries out the plan. It returns when every message is answered or the
// patience is over.
func (l Load) Run(ctx context.Context) (*Report, error) {
	due, err := l.Plan.Schedule()
	if err != nil {
		return nil, err
	}
	if l.Window < 1 || l.Window > 1000 {
		return nil, fmt.Errorf("load: window %d; 1 to 1,000 are possible", l.Window)
	}
	ctx, cancel := context.WithTimeout(ctx, l.Plan.Duration+l.Patience)
	defer cancel()
	r := &run{Load: l, start: time.Now(), report: Report{Latency: hdrhistogram.New(1, longest, 3)}, fail: cancel}
	var wg sync.WaitGroup
	for device, times := range due {
		r.report.Offered += len(times)
		wg.Go(func() { r.device(ctx, device, times) })
	}
	wg.Wait()
	r.report.Elapsed = time.Since(r.start)
	r.report.Unanswered = r.report.Offered - r.report.Acknowledged - r.report.Refused
	return &r.report, r.broken
}

type run struct {
	Load
	start time.Time
	fail  func()

	mu     sync.Mutex
	report Report
	broken error // the load itself cannot go on
}

func (r *run) device(ctx context.Context, device int, times []time.Duration) {
	link := r.Dial(device)
	defer link.Close()
	places := make(chan struct{}, r.Window)
	var wg sync.WaitGroup
	defer wg.Wait()
	for _, due := range times {
		if !sleep(ctx, time.Until(r.start.Add(due))) {
			return
		}
		select {
		case places <- struct{}{}:
		case <-ctx.Done():
			return
		}
		wg.Go(func() {
			r.message(ctx, link, device, due)
			<-places
		})
	}
}

const pause = 200 * time.Millisecond // between sendings of one message

func (r *run) message(ctx context.Context, link Link, device int, due time.Duration) {
	payload := peers.Payload(r.start, int(due.Milliseconds()))
	for {
		err := link.Publish(ctx, payload)
		latency := time.Since(r.start.Add(due))
		if err == nil {
			err = r.Acked(device, payload)
			if err != nil {
				r.mu.Lock()
				r.broken = err
				r.mu.Unlock()
				r.fail()
				return
			}
			r.mu.Lock()
			r.report.Acknowledged++
			_ = r.report.Latency.RecordValue(min(longest, max(1, latency.Microseconds()))) // it is in range
			r.mu.Unlock()
			return
		}
		if ctx.Err() != nil {
			return
		}
		r.mu.Lock()
		r.report.Example = err
		refused := errors.Is(err, ErrRefused)
		if refused {
			r.report.Refused++
		} else {
			r.report.Again++
		}
		r.mu.Unlock()
		if refused || !sleep(ctx, pause) {
			return
		}
	}
}

func sleep(ctx context.Context, d time.Duration) bool {
	if d <= 0 {
		return ctx.Err() == nil
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}
