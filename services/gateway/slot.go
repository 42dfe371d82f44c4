package gateway

import (
	"sync/atomic"

	"github.com/tachograph/tachograph/services/gateway/packet"
)

// A slot is the place of one incoming message in its connection's queue of
// acknowledgements. It is reused with its payload buffer and its callback, so
// that a message allocates neither.
type slot struct {
	c       *conn
	next    *slot
	ack     packet.Type // PUBACK, PUBREC, or 0 for QoS 0
	id      uint16
	receipt *receipt // of a QoS 2 message that is being stored
	refusal *Refusal
	ready   atomic.Bool // the fields above are final
	payload []byte
	done    func(error) // (*slot).settled
}

// settled takes the log's answer. It may come after the connection's end.
func (s *slot) settled(err error) {
	var r *Refusal
	if err != nil {
		r = refusalOf(err)
	}
	if s.receipt != nil {
		// Other slots may wait for the same message; a kept refusal ends the
		// exchange only in version 5, where PUBREC says so.
		stored := r == nil || r.Kept() && s.c.version != packet.V5
		for _, w := range s.c.sess.settle(s.id, s.receipt, stored) {
			w.complete(r)
		}
		s.receipt = nil
	}
	s.complete(r)
}

func (s *slot) complete(r *Refusal) {
	c := s.c // once ready, the slot is the writer's
	s.refusal = r
	s.ready.Store(true)
	c.wake()
}

// A queue is a connection's slots, oldest first, and those to be used again.
type queue struct {
	head, tail *slot
	free       *slot
	using      int
}

func (q *queue) push(c *conn) *slot {
	s := q.free
	if s == nil {
		s = &slot{c: c}
		s.done = s.settled
	} else {
		q.free, s.next = s.next, nil
	}
	if q.tail == nil {
		q.head = s
	} else {
		q.tail.next = s
	}
	q.tail = s
	q.using++
	return s
}

// pop takes the oldest slot off, if it is ready. The caller hands it to reuse.
func (q *queue) pop() *slot {
	s := q.head
	if s == nil || !s.ready.Load() {
		return nil
	}
	if q.head = s.next; q.head == nil {
		q.tail = nil
	}
	return s
}

func (q *queue) reuse(s *slot) {
	if cap(s.payload) > keptBufferBytes {
		s.payload = nil
	}
	s.ack, s.id, s.refusal = 0, 0, nil
	s.ready.Store(false)
	s.next, q.free = q.free, s
	q.using--
}
