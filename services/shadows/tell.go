package shadows

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/tachograph/tachograph/projections/shadow"
	"github.com/tachograph/tachograph/services/dialect"
	"github.com/tachograph/tachograph/services/gateway"
)

// An Outlet reaches the devices that are connected to this process;
// *gateway.Gateway is one.
type Outlet interface {
	Connected(device string) bool
	Topics(device string, r dialect.Route) []string
	Hears(device, topic string) bool
	Broadcast(device, topic string, payload []byte) (heard int, err error)
}

// Tell gives the devices of this process a voice to hear. It is called before
// Run.
func (s *Shadows) Tell(out Outlet) { s.out = out }

// The types of what is told; AWS's topics end in them.
const (
	accepted  = "/accepted"
	rejected  = "/rejected"
	update    = "update"
	remove    = "delete"
	get       = "get"
	delta     = "update/delta"
	documents = "update/documents"
)

// tell publishes what follows from a fact: the answer to who asked, the
// difference that is left, and both documents. The caller holds e.mu.
func (s *Shadows) tell(e *entry, before shadow.Document, f shadow.Fact) {
	if s.out == nil || !s.out.Connected(e.device) {
		return
	}
	if f.Type == shadow.TypeDeleted {
		_ = s.say(e, remove+accepted, f.Deleted)
		return
	}
	_ = s.say(e, update+accepted, f.Accepted)
	s.sayDelta(e, f.ClientToken)
	_ = s.say(e, documents, func() []byte { return shadow.Documents(before, e.doc, f.ClientToken) })
}

// sayDelta publishes the difference as it is now. A device that can't take it
// at the moment is owed it.
func (s *Shadows) sayDelta(e *entry, clientToken string) {
	if err := s.say(e, delta, func() []byte { return e.doc.Delta(e.doc.At/1000, clientToken) }); errors.Is(err, gateway.ErrBusy) {
		s.owed.add(e.device)
	}
}

// say sends under every topic that is listened to. render is called at most
// once; nothing is sent when it gives nil.
func (s *Shadows) say(e *entry, what string, render func() []byte) (err error) {
	var payload []byte
	for _, topic := range s.out.Topics(e.device, dialect.Route{Kind: dialect.Shadow, Type: what, Name: e.name}) {
		if !s.out.Hears(e.device, topic) {
			continue
		}
		if payload == nil {
			if payload = render(); payload == nil {
				return nil
			}
		}
		if _, e := s.out.Broadcast(e.device, topic, payload); e != nil {
			err = e
		}
	}
	return err
}

// owed are the devices whose connection could not take a difference. They are
// told the present one as soon as it can: the newest is all they need.
type owed struct {
	mu      sync.Mutex
	devices map[string]bool
}

func (o *owed) add(device string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.devices[device] = true
}

func (o *owed) take() (devices []string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for d := range o.devices {
		devices = append(devices, d)
	}
	clear(o.devices)
	return devices
}

// owedPause is how long a connection that is busy is left alone.
const owedPause = 100 * time.Millisecond

// PayDebts tells devices what they could not take earlier, until ctx ends.
func (s *Shadows) PayDebts(ctx context.Context) error {
	t := time.NewTicker(owedPause)
	defer t.Stop()
	for {
		select {
		case <-t.C:
		case <-ctx.Done():
			return nil
		}
		for _, device := range s.owed.take() {
			for _, e := range s.of(device) {
				e.mu.Lock()
				s.sayDelta(e, "")
				e.mu.Unlock()
			}
		}
	}
}
