package gateway

import (
	"time"

	"github.com/tachograph/tachograph/services/gateway/packet"
)

// wake has the writer look for work, if it sleeps.
func (c *conn) wake() {
	if c.asleep.Load() && c.asleep.CompareAndSwap(true, false) {
		select {
		case c.kick <- struct{}{}:
		default:
		}
	}
}

// write sends what is to be sent until the connection ends.
func (c *conn) write() {
	var buf []byte
	var sent []*delivery
	var extended time.Time
	for {
		var over bool
		buf, sent, over = c.collect(buf[:0], sent[:0])
		if len(buf) > 0 {
			if now := time.Now(); !over && now.Sub(extended) > c.g.limits.Write/4 && !c.stopped() {
				extended = now
				_ = c.nc.SetWriteDeadline(now.Add(c.g.limits.Write))
			}
			_, err := c.nc.Write(buf)
			for _, d := range sent {
				d.settle(err)
			}
			if err != nil {
				c.finish(ending{silent: true, label: "network"})
				return
			}
			if cap(buf) > outBytes {
				buf = nil
			}
		}
		if over {
			return
		}
		if len(buf) == 0 {
			c.sleep()
		}
	}
}

// collect appends what can be written now; over tells that it is the last.
func (c *conn) collect(buf []byte, sent []*delivery) (b []byte, s []*delivery, over bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	buf, c.out = append(buf, c.out...), c.out[:0]
	sent, c.sent = append(sent, c.sent...), c.sent[:0]
	if cap(c.out) > outBytes {
		c.out = nil
	}
	for slot := c.queue.pop(); slot != nil; slot = c.queue.pop() {
		buf = c.answer(buf, slot)
		c.queue.reuse(slot)
	}
	if c.wantRoom {
		c.wantRoom = false
		select {
		case c.room <- struct{}{}:
		default:
		}
	}
	if e := c.ending; e != nil && (c.queue.head == nil && !e.linger || !time.Now().Before(e.by)) {
		if !e.silent {
			detail := e.detail
			if !c.reasons {
				detail = ""
			}
			buf = packet.AppendDisconnect(buf, c.version, e.code, detail)
		}
		over = true
	}
	return buf, sent, over
}

// answer appends what a message's sender is told. What version 3.1.1 cannot say
// it says by closing the connection without an acknowledgement.
func (c *conn) answer(buf []byte, s *slot) []byte {
	code, reason := packet.Success, ""
	if r := s.refusal; r != nil {
		says := c.version == packet.V5 && s.ack != 0
		switch r.Reason {
		case Undecodable, BadAnswer, Unasked:
		case ForeignTopic, UnknownTopic, BadType:
			if !says {
				return c.hangUp(buf, r)
			}
		case LogFull, RateLimited:
			if s.ack == 0 {
				return buf
			} else if !says {
				return c.hangUp(buf, r)
			}
		case TooLarge:
			return c.hangUp(buf, r)
		default: // the client is to send it again, on another connection
			if s.ack == 0 {
				return buf
			}
			return c.hangUp(buf, r)
		}
		if says {
			code = r.Code()
		}
		if c.reasons {
			reason = r.Error()
		}
	}
	switch {
	case s.ack == 0:
		return buf // QoS 0: refusals are counted, and that is all its sender asked for
	case s.ack == packet.PUBACK || code != packet.Success:
		c.inflight = max(0, c.inflight-1)
	}
	return packet.AppendAck(buf, c.version, s.ack, s.id, code, reason)
}

// hangUp ends the connection because of one message.
func (c *conn) hangUp(buf []byte, r *Refusal) []byte {
	e := ending{code: r.Code(), detail: r.Error(), label: string(r.Reason)}
	if r.Reason == LogFull {
		e.linger, e.by = true, time.Now().Add(c.g.limits.FullDelay)
	}
	c.finishLocked(e)
	return buf
}

// sleep waits until there may be work, or the ending's time is up.
func (c *conn) sleep() {
	c.asleep.Store(true)
	defer c.asleep.Store(false)
	c.mu.Lock()
	work := len(c.out) > 0 || c.queue.head != nil && c.queue.head.ready.Load()
	e := c.ending
	c.mu.Unlock()
	switch {
	case work:
	case e == nil:
		<-c.kick
	default:
		t := time.NewTimer(time.Until(e.by))
		defer t.Stop()
		select {
		case <-c.kick:
		case <-t.C:
		}
	}
}
