package gateway

import (
	"sync"
	"time"

	"github.com/tachograph/tachograph/services/gateway/packet"
)

// A session is what outlives a connection: subscriptions, and the QoS 2
// messages that were received and not released. It lives in memory, bounded in
// time and number; a gateway that starts anew answers "no session present".
type session struct {
	key     sessionKey
	version byte

	mu       sync.Mutex
	subs     map[string]byte     // filter to granted QoS
	received map[uint16]*receipt // QoS 2 messages by packet id, until PUBREL
	expiry   time.Duration       // 0: ends with its connection

	// Guarded by sessions.mu.
	conn    *conn       // nil while it has none
	expires *time.Timer // while it has no connection
	left    time.Time   // when it lost its last one
	will    *time.Timer // a will that waits for its delay
}

// A sessionKey: client ids are a device's own affair, so that no device can take
// over another's session by its id.
type sessionKey struct{ device, client string }

// A receipt is a QoS 2 message: on its way to the log, with the slots of its
// repeats, or stored.
type receipt struct {
	sum     uint64 // of type and payload
	stored  bool
	waiting []*slot
}

// receive books a QoS 2 message. A repeat (not fresh) is not appended again: its
// slot is complete if the first copy is stored, else it waits for it. A message
// that differs from the one under its packet id is no repeat but that of a client
// that forgot, and is taken in: better twice than never.
func (s *session) receive(id uint16, sum uint64, slot *slot) (stored, fresh bool, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if r := s.received[id]; r != nil && r.sum == sum {
		if !r.stored {
			r.waiting = append(r.waiting, slot)
		}
		return r.stored, false, nil
	}
	if len(s.received) >= releasesUnasked {
		return false, false, &packet.Error{Code: packet.ReceiveMaximumExceeded, Detail: "too many QoS 2 messages without PUBREL"}
	}
	if s.received == nil {
		s.received = map[uint16]*receipt{}
	}
	slot.receipt = &receipt{sum: sum}
	s.received[id] = slot.receipt
	return false, true, nil
}

// settle books the outcome of a QoS 2 message and returns the slots that waited.
// One that was not stored may come again under the same packet id.
func (s *session) settle(id uint16, r *receipt, stored bool) []*slot {
	s.mu.Lock()
	defer s.mu.Unlock()
	waiting := r.waiting
	r.stored, r.waiting = stored, nil
	if !stored && s.received[id] == r {
		delete(s.received, id)
	}
	return waiting
}

// release forgets a QoS 2 message; false when there is none.
func (s *session) release(id uint16) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	_, ok := s.received[id]
	delete(s.received, id)
	return ok
}

// setExpiry changes the expiry as DISCONNECT may: not from 0 to something.
func (s *session) setExpiry(seconds uint32, most time.Duration) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.expiry == 0 && seconds > 0 {
		return false
	}
	s.expiry = min(time.Duration(seconds)*time.Second, most)
	return true
}
