package gateway

import (
	"context"
	"errors"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/tachograph/tachograph/events"
	"github.com/tachograph/tachograph/services/gateway/packet"
)

// A conn is one MQTT connection: a goroutine that reads and one that writes.
//
//	reader: packet -> slot at the queue's end -> Accept ──► log
//	                                                        │ durable
//	writer: ready slots from the queue's head -> acks ◄─────┘ slot is ready, writer is woken
//
// The reader stops while the queue is full; the writer sends in one write what
// became ready since the last.
type conn struct {
	g       *Gateway
	nc      net.Conn
	in      inbox
	version byte
	clientMaximum
	sess   *session
	sender *Sender
	will   *packet.Will

	// The reader's.
	pub     packet.Publish
	msg     Message
	topics  map[string]*topic
	aliases [aliasMaximum + 1]*topic

	asleep atomic.Bool   // the writer is, or is about to be
	kick   chan struct{} // wakes it
	room   chan struct{} // wakes a reader that waits for the writer
	stop   chan struct{} // closed when the connection is to end
	dead   chan struct{} // closed when the writer has ended
	deaf   chan struct{} // closed when the reader has ended

	mu        sync.Mutex
	queue     queue
	out       []byte      // packets beside the acks, to be written
	sent      []*delivery // QoS 0 deliveries in out
	inflight  int         // QoS 1 and 2 messages that version 5 counts
	wantRoom  bool
	ending    *ending
	delivered map[uint16]*delivery
	lastID    uint16
}

// A clientMaximum is what a client is willing to take.
type clientMaximum struct {
	packets     int // unacknowledged QoS 1 messages
	packetBytes int
	reasons     bool // reason strings
}

// An ending is how a connection ends: what its client is told, and until when
// messages on their way may still be acknowledged.
type ending struct {
	code   packet.Code
	detail string
	by     time.Time
	linger bool // stay until then, to slow the client down
	silent bool // say nothing
	noWill bool // the client did nothing that its will is for
	label  string
}

var errClientDisconnect = errors.New("client disconnected")

func newConn(g *Gateway, nc net.Conn) *conn {
	return &conn{
		g: g, nc: nc,
		in:   inbox{nc: nc, stall: g.limits.Stall, heard: time.Now()},
		kick: make(chan struct{}, 1), room: make(chan struct{}, 1),
		stop: make(chan struct{}), dead: make(chan struct{}), deaf: make(chan struct{}),
	}
}

// serve has one connection from its first byte to its last. ctx ends when the
// gateway will wait for nothing more.
func (c *conn) serve(ctx context.Context, busy bool) {
	defer func() { _ = c.nc.Close() }()
	if !c.handshake(ctx, busy) {
		close(c.deaf)
		c.part()
		return
	}
	appends, cancel := context.WithCancel(ctx)
	defer cancel()
	go func() {
		c.write()
		cancel() // an append that waits for room waits no longer
		close(c.dead)
	}()
	me := Connection{ID: events.UniqueID(), Device: c.sender.device, Client: c.sess.key.client}
	if c.g.watcher != nil {
		c.g.watcher.Connected(me)
	}
	c.listening(c.sess.filters()) // of a kept session
	err := c.read(appends)
	close(c.deaf)
	c.finish(c.endingOf(err))
	<-c.dead
	if c.ending.noWill {
		c.will = nil
	}
	c.failDeliveries()
	if c.g.watcher != nil {
		c.g.watcher.Disconnected(me, c.ending.reason())
	}
	c.g.sessions.detach(ctx, c)
	c.g.metrics.closed.WithLabelValues(c.ending.label).Inc()
	if !c.ending.silent {
		c.part()
	}
}

// part lets the client read our last packet: closing a socket with unread bytes
// in it resets the connection, and what was sent last is lost.
func (c *conn) part() {
	half, ok := c.nc.(interface{ CloseWrite() error })
	if !ok || half.CloseWrite() != nil || c.nc.SetReadDeadline(time.Now().Add(time.Second)) != nil {
		return
	}
	_, _ = io.CopyN(io.Discard, c.nc, 4<<20)
}

