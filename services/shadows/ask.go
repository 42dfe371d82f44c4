package shadows

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/tachograph/tachograph/events"
	"github.com/tachograph/tachograph/projections/shadow"
)

// An Outcome is what became of a request.
type Outcome struct {
	Fact     shadow.Fact     // zero when nothing changed
	Document shadow.Document // after it
	Changed  bool            // false: a native request that would have changed nothing was not stored
	Position events.Position // of the shadow's newest fact
}

// A Wish says what is asked of a shadow: an update, or with a nil Request its
// deletion.
type Wish struct {
	Device, Name string
	Request      *shadow.Request
	ClientToken  string // of a deletion, echoed; an update's is in its request
	By           string // "device", or who asks
	OnlyChanges  bool   // leave out what changes nothing, instead of counting the version up as AWS does
}

// An ask is a wish in its shadow's queue.
type ask struct {
	Wish
	done    func(Outcome, error)
	outcome Outcome
	err     error
}

// Do asks and waits for the outcome.
//
// Errors: *shadow.Error as AWS has it (the outcome then holds the document as it
// is, if it came to a decision); those of events.Log.Append. When ctx ends first
// the request may or may not be carried out.
func (s *Shadows) Do(ctx context.Context, w Wish) (Outcome, error) {
	type answer struct {
		Outcome
		err error
	}
	answered := make(chan answer, 1)
	s.Ask(w, func(o Outcome, err error) { answered <- answer{o, err} })
	select {
	case a := <-answered:
		return a.Outcome, a.err
	case <-ctx.Done():
		return Outcome{}, fmt.Errorf("update shadow of %s: %w", w.Device, ctx.Err())
	}
}

// Ask puts a wish into its shadow's queue. done is called once, when the facts
// are as durable as the log promises and told to who listens here, or with why
// there are none; it must not block.
func (s *Shadows) Ask(w Wish, done func(Outcome, error)) {
	if len(w.Name) > s.limits.Document.Name {
		done(Outcome{}, &shadow.Error{Code: 400, Message: fmt.Sprintf("Shadow name is longer than %d bytes", s.limits.Document.Name)})
		return
	}
	if w.Request == nil && s.find(w.Device, w.Name) == nil {
		done(Outcome{}, noShadow(w))
		return
	}
	if refused := s.oneMore(w); refused != nil {
		done(Outcome{}, refused)
		return
	}
	a := &ask{Wish: w, done: done}
	e := s.hold(w.Device, w.Name)
	if len(e.queue) >= s.limits.InFlight || w.By == ByDevice && e.fromDev >= s.limits.DeviceInFlight {
		e.mu.Unlock()
		done(Outcome{}, shadow.ErrTooManyRequests)
		return
	}
	e.queue = append(e.queue, a)
	if w.By == ByDevice {
		e.fromDev++
	}
	start := !e.working
	e.working = true
	e.mu.Unlock()
	if start {
		go s.work(e)
	}
}

func noShadow(w Wish) *shadow.Error { return shadow.ErrNoShadow(cmp.Or(w.Name, w.Device)) }

// oneMore refuses an update that would make one named shadow too many: of those
// there are, or of those that were and whose version is remembered.
func (s *Shadows) oneMore(w Wish) *shadow.Error {
	if w.Name == "" || w.Request == nil {
		return nil
	}
	if e := s.find(w.Device, w.Name); e != nil && e.exists() {
		return nil
	}
	there, ever := 0, 0
	for _, e := range s.of(w.Device) {
		if e.name == "" || e.name == w.Name {
			continue
		}
		e.mu.Lock()
		if ever++; e.doc.Exists || len(e.queue) > 0 { // what is asked for has its place already
			there++
		}
		e.mu.Unlock()
	}
	most := s.limits.NamesPerDevice
	switch {
	case there >= most:
		return &shadow.Error{Code: 429, Message: fmt.Sprintf("The device has %d named shadows already", most)}
	case ever >= remembered*most:
		return &shadow.Error{Code: 429, Message: fmt.Sprintf("The device has had %d named shadows already", remembered*most)}
	}
	return nil
}

// remembered is how many times as many named shadows a device may have had as it
// may have: the version of a deleted one is kept.
const remembered = 10

// ByDevice is who asks when the device does.
const ByDevice = "device"

// most is how many requests become one append.
const most = 32

