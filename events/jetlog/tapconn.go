package jetlog

import (
	"bytes"
	"net"
	"slices"
)

const (
	tapBuffer = 64 << 10 // read at a time; a line of the protocol is shorter
	maxFrame  = 65 << 20 // nats-server lets no message be larger than 64 MiB
)

// A tapConn stands between a socket and nats.go, which reads every connection
// from one goroutine.
type tapConn struct {
	net.Conn
	tap *tap

	buf  []byte
	r, w int   // what was read and went nowhere yet is buf[r:w]
	err  error // of the last read, to be told behind that

	pass   int       // bytes of a frame that are still to be passed on
	taken  *delivery // whose frame, larger than buf, is under way
	rest   int       // bytes of it that are still to come
	opaque bool      // this is not the protocol, or not as we know it: all passes

	filled []*delivery // that got frames in this pass
}

// Read implements net.Conn: it returns what is no reader's.
func (c *tapConn) Read(p []byte) (int, error) {
	for len(p) > 0 {
		if n := c.route(p); n > 0 {
			return n, nil
		}
		if err := c.err; err != nil {
			c.err = nil
			return 0, err
		}
		if c.opaque { // and the buffer is empty
			return c.Conn.Read(p)
		}
		if c.r > 0 {
			c.r, c.w = 0, copy(c.buf, c.buf[c.r:c.w])
		}
		var n int
		n, c.err = c.Conn.Read(c.buf[c.w:])
		c.w += n
	}
	return 0, nil
}

// route hands frames to their readers and copies the rest to p, until p is full
// or the buffer's next frame is not whole.
func (c *tapConn) route(p []byte) (n int) {
	c.tap.mu.Lock()
	defer c.tap.mu.Unlock()
	for more := true; more && c.r < c.w && n < len(p); {
		switch {
		case c.opaque:
			m := copy(p[n:], c.buf[c.r:c.w])
			n, c.r = n+m, c.r+m
		case c.pass > 0:
			m := copy(p[n:], c.buf[c.r:min(c.w, c.r+c.pass)])
			n, c.r, c.pass = n+m, c.r+m, c.pass-m
		case c.taken != nil:
			m := min(c.w-c.r, c.rest)
			c.give(c.taken, m)
			if c.rest -= m; c.rest == 0 {
				c.taken = nil
			}
		default:
			more = c.frame()
		}
	}
	c.hand()
	return n
}

// frame begins the next frame of the buffer. It needs more of it when it answers
// false.
func (c *tapConn) frame() bool {
	have := c.buf[c.r:c.w]
	if !begins(have[0]) {
		c.giveUp()
		return true
	}
	end := bytes.IndexByte(have, '\n') + 1
	if end == 0 {
		if len(have) == len(c.buf) {
			c.giveUp()
			return true
		}
		return false
	}
	f, ok := parseLine(have[:end])
	switch {
	case !ok:
		c.giveUp()
		return true
	case f.sid == nil:
		c.pass = end
		return true
	}
	whole := end + f.size + len("\r\n")
	d := c.tap.known[string(f.sid)]
	switch {
	case d == nil && f.size == 0 && c.tap.waiting[string(f.subject)] != nil:
		if len(have) < whole && whole <= len(c.buf) {
			return false
		}
		c.learn(&f)
		c.r += whole
	case d == nil:
		c.pass = whole
	case d.from != c: // of the connection before this one
		d.lose()
		c.pass = whole
	case len(have) >= whole:
		c.give(d, whole)
	case whole <= len(c.buf):
		return false
	default:
		d.flush() // what came whole does not wait for it
		c.taken, c.rest = d, whole
	}
	return true
}

// begins tells whether a frame can begin like that: INFO, MSG, HMSG, PING, PONG,
// +OK, -ERR.
func begins(b byte) bool {
	switch b {
	case 'I', 'M', 'H', 'P', '+', '-', 'i', 'm', 'h', 'p':
		return true
	}
	return false
}

// learn notes the id of a subscription.
func (c *tapConn) learn(f *msgLine) {
	d := c.tap.waiting[string(f.subject)]
	delete(c.tap.waiting, d.inbox)
	d.id, d.from = string(f.sid), c
	c.tap.known[d.id] = d
	close(d.bound)
}

// give appends the next n bytes to what a reader gets. A pass's frames lie in
// memory of their own, which their events point into.
func (c *tapConn) give(d *delivery, n int) {
	if d.filling == nil {
		d.filling = make([]byte, 0, c.w-c.r)
	}
	if !slices.Contains(c.filled, d) {
		c.filled = append(c.filled, d)
	}
	d.filling = append(d.filling, c.buf[c.r:c.r+n]...)
	c.r += n
}

// hand ends a pass: readers get what they were given, but for half a frame.
func (c *tapConn) hand() {
	kept := c.filled[:0]
	for _, d := range c.filled {
		if d == c.taken {
			kept = append(kept, d)
			continue
		}
		d.flush()
	}
	clear(c.filled[len(kept):])
	c.filled = kept
}

// giveUp lets everything pass from here on. nats.go finds out what is wrong with
// it, if anything is.
func (c *tapConn) giveUp() {
	c.opaque = true
	for _, d := range c.tap.known {
		if d.from == c {
			d.lose()
		}
	}
}
