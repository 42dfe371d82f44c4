package shadows

import (
	"context"
	"errors"

	"github.com/tachograph/tachograph/projections/shadow"
	"github.com/tachograph/tachograph/services/dialect"
	"github.com/tachograph/tachograph/services/gateway"
)

// A Rejection is why a device's own request was refused.
type Rejection struct {
	Code    int    `json:"code"`
	Message string `json:"message"`
	At      int64  `json:"at"` // epoch milliseconds
}

// Take takes in a device's request by MQTT; the answer goes out on the topics
// beside the request's. It implements gateway.Service.
func (s *Shadows) Take(_ context.Context, r gateway.Request, done func(error)) {
	w := Wish{Device: r.Device, Name: r.Route.Name, By: ByDevice}
	switch r.Route.Type {
	case get:
		w.ClientToken = shadow.TokenOf(r.Payload, s.limits.Document)
		if e := s.find(w.Device, w.Name); e == nil || !s.sayDocument(e, w.ClientToken) {
			s.reject(w, get, noShadow(w), w.ClientToken)
		} else {
			s.count(get, nil)
		}
		done(nil)
	case update:
		req, refused := shadow.ParseRequest(r.Payload, s.limits.Document)
		if refused != nil {
			s.reject(w, update, refused, req.ClientToken)
			done(nil)
			return
		}
		w.Request = req
		s.Ask(w, func(_ Outcome, err error) { s.answer(w, update, err, req.ClientToken, done) })
	case remove:
		w.ClientToken = shadow.TokenOf(r.Payload, s.limits.Document)
		s.Ask(w, func(_ Outcome, err error) { s.answer(w, remove, err, w.ClientToken, done) })
	default:
		done(nil) // the dialect knows no other
	}
}

// sayDocument answers a get; false when there is no document.
func (s *Shadows) sayDocument(e *entry, clientToken string) bool {
	e.mu.Lock() // what is told leaves in the order of the versions
	defer e.mu.Unlock()
	if e.doc.Exists {
		_ = s.say(e, get+accepted, func() []byte { return e.doc.Get(s.now().Unix(), clientToken) })
	}
	return e.doc.Exists
}

// answer ends a request whose acceptance, if it was accepted, has been told.
func (s *Shadows) answer(w Wish, verb string, err error, clientToken string, done func(error)) {
	var refused *shadow.Error
	switch {
	case err == nil:
		s.count(verb, nil)
	case errors.As(err, &refused):
		s.reject(w, verb, refused, clientToken)
	default:
		s.logger.Warn("request to a shadow failed", "device", w.Device, "shadow", w.Name, "error", err)
		s.reject(w, verb, shadow.ErrInternal, clientToken)
	}
	done(nil)
}

func (s *Shadows) reject(w Wish, verb string, refused *shadow.Error, clientToken string) {
	now := s.now()
	s.count(verb, refused)
	if e := s.find(w.Device, w.Name); e != nil && verb == update {
		e.mu.Lock()
		if e.pending != 0 {
			e.rejected = &Rejection{refused.Code, refused.Message, now.UnixMilli()}
		}
		e.mu.Unlock()
	}
	_ = s.say(&entry{device: w.Device, name: w.Name}, verb+rejected, func() []byte { return refused.Render(now.Unix(), clientToken) })
}

// Listening sends a device that has begun to listen to a shadow's delta the
// present one. At AWS it is gone if the device was away. It implements
// gateway.Service.
func (s *Shadows) Listening(l gateway.Listener) {
	for _, e := range s.of(l.Device) {
		for _, topic := range s.out.Topics(e.device, dialect.Route{Kind: dialect.Shadow, Type: delta, Name: e.name}) {
			if !l.Hears(topic) {
				continue
			}
			e.mu.Lock()
			if payload := e.doc.Delta(e.doc.At/1000, ""); payload != nil {
				if err := l.Send(topic, payload); errors.Is(err, gateway.ErrBusy) {
					s.owed.add(e.device)
				}
			}
			e.mu.Unlock()
		}
	}
}
