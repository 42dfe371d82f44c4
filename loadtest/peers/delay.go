package peers

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"sync"
	"time"

	"github.com/tachograph/tachograph/loadtest/fleet"
)

// Delay is how long after its acknowledgement a message is in its table, while
// a node is under load: at shares of the rate that it can sustain.
type Delay struct {
	Program, Dir string
	Flags        []string      // of the node
	Messages     int           // to find the rate with
	Shares       []float64     // of it
	For          time.Duration // at each share
	Say          func(DelayShare)
}

// A DelayShare is what was seen at one share.
type DelayShare struct {
	Share      float64       `json:"share"`
	Offered    float64       `json:"offered_per_second"`
	Got        float64       `json:"acknowledged_per_second"`
	Probes     int           `json:"probes"`
	P50        time.Duration `json:"p50_ns"`
	P99        time.Duration `json:"p99_ns"`
	Max        time.Duration `json:"max_ns"`
	Resolution time.Duration `json:"resolution_ns"` // 99 of 100 looks at the table came within this time of the one before
	Behind     time.Duration `json:"behind_ns"`     // from the load's end until all of it was in its table
}

const (
	delayProbe = "delay-probe"
	probeEvery = 50 * time.Millisecond
	lookEvery  = 10 * time.Millisecond
)

// Run returns the sustained rate, in messages a second, and what was seen at
// its shares. The rate is that of a flood that is in both tables as a whole,
// from its first publish: what the gateway takes faster than the tables do is a
// backlog, and counts until it is gone.
func (d Delay) Run(ctx context.Context) (sustained float64, shares []DelayShare, err error) {
	if d.Messages < 1 || d.For <= 0 || len(d.Shares) == 0 {
		return 0, nil, fmt.Errorf("delay: %d messages, %d shares of %s", d.Messages, len(d.Shares), d.For)
	}
	t, err := StartTacho(ctx, d.Program, d.Dir, d.Flags...)
	if err != nil {
		return 0, nil, err
	}
	defer func() { err = errors.Join(err, t.Stop()) }()
	e, err := t.Engine()
	if err != nil {
		return 0, nil, err
	}
	devices := []string{delayProbe}
	for i := range 100 {
		devices = append(devices, "delay-"+strconv.Itoa(i))
	}
	if err := t.Register(ctx, devices); err != nil {
		return 0, nil, err
	}
	flood := Flood{Addr: t.Node.MQTT, Devices: devices[1:], Login: t.Login, Topic: t.Topic, Form: JSON, Window: 20, Messages: d.Messages, Limit: 5 * time.Minute}
	began := time.Now()
	r, err := flood.Run(ctx)
	if err != nil {
		return 0, nil, err
	}
	if err := awaitBoth(ctx, e, r.Acknowledged); err != nil {
		return 0, nil, err
	}
	stored := r.Acknowledged
	sustained = float64(stored) / time.Since(began).Seconds()
	for _, share := range d.Shares {
		flood.Rate = share * sustained
		flood.Messages, flood.Limit = int(flood.Rate*d.For.Seconds()), d.For
		s, n, err := d.share(ctx, t, e, flood, stored)
		if err != nil {
			return sustained, shares, fmt.Errorf("delay: at %.0f %%: %w", 100*share, err)
		}
		s.Share, s.Offered = share, flood.Rate
		stored += n
		shares = append(shares, s)
		if d.Say != nil {
			d.Say(s)
		}
	}
	return sustained, shares, nil
}

