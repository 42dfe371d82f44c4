package gateway

import (
	"context"
	"errors"
	"fmt"

	"github.com/tachograph/tachograph/services/dialect"
	"github.com/tachograph/tachograph/services/gateway/packet"
)

// A Service takes in what devices say that is not telemetry: requests to their
// shadow, answers to commands. The gateway knows who speaks and what the topic
// means, the service what follows from it.
type Service interface {
	// Take takes in one message. done is called once, possibly before Take
	// returns, when the device may forget the message: what it led to is as
	// durable as the log promises. A *Refusal is answered as the protocol can.
	// Take must not block beyond ctx; r.Payload must not be used after done.
	Take(ctx context.Context, r Request, done func(error))

	// Listening tells that a device has begun to listen, by a subscription or by
	// coming back to a kept session. It must not block.
	Listening(l Listener)
}

// A Request is a message to a Service.
type Request struct {
	Device  string
	Route   dialect.Route
	Payload []byte
}

// A Listener is a connection of a device and the filters it has just begun to
// listen to.
type Listener struct {
	Device  string
	conn    *conn
	filters []string
}

// Hears tells whether the device has begun to listen to the topic.
func (l Listener) Hears(topic string) bool {
	for _, f := range l.filters {
		if dialect.Match(f, topic) {
			return true
		}
	}
	return false
}

// Send sends a message to this connection alone, at the QoS that it asked for.
// It does not wait for the acknowledgement.
//
// Errors: those of Deliver.
func (l Listener) Send(topic string, payload []byte) error {
	granted, ok := l.conn.sess.subscribed(topic)
	if !ok {
		return fmt.Errorf("send %s to %s: %w", topic, l.Device, ErrNotSubscribed)
	}
	return l.conn.post(topic, payload, granted)
}

// listening tells the services; filters were granted.
func (c *conn) listening(filters []string) {
	if len(filters) == 0 {
		return
	}
	for _, s := range c.g.services {
		s.Listening(Listener{Device: c.sender.device, conn: c, filters: filters})
	}
}

// Topics returns the topics under which a device may hear a route.
func (g *Gateway) Topics(device string, r dialect.Route) []string { return g.dialect.Topics(device, r) }

// Connected tells whether a device has a connection here.
func (g *Gateway) Connected(device string) bool { return len(g.sessions.connected(device)) > 0 }

// Hears tells whether a connection of the device listens to the topic.
func (g *Gateway) Hears(device, topic string) bool {
	for _, c := range g.sessions.connected(device) {
		if _, ok := c.sess.subscribed(topic); ok {
			return true
		}
	}
	return false
}

// Broadcast sends a message to every connection of the device that listens to
// the topic, each at the QoS it asked for, and does not wait: heard is how many
// they are. A connection that does not read, or does not acknowledge, misses it.
//
// Errors: ErrBusy or ErrTooBig when a connection that listens missed it.
func (g *Gateway) Broadcast(device, topic string, payload []byte) (heard int, err error) {
	for _, c := range g.sessions.connected(device) {
		granted, ok := c.sess.subscribed(topic)
		if !ok {
			continue
		}
		if e := c.post(topic, payload, granted); e == nil {
			heard++
		} else if !errors.Is(e, ErrNotConnected) {
			err = fmt.Errorf("send %s to %s: %w", topic, device, e)
		}
	}
	return heard, err
}

// post queues a message that nobody waits for.
func (c *conn) post(topic string, payload []byte, qos byte) error {
	d := &delivery{g: c.g, done: make(chan error, 1)}
	err := c.deliver(context.Background(), d, topic, payload, min(qos, 1))
	if err != nil {
		d.settle(err)
	}
	return err
}

// toService hands a message to the service of its topic.
func (c *conn) toService(ctx context.Context, t *topic, s *slot, payload []byte) {
	s.payload = append(s.payload[:0], payload...)
	if n := len(payload); n > c.g.limits.MaxPayload {
		s.settled(refuse(TooLarge, "message of %d bytes: at most %d are taken", n, c.g.limits.MaxPayload))
		return
	}
	m := Message{Sender: c.sender, Via: MQTT, Payload: s.payload, Patient: true}
	if _, r := c.g.admit(ctx, &m); r != nil {
		c.g.metrics.refuse(MQTT, r.Reason)
		s.settled(r)
		return
	}
	t.service.Take(ctx, Request{Device: c.sender.device, Route: t.route, Payload: s.payload}, s.done)
}

// codeGranted tells whether a SUBACK code grants.
func codeGranted(c packet.Code) bool { return c < packet.UnspecifiedError }
