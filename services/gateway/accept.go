package gateway

import (
	"context"
	"time"

	"github.com/tachograph/tachograph/events"
	"github.com/tachograph/tachograph/schemas"
)

// A Message is what a device said, as any protocol hands it to Accept.
type Message struct {
	Sender  *Sender
	Via     Via
	Type    string
	ID      string // the device's own, where it gave one; Accept makes it the event's
	Payload []byte // not to be changed before done
	Patient bool   // wait for the device's rates rather than be refused
}

// Accept is the one way in: it checks a message, gives it an id and hands it to
// the log. done is called once, when the message is as durable as the log
// promises (nil), or stored but undecodable (a *Refusal that is Kept), or was
// not stored (any other *Refusal); it must not block. When Accept itself returns
// an error, always a *Refusal, done is not called. Before anything is handed on
// m.ID is the id that the event has; m may be used again when Accept returns.
//
// Accept blocks while the log's window is full, and, for a patient message,
// while the device is over its rates.
func (g *Gateway) Accept(ctx context.Context, m *Message, done func(error)) error {
	if r := g.accept(ctx, m, done); r != nil {
		g.metrics.refuse(m.Via, r.Reason)
		return r
	}
	return nil
}

func (g *Gateway) accept(ctx context.Context, m *Message, done func(error)) *Refusal {
	if n := len(m.Payload); n > g.limits.MaxPayload {
		return refuse(TooLarge, "message of %d bytes: at most %d are taken", n, g.limits.MaxPayload)
	}
	var version uint32
	var at time.Time
	var bad error
	schema, known := g.catalog.Schemas().Current(m.Type)
	if known {
		version = schema.Version()
		var info schemas.Info
		info, bad = g.checkers.check(schema, m.Payload)
		at = info.Time
	} else if err := schemas.ValidName(m.Type); err != nil {
		return &Refusal{BadType, err}
	} else {
		at, _ = schemas.PeekTime(m.Payload)
	}
	since, r := g.admit(ctx, m)
	if r != nil {
		return r
	}
	p := g.pendings.Get().(*pending)
	*p = pending{g: g, via: m.Via, size: len(m.Payload), bad: bad, since: since, done: done, settle: p.settle}
	m.ID = idOf(m, at)
	e := events.Event{
		Stream: events.Stream{Kind: events.Telemetry, ID: m.Sender.device}, Type: m.Type,
		ID: m.ID, Schema: version, Payload: m.Payload,
	}
	if err := g.log.Enqueue(ctx, e, p.settle); err != nil {
		p.free()
		return refusalOf(err)
	}
	return nil
}

// idOf returns the device's own id, else one that the same message gets again,
// else, without a device time to tell a repeat from an equal reading, a unique
// one. An id that the log cannot hold as it is stands for itself hashed.
func idOf(m *Message, at time.Time) string {
	switch {
	case m.ID != "" && events.ValidID(m.ID):
		return m.ID
	case m.ID != "":
		return events.DeriveID(m.Sender.device, "id", []byte(m.ID))
	case !at.IsZero():
		return events.DeriveID(m.Sender.device, m.Type, m.Payload)
	}
	return events.UniqueID()
}

// admit keeps the device to its rates, and tells when the message was let in.
func (g *Gateway) admit(ctx context.Context, m *Message) (time.Time, *Refusal) {
	now := time.Now()
	if !m.Patient {
		if !m.Sender.meter.allow(&g.limits, now, len(m.Payload)) {
			return now, refuse(RateLimited, "device sends faster than %.0f messages or %.0f bytes a second", g.limits.MessagesPerSecond, g.limits.BytesPerSecond)
		}
		return now, nil
	}
	wait := m.Sender.meter.take(&g.limits, now, len(m.Payload))
	if wait == 0 {
		return now, nil
	}
	t := time.NewTimer(wait)
	defer t.Stop()
	select {
	case <-t.C:
		return time.Now(), nil
	case <-ctx.Done():
		return now, &Refusal{Unavailable, ctx.Err()}
	}
}

// A pending is a message on its way to the log. It is pooled with its callback,
// so that a message costs no closure.
type pending struct {
	g      *Gateway
	via    Via
	size   int
	bad    error
	since  time.Time
	done   func(error)
	settle func(error) // (*pending).settled
}

func newPending() any {
	p := new(pending)
	p.settle = p.settled
	return p
}

func (p *pending) free() {
	g := p.g
	*p = pending{settle: p.settle}
	g.pendings.Put(p)
}

func (p *pending) settled(err error) {
	m := p.g.metrics
	if err != nil {
		r := refusalOf(err)
		m.refuse(p.via, r.Reason)
		err = r
	} else {
		m.stored[p.via].Inc()
		m.bytes[p.via].Add(float64(p.size))
		if p.bad != nil {
			m.refuse(p.via, Undecodable)
			err = &Refusal{Undecodable, p.bad}
		}
		m.latency.Observe(time.Since(p.since).Seconds())
	}
	done := p.done
	p.free()
	done(err)
}
