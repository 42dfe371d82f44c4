package fleet

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/tachograph/tachograph/loadtest/ledger"
)

// A Load is simulated cars that send messages of type position at moments that
// they choose themselves, whether or not the node has answered (open loop): a
// node that stalls meets the messages of the meantime, and their latency counts
// from when they were due. The same seed gives the same moments and the same
// drives.
type Load struct {
	Node     *Node
	Protocol string        // one of Protocols
	QoS      byte          // of MQTT
	Cars     int           // each on its own connection
	Rate     float64       // messages a second, of all cars together
	Duration time.Duration // of arrivals
	Window   int           // unacknowledged messages of a car; more wait in the car
	Bytes    int           // smallest payload
	Seed     uint64
	Patience time.Duration // how long to wait for answers after the last arrival

	posts *http.Client
}

// The most that a load may be.
const (
	mostMessages = 10_000_000
	mostCars     = 50_000
)

// Validate returns every problem at once.
func (l *Load) Validate() error {
	var errs []error
	bad := func(wrong bool, format string, args ...any) {
		if wrong {
			errs = append(errs, fmt.Errorf("load: "+format, args...))
		}
	}
	bad(!slices.Contains(Protocols, l.Protocol), "protocol %q, want one of %q", l.Protocol, Protocols)
	bad(l.QoS > 2, "qos %d, want 0 to 2", l.QoS)
	bad(l.Cars < 1 || l.Cars > mostCars, "%d cars, want 1 to %d", l.Cars, mostCars)
	bad(!(l.Rate > 0), "rate %v, want more than 0", l.Rate)
	bad(l.Duration <= 0 || l.Duration > 24*time.Hour, "duration %s, want up to a day", l.Duration)
	bad(!(l.Rate*l.Duration.Seconds() <= mostMessages), "%.0f messages, at most %d", l.Rate*l.Duration.Seconds(), mostMessages)
	bad(l.Window < 1 || l.Window > 10_000, "window %d, want 1 to 10000", l.Window)
	bad(l.Bytes < 0 || l.Bytes > 1<<20, "%d bytes, want up to 1 MiB", l.Bytes)
	bad(l.Patience <= 0 || l.Patience > time.Hour, "patience %s, want up to an hour", l.Patience)
	return errors.Join(errs...)
}

// A Report is what came of a load.
type Report struct {
	Offered      int64            `json:"offered"`      // messages that fell due
	Sent         int64            `json:"sent"`         // of them handed to a connection
	Acknowledged int64            `json:"acknowledged"` // of them
	Refused      int64            `json:"refused"`      // answered with an error
	Unanswered   int64            `json:"unanswered"`   // sent, and nobody knows; none at QoS 0, which promises no answer
	Again        int64            `json:"sent_again"`   // sendings after a lost connection
	Unsent       int64            `json:"unsent"`       // still waiting in their car when the time was over
	Disconnects  int64            `json:"disconnects"`
	Refusals     map[string]int64 `json:"refusals,omitempty"`
	Failures     []string         `json:"failures,omitempty"` // the first few lost connections
	Elapsed      time.Duration    `json:"elapsed_ns"`         // first arrival to last answer

	Latency *Latency       `json:"-"` // from a message's due moment to its acknowledgement
	Entries []ledger.Entry `json:"-"` // what was acknowledged
}

// Run registers and connects the cars, lets them loose and waits for the
// answers.
func (l *Load) Run(ctx context.Context) (*Report, error) {
	if err := l.Validate(); err != nil {
		return nil, err
	}
	ids := make([]string, l.Cars)
	for i := range ids {
		ids[i] = "load-" + strconv.Itoa(i+1)
	}
	tokens, err := l.Node.Tokens(ctx, ids)
	if err != nil {
		return nil, fmt.Errorf("load: %w", err)
	}
	if l.Protocol == "http" {
		l.posts = newPosts(min(l.Cars*l.Window, 4096))
		defer l.posts.CloseIdleConnections()
	}
	open := func(ctx context.Context, car string, e ear) (link, error) { return l.open(ctx, car, tokens[car], e) }
	return l.run(ctx, ids, open)
}

// run is Run with the links given.
func (l *Load) run(ctx context.Context, ids []string, open func(context.Context, string, ear) (link, error)) (*Report, error) {
	r := &Report{Refusals: map[string]int64{}, Latency: NewLatency()}
	ctx, cancel := context.WithTimeout(ctx, time.Hour+l.Duration+l.Patience) // connecting is bounded as well
	defer cancel()
	drivers := make([]*driver, len(ids))
	for i, id := range ids {
		drivers[i] = newDriver(l, i, id, r.Latency, open)
	}
	defer func() {
		for _, d := range drivers {
			d.hangUp()
		}
	}()
	if err := connectAll(ctx, drivers); err != nil {
		return nil, fmt.Errorf("load: %w", err)
	}
	began := time.Now()
	until, over := context.WithDeadline(ctx, began.Add(l.Duration+l.Patience))
	defer over()
	var wg sync.WaitGroup
	for _, d := range drivers {
		wg.Go(func() { d.drive(until, began) })
	}
	wg.Wait()
	r.Elapsed = time.Since(began)
	for _, d := range drivers {
		d.hangUp()
		r.add(d)
	}
	return r, context.Cause(ctx)
}

// String tells losses before speed.
func (r *Report) String() string {
	text := fmt.Sprintf("%d offered, %d sent, %d acknowledged; %d refused, %d unanswered, %d never sent; %d connections lost, %d sent again",
		r.Offered, r.Sent, r.Acknowledged, r.Refused, r.Unanswered, r.Unsent, r.Disconnects, r.Again)
	for _, why := range slices.Sorted(maps.Keys(r.Refusals)) {
		text += fmt.Sprintf("\n  refused with %s: %d", why, r.Refusals[why])
	}
	for _, why := range r.Failures {
		text += "\n  connection lost: " + why
	}
	text += fmt.Sprintf("\n%.0f acknowledged a second", float64(r.Acknowledged)/r.Elapsed.Seconds())
	if r.Acknowledged == 0 {
		return text
	}
	text += "; from due to acknowledged"
	for _, p := range []float64{50, 90, 99, 99.9, 99.99} {
		text += fmt.Sprintf("  p%v %s", p, r.Latency.At(p))
	}
	return text + fmt.Sprintf("  max %s", r.Latency.Max())
}

func (r *Report) add(d *driver) {
	r.Offered += d.offered
	r.Sent += d.sent
	r.Acknowledged += d.acked
	r.Refused += d.refused
	r.Unanswered += d.unanswered()
	r.Again += d.again
	r.Unsent += d.offered - d.sent
	r.Disconnects += d.disconnects
	for why, n := range d.refusals {
		r.Refusals[why] += n
	}
	if d.failure != nil && len(r.Failures) < 5 {
		r.Failures = append(r.Failures, d.id+": "+d.failure.Error())
	}
	for _, id := range d.ids {
		r.Entries = append(r.Entries, ledger.Entry{Device: d.id, Type: "position", ID: id})
	}
}

// connectAll connects some at a time: a listener's queue is short.
func connectAll(ctx context.Context, drivers []*driver) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var wg sync.WaitGroup
	next := make(chan *driver)
	for range min(32, len(drivers)) {
		wg.Go(func() {
			for d := range next {
				if err := d.connect(ctx); err != nil {
					cancel(err)
				}
			}
		})
	}
	for _, d := range drivers {
		if ctx.Err() != nil {
			break
		}
		next <- d
	}
	close(next)
	wg.Wait()
	return context.Cause(ctx)
}