// share runs a load, and probes beside it. It returns how many messages there
// were in all.
func (d Delay) share(ctx context.Context, t *Tacho, e *Engine, flood Flood, stored int) (s DelayShare, messages int, err error) {
	crowd, err := flood.Connect(ctx)
	if err != nil {
		return s, 0, err
	}
	defer crowd.Close()
	user, password := t.Login(delayProbe)
	file, err := socket(ctx, flood.Addr, delayProbe, user, password)
	if err != nil {
		return s, 0, err
	}
	p := &prober{engine: e, device: &device{file: file, fd: int(file.Fd()), ring: newRing(Small, t.Topic(delayProbe), time.Now(), 1), window: 1},
		delays: fleet.NewLatency(), gaps: fleet.NewLatency()}
	p.device.ring.live = true
	defer p.device.close()
	if p.before, err = p.count(ctx); err != nil {
		return s, 0, err
	}
	loaded, over := context.WithCancel(ctx)
	defer over()
	var wg sync.WaitGroup
	var sending, looking error
	wg.Go(func() { sending = p.send(loaded) })
	wg.Go(func() { looking = p.look(ctx, loaded) })
	r, err := crowd.Run(ctx)
	ended := time.Now()
	over()
	wg.Wait()
	if err = errors.Join(err, sending, looking); err != nil {
		return s, 0, err
	}
	messages = r.Acknowledged + len(p.acked)
	if err := awaitBoth(ctx, e, stored+messages); err != nil {
		return s, 0, err
	}
	s = DelayShare{Got: r.Rate(), Probes: len(p.acked), P50: p.delays.At(50), P99: p.delays.At(99), Max: p.delays.Max(),
		Resolution: p.gaps.At(99), Behind: time.Since(ended)}
	return s, messages, nil
}

// A prober is a device that publishes now and then, and somebody who looks in
// the table for what it published.
type prober struct {
	engine *Engine
	device *device
	before int // rows of it that are there already

	mu    sync.Mutex
	acked []time.Time // when each probe was acknowledged

	delays, gaps *fleet.Latency
}

// send publishes until ctx ends. A message waits for its acknowledgement, not
// for its turn in a queue of ours.
func (p *prober) send(ctx context.Context) error {
	for ctx.Err() == nil {
		if err := p.device.publish(1); err != nil {
			return err
		}
		for p.device.inFlight > 0 {
			if err := p.device.acknowledgements(); err != nil {
				return err
			}
		}
		p.mu.Lock()
		p.acked = append(p.acked, time.Now())
		p.mu.Unlock()
		select {
		case <-ctx.Done():
		case <-time.After(probeEvery):
		}
	}
	return nil
}

// look counts the probes in the table until loaded has ended and all are
// there. They come in the order in which they were sent, so the count tells
// which ones they are. The time of a look is when its answer came.
func (p *prober) look(ctx, loaded context.Context) error {
	for seen, last := 0, time.Now(); ; {
		quiet := loaded.Err() != nil
		n, err := p.count(ctx)
		if err != nil {
			return err
		}
		now := time.Now()
		p.gaps.Add(now.Sub(last))
		last = now
		p.mu.Lock()
		for ; seen < min(n-p.before, len(p.acked)); seen++ {
			p.delays.Add(now.Sub(p.acked[seen]))
		}
		done := quiet && seen == len(p.acked)
		p.mu.Unlock()
		if done {
			return nil
		}
		if now.Sub(p.oldest(seen)) > time.Minute {
			return fmt.Errorf("a probe is not in its table a minute after its acknowledgement")
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(lookEvery):
		}
	}
}

// oldest is when the first probe that was not seen was acknowledged.
func (p *prober) oldest(seen int) time.Time {
	p.mu.Lock()
	defer p.mu.Unlock()
	if seen < len(p.acked) {
		return p.acked[seen]
	}
	return time.Now()
}

func (p *prober) count(ctx context.Context) (int, error) {
	return p.engine.Count(ctx, "SELECT count() FROM position WHERE device = '"+delayProbe+"'")
}

// awaitBoth waits until both tables have so many messages.
func awaitBoth(ctx context.Context, e *Engine, messages int) error {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Minute)
	defer cancel()
	for {
		n, err := e.Count(ctx, "SELECT least((SELECT count() FROM position), (SELECT count() FROM events WHERE kind = 'telemetry'))")
		switch {
		case err == nil && n == messages:
			return nil
		case n > messages:
			return fmt.Errorf("%d rows of %d messages", n, messages)
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%d rows of %d messages: %w (%v)", n, messages, ctx.Err(), err)
		case <-time.After(100 * time.Millisecond):
		}
	}
}
