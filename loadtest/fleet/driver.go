package fleet

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/tachograph/tachograph/events"
)

// A driver is one car of a load: its moments, its messages, its link.
type driver struct {
	id      string
	load    *Load
	moments *arrivals
	signals *signals
	open    func(context.Context, string, ear) (link, error)
	link    link
	began   time.Time
	latency *Latency

	fresh bool       // the link is another than before
	slots chan int   // free ones
	down  chan error // the link's end

	mu    sync.Mutex
	slot  []slot
	ids   []string // of acknowledged messages
	acked int64

	offered, sent, again, refused, disconnects int64
	refusals                                   map[string]int64
	failure                                    error // the first
}

// A slot holds a message on its way.
type slot struct {
	taken, answered bool
	due             time.Duration
	id              string
	payload         []byte
}

func newDriver(l *Load, car int, id string, latency *Latency, open func(context.Context, string, ear) (link, error)) *driver {
	return &driver{
		id: id, load: l, open: open, latency: latency,
		moments: newArrivals(l.Seed, car, l.Rate/float64(l.Cars)), signals: newSignals(l.Seed, car, l.Bytes),
		slot: make([]slot, l.Window), refusals: map[string]int64{},
	}
}

// connect opens a link. What was on its way over the last one is sent again,
// as devices do: to the node it is the same message.
func (d *driver) connect(ctx context.Context) error {
	d.mu.Lock()
	d.slots, d.down = make(chan int, d.load.Window), make(chan error, 1)
	var waiting []int
	for i := range d.slot {
		s := &d.slot[i]
		if s.taken = s.taken && !s.answered; s.taken {
			waiting = append(waiting, i)
		} else {
			d.slots <- i
		}
	}
	d.mu.Unlock()
	opened, err := d.open(ctx, d.id, d)
	if err != nil {
		return err
	}
	d.link = opened
	for _, i := range waiting {
		d.again++
		if err := d.link.send(i, d.slot[i].payload); err != nil {
			d.broken(err)
		}
	}
	return nil
}

// reconnect is connect after a loss, until it succeeds or ctx ends.
func (d *driver) reconnect(ctx context.Context) {
	for d.link == nil && ctx.Err() == nil {
		if err := d.connect(ctx); err == nil {
			return
		}
		select {
		case <-time.After(250 * time.Millisecond):
		case <-ctx.Done():
		}
	}
}

func (d *driver) hangUp() {
	if d.link != nil {
		d.link.close()
		d.link = nil
	}
}

// unanswered are the messages of which nobody knows, once the link is closed.
func (d *driver) unanswered() (n int64) {
	for _, s := range d.slot {
		if s.taken && !s.answered {
			n++
		}
	}
	return n
}

// drive sends what falls due until the load's duration is over, then waits for
// the answers, until ctx ends.
func (d *driver) drive(ctx context.Context, began time.Time) {
	d.began = began
	timer := time.NewTimer(0)
	defer timer.Stop()
	for due := d.moments.next(); due <= d.load.Duration; due = d.moments.next() {
		d.offered++
		if ctx.Err() != nil {
			continue // counted, not sent
		}
		if wait := time.Until(began.Add(due)); wait > 0 {
			d.flush()
			timer.Reset(wait)
			select {
			case <-timer.C:
			case <-ctx.Done():
				continue
			}
		}
		i, ok := d.freeSlot(ctx)
		if !ok {
			continue
		}
		d.mu.Lock()
		s := &d.slot[i]
		s.payload = append(s.payload[:0], d.signals.payload(began.Add(due))...)
		s.taken, s.answered, s.due, s.id = true, false, due, events.DeriveID(d.id, "position", s.payload)
		d.mu.Unlock()
		d.sent++
		if err := d.link.send(i, s.payload); err != nil {
			d.broken(err)
		}
	}
	for free := 0; free < d.load.Window; free++ { // all slots free: all is answered
		if _, ok := d.freeSlot(ctx); !ok {
			return
		}
		if d.fresh {
			d.fresh, free = false, 0
		}
	}
}

func (d *driver) flush() {
	if d.link == nil {
		return
	}
	if err := d.link.flush(); err != nil {
		d.broken(err)
	}
}

// freeSlot waits for one, over lost connections.
func (d *driver) freeSlot(ctx context.Context) (i int, ok bool) {
	for ctx.Err() == nil {
		d.reconnect(ctx)
		select {
		case err := <-d.down:
			d.drop(err)
			continue
		case i := <-d.slots:
			return i, true
		default:
		}
		d.flush()
		select {
		case err := <-d.down:
			d.drop(err)
		case i := <-d.slots:
			return i, true
		case <-ctx.Done():
		}
	}
	return 0, false
}

func (d *driver) drop(err error) {
	d.disconnects++
	if d.failure == nil {
		d.failure = err
	}
	d.hangUp()
	d.fresh = true
}

// acknowledged implements ear.
func (d *driver) acknowledged(i int, refusal string) {
	now := time.Now()
	d.mu.Lock()
	defer d.mu.Unlock()
	if i < 0 || i >= len(d.slot) || !d.slot[i].taken || d.slot[i].answered {
		d.broken(fmt.Errorf("an answer to nothing, slot %d", i))
		return
	}
	s := &d.slot[i]
	s.answered = true
	if refusal != "" {
		d.refused++
		d.refusals[refusal]++
		return
	}
	d.acked++
	d.ids = append(d.ids, s.id)
	d.latency.Add(now.Sub(d.began) - s.due)
}

// free implements ear.
func (d *driver) free(i int) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if i < 0 || i >= len(d.slot) || !d.slot[i].taken {
		d.broken(fmt.Errorf("an answer to nothing, slot %d", i))
		return
	}
	d.slot[i].taken = false
	d.slots <- i
}

// broken implements ear.
func (d *driver) broken(err error) {
	select {
	case d.down <- err:
	default: // it has been said
	}
}