// read handles packets until the connection ends.
func (c *conn) read(ctx context.Context) error {
	limit := c.g.limits.MaxPayload + packetOverhead
	for {
		f, err := c.in.next(limit, c.stopped)
		if err != nil {
			return err
		}
		if c.stopped() { // what is still in the buffer is not heard any more
			return net.ErrClosed
		}
		if err := c.handle(ctx, f); err != nil {
			return err
		}
	}
}

func (c *conn) handle(ctx context.Context, f packet.Frame) error {
	switch f.Type {
	case packet.PUBLISH:
		return c.publish(ctx, f)
	case packet.PUBREL:
		return c.release(f)
	case packet.PUBACK:
		return c.acknowledged(f)
	case packet.SUBSCRIBE:
		return c.subscribe(f)
	case packet.UNSUBSCRIBE:
		return c.unsubscribe(f)
	case packet.PINGREQ:
		if len(f.Body) != 0 {
			return &packet.Error{Code: packet.MalformedPacket, Detail: "PINGREQ with a body"}
		}
		return c.send(packet.AppendPingresp)
	case packet.DISCONNECT:
		return c.disconnect(f)
	}
	return &packet.Error{Code: packet.ProtocolError, Detail: "packet has no place here"}
}

func (c *conn) disconnect(f packet.Frame) error {
	code, has, expiry, err := packet.DecodeDisconnect(f, c.version)
	if err != nil {
		return err
	}
	if has && !c.sess.setExpiry(expiry, c.g.limits.SessionExpiry) {
		return &packet.Error{Code: packet.ProtocolError, Detail: "a session that ends with its connection cannot be given an expiry"}
	}
	if code == packet.Success {
		c.will = nil
	}
	return errClientDisconnect
}

// send queues a packet beside the acknowledgements. It waits while a client
// that asks much reads little.
func (c *conn) send(appendTo func([]byte) []byte) error {
	c.mu.Lock()
	for len(c.out) > outBytes {
		if err := c.awaitRoom(); err != nil {
			return err
		}
	}
	c.out = appendTo(c.out)
	c.mu.Unlock()
	c.wake()
	return nil
}

// awaitRoom waits, as the reader, until the writer has got on. The caller holds
// c.mu; it holds it again when there is no error.
func (c *conn) awaitRoom() error {
	c.wantRoom = true
	c.mu.Unlock()
	select {
	case <-c.room:
		c.mu.Lock()
		return nil
	case <-c.stop:
		return net.ErrClosed
	}
}

func (c *conn) stopped() bool {
	select {
	case <-c.stop:
		return true
	default:
		return false
	}
}

// finish makes the connection end; the first call counts. It doesn't block.
func (c *conn) finish(e ending) {
	c.mu.Lock()
	c.finishLocked(e)
	c.mu.Unlock()
	c.wake()
}

func (c *conn) finishLocked(e ending) {
	if c.ending != nil {
		return
	}
	c.ending = &e
	close(c.stop)
	now := time.Now()
	_ = c.nc.SetReadDeadline(now) // wakes the reader
	_ = c.nc.SetWriteDeadline(later(now, e.by).Add(time.Second))
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

// endingOf tells how a connection ends whose reader came back with err.
func (c *conn) endingOf(err error) ending {
	var bad *packet.Error
	switch {
	case errors.Is(err, errClientDisconnect):
		return ending{silent: true, label: "client"}
	case errors.As(err, &bad):
		return ending{code: bad.Code, detail: bad.Detail, label: bad.Code.String()}
	case errors.Is(err, errKeepAlive):
		return ending{code: packet.KeepAliveTimeout, label: packet.KeepAliveTimeout.String()}
	case errors.Is(err, errStalled):
		return ending{code: packet.UnspecifiedError, detail: err.Error(), label: "stalled"}
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return ending{silent: true, label: "closed by peer"}
	}
	return ending{silent: true, label: "network"}
}
