package gateway

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"github.com/tachograph/tachograph/services/gateway/packet"
)

// Why a message did not reach a device.
var (
	ErrNotConnected  = errors.New("device is not connected")                      // it was not sent
	ErrNotSubscribed = errors.New("device does not listen to the topic")          // it was not sent
	ErrBusy          = errors.New("device has not acknowledged what it was sent") // it was not sent
	ErrTooBig        = errors.New("message is larger than the device takes")      // it was not sent
	ErrDisconnected  = errors.New("connection ended before the acknowledgement")  // it may have arrived
	ErrRejected      = errors.New("device answered with an error")                // it arrived
)

// A delivery is one message on its way to a device.
type delivery struct {
	g    *Gateway
	once sync.Once
	done chan error
	stop func() bool // of the watch over its context; guarded by conn.mu
}

func (d *delivery) settle(err error) {
	d.once.Do(func() {
		outcome := "acknowledged"
		if err != nil {
			outcome = "failed"
		}
		d.g.metrics.delivered.WithLabelValues(outcome).Inc()
		d.done <- err
	})
}

// Deliver sends a message to the device's newest connection that listens to the
// topic. The channel gets one value: nil when the device has acknowledged it
// (QoS 1) or when it was written to the socket (QoS 0, or a subscription at
// QoS 0), else why not; the error of ctx when that ended first.
//
// A delivery belongs to its connection and is never repeated by the gateway:
// whether a command may be sent twice is for its sender to decide.
//
// Errors: those above, wrapped.
func (g *Gateway) Deliver(ctx context.Context, device, topic string, payload []byte, qos byte) (acked <-chan error) {
	d := &delivery{g: g, done: make(chan error, 1)}
	fail := func(err error) <-chan error {
		d.settle(fmt.Errorf("deliver %s to %s: %w", topic, device, err))
		return d.done
	}
	if err := ctx.Err(); err != nil {
		return fail(err)
	}
	err := ErrNotConnected
	conns := g.sessions.connected(device)
	for i := len(conns) - 1; i >= 0; i-- {
		granted, ok := conns[i].sess.subscribed(topic)
		if !ok {
			err = ErrNotSubscribed
			continue
		}
		if err := conns[i].deliver(ctx, d, topic, payload, min(qos, granted, 1)); err != nil {
			return fail(err)
		}
		return d.done
	}
	return fail(err)
}

func (c *conn) deliver(ctx context.Context, d *delivery, topic string, payload []byte, qos byte) error {
	if size := packet.PublishSize(c.version, topic, payload, qos) + 5; c.packetBytes > 0 && size > c.packetBytes || len(topic) > 65535 || size > c.g.limits.MaxPayload+packetOverhead {
		return ErrTooBig
	}
	c.mu.Lock()
	defer c.wake()
	defer c.mu.Unlock()
	switch {
	case c.ending != nil:
		return ErrNotConnected
	case len(c.out) > outBytes, len(c.delivered) >= c.packets:
		return ErrBusy
	}
	var id uint16
	if qos == 0 {
		c.sent = append(c.sent, d)
	} else {
		id = c.freeID()
		if c.delivered == nil {
			c.delivered = map[uint16]*delivery{}
		}
		c.delivered[id] = d
		d.stop = context.AfterFunc(ctx, func() { d.settle(ctx.Err()) }) // the id stays taken until PUBACK or the connection's end
	}
	c.out = packet.AppendPublish(c.out, c.version, topic, payload, qos, id)
	return nil
}

// freeID returns a packet id that is not in use; there are far more of them than
// deliveries.
func (c *conn) freeID() uint16 {
	for {
		if c.lastID++; c.lastID != 0 && c.delivered[c.lastID] == nil {
			return c.lastID
		}
	}
}

// acknowledged takes a PUBACK.
func (c *conn) acknowledged(f packet.Frame) error {
	id, code, err := packet.DecodeAck(f, c.version)
	if err != nil {
		return err
	}
	c.mu.Lock()
	d := c.delivered[id]
	delete(c.delivered, id)
	c.mu.Unlock()
	if d == nil {
		return nil // not ours any more, or never: nothing depends on it
	}
	d.stop()
	if code >= packet.UnspecifiedError {
		d.settle(fmt.Errorf("%w: %s", ErrRejected, code))
	} else {
		d.settle(nil)
	}
	return nil
}

// failDeliveries tells those who wait that nothing more will come.
func (c *conn) failDeliveries() {
	c.mu.Lock()
	delivered, sent := c.delivered, c.sent
	c.delivered, c.sent = nil, nil
	c.mu.Unlock()
	for _, d := range delivered {
		d.stop()
		d.settle(ErrDisconnected)
	}
	for _, d := range sent {
		d.settle(ErrDisconnected)
	}
}