// work carries out what is in a shadow's queue, then ends.
func (s *Shadows) work(e *entry) {
	for {
		e.mu.Lock()
		n := min(len(e.queue), most)
		asks := e.queue[:n:n]
		if n == 0 {
			e.working, e.queue = false, nil
			if e.position.Seq == 0 { // all was refused: there is no such shadow
				s.drop(e)
			}
			e.mu.Unlock()
			return
		}
		e.mu.Unlock()

		s.carryOut(e, asks)

		e.mu.Lock()
		e.queue = e.queue[n:]
		for _, a := range asks {
			if a.By == ByDevice {
				e.fromDev--
			}
		}
		e.mu.Unlock()
		for _, a := range asks {
			a.done(a.outcome, a.err)
		}
	}
}

// Bounds of one append: how long it may take with all its repeats, and how
// often others may be first.
const (
	appendTime = 10 * time.Second
	attempts   = 64
)

// carryOut decides on requests of one shadow and appends their facts together:
// under load a shadow costs one append for many updates.
func (s *Shadows) carryOut(e *entry, asks []*ask) {
	ctx, cancel := context.WithTimeout(context.Background(), appendTime)
	defer cancel()
	for attempt := 1; ; attempt++ {
		evs, facts, last := s.decide(e, asks)
		if len(evs) == 0 {
			return
		}
		pos, err := s.log.Append(ctx, events.At(last), evs...)
		var conflict *events.ConflictError
		if errors.As(err, &conflict) || errors.Is(err, events.ErrUnknown) {
			// Whatever happened, the fold will have met it when it has reached the log's end.
			if aerr := s.await(ctx); aerr != nil {
				s.fail(asks, fmt.Errorf("%w; and the log's end cannot be read: %w", err, aerr))
				return
			}
			e.mu.Lock()
			seen := e.met.Seq != 0
			e.mu.Unlock()
			if !seen {
				if attempt < attempts {
					continue
				}
				s.fail(asks, err)
				return
			}
			e.mu.Lock()
			pos, err = e.met, nil
			e.mu.Unlock()
		}
		if err != nil {
			s.fail(asks, err)
			return
		}
		s.conclude(e, asks, facts, pos)
		return
	}
}

// conclude applies what was appended, of which last is the end, and completes
// the outcomes. A batch is stored without gaps.
func (s *Shadows) conclude(e *entry, asks []*ask, facts []shadow.Fact, last events.Position) {
	e.mu.Lock()
	defer e.mu.Unlock()
	at := last
	at.Seq -= uint64(len(facts))
	for _, a := range asks {
		if a.outcome.Changed {
			at.Seq++
			s.apply(e, a.outcome.Fact, at)
			a.outcome.Position = at
		}
	}
}

// fail gives its outcome to each request that had led to a fact.
func (s *Shadows) fail(asks []*ask, err error) {
	for _, a := range asks {
		if a.err == nil && a.outcome.Changed {
			a.outcome, a.err = Outcome{}, fmt.Errorf("update shadow of %s: %w", a.Device, err)
		}
	}
}

// decide makes the facts of the requests, one after the other, and each
// request's outcome if they can be appended after last.
func (s *Shadows) decide(e *entry, asks []*ask) (evs []events.Event, facts []shadow.Fact, last uint64) {
	e.mu.Lock()
	doc, position := e.doc, e.position
	e.mu.Unlock()
	stream := events.Stream{Kind: events.Shadow, ID: e.device, Name: e.name}
	var ids []string
	for _, a := range asks {
		c := shadow.Context{At: s.now().UnixMilli(), By: a.By, Device: e.device, Limits: s.limits.Document}
		var f shadow.Fact
		var refused *shadow.Error
		if a.Request != nil {
			f, refused = shadow.Decide(doc, a.Request, c)
		} else {
			f, refused = shadow.DecideDelete(doc, nil, a.ClientToken, c)
		}
		a.outcome, a.err = Outcome{Document: doc, Position: position}, nil
		switch {
		case refused != nil:
			a.err = refused
		case a.OnlyChanges && !doc.Changes(f):
		default:
			doc = doc.Evolve(f)
			a.outcome = Outcome{Fact: f, Document: doc, Changed: true, Position: position}
			ev := events.Event{Stream: stream, Type: f.Type, ID: events.UniqueID(), Payload: f.Payload()}
			evs, facts, ids = append(evs, ev), append(facts, f), append(ids, ev.ID)
		}
	}
	e.mu.Lock()
	e.appended, e.met = ids, events.Position{}
	e.mu.Unlock()
	return evs, facts, position.Seq
}
