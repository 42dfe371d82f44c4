package gateway

import (
	"context"
	"errors"
	"hash/maphash"

	"github.com/tachograph/tachograph/services/dialect"
	"github.com/tachograph/tachograph/services/gateway/packet"
)

// A topic is what a topic name means on this connection.
type topic struct {
	typ     string // of telemetry; of anything else what tells its topics apart
	route   dialect.Route
	service Service // nil: telemetry
	refusal *Refusal
}

// publish takes in one message.
func (c *conn) publish(ctx context.Context, f packet.Frame) error {
	p := &c.pub
	if err := p.Decode(f, c.version); err != nil {
		return err
	}
	if p.Retain && c.version == packet.V5 {
		return &packet.Error{Code: packet.RetainNotSupported, Detail: "retained messages are not kept, CONNACK said so"}
	}
	t, err := c.resolve(p)
	if err != nil {
		return err
	}
	s, err := c.reserve(p)
	if err != nil {
		return err
	}
	if t.refusal != nil {
		c.g.metrics.refuse(MQTT, t.refusal.Reason)
		s.complete(t.refusal)
		return nil
	}
	if p.QoS == 2 {
		stored, fresh, err := c.sess.receive(p.ID, c.g.sumOf(t.typ, p.Payload), s)
		if err != nil {
			return err
		}
		if !fresh {
			c.g.metrics.repeats.Inc()
			c.uncount()
			if stored {
				s.complete(nil)
			}
			return nil // else the first copy's outcome will be this one's too
		}
	}
	if t.service != nil {
		c.toService(ctx, t, s, p.Payload)
		return nil
	}
	s.payload = append(s.payload[:0], p.Payload...)
	c.msg = Message{Sender: c.sender, Via: MQTT, Type: t.typ, Payload: s.payload, Patient: true}
	if p.MessageID != nil {
		c.msg.ID = string(p.MessageID)
	}
	if err := c.g.Accept(ctx, &c.msg, s.done); err != nil {
		s.settled(err)
	}
	return nil
}

// sumOf tells messages apart, within this process.
func (g *Gateway) sumOf(typ string, payload []byte) uint64 {
	return maphash.String(g.seed, typ)*31 + maphash.Bytes(g.seed, payload)
}

// resolve tells what the packet's topic means, which is remembered: a device
// has few topics and uses them often.
func (c *conn) resolve(p *packet.Publish) (*topic, error) {
	if p.HasAlias && (p.Alias == 0 || p.Alias > aliasMaximum) {
		return nil, &packet.Error{Code: packet.TopicAliasInvalid, Detail: "topic alias is 0 or more than CONNACK allows"}
	}
	if len(p.Topic) == 0 {
		if t := c.aliases[p.Alias]; t != nil {
			return t, nil
		}
		return nil, &packet.Error{Code: packet.ProtocolError, Detail: "topic alias was never given a topic"}
	}
	t := c.topics[string(p.Topic)]
	if t == nil {
		t = c.g.topicOf(c.sender.device, string(p.Topic))
		if c.topics == nil {
			c.topics = map[string]*topic{}
		}
		if len(c.topics) < topicsRemembered {
			c.topics[string(p.Topic)] = t
		}
	}
	if p.HasAlias {
		c.aliases[p.Alias] = t
	}
	return t, nil
}

// topicOf asks the dialect.
func (g *Gateway) topicOf(device, name string) *topic {
	route, err := g.dialect.Parse(device, name)
	service := g.services[route.Kind]
	switch {
	case err == nil && route.Kind == dialect.Telemetry:
		return &topic{typ: route.Type, route: route}
	case err == nil && service == nil:
		err = dialect.ErrUnknown
	case err == nil:
		return &topic{typ: name, route: route, service: service}
	case errors.Is(err, dialect.ErrForeign):
		return &topic{refusal: refuse(ForeignTopic, "publish to %.200q: %w", name, err)}
	}
	return &topic{refusal: refuse(UnknownTopic, "publish to %.200q: %w", name, err)}
}

// reserve takes the message's place in the queue, waiting while it is full.
func (c *conn) reserve(p *packet.Publish) (*slot, error) {
	c.mu.Lock()
	if p.QoS > 0 {
		if c.version == packet.V5 && c.inflight >= c.g.limits.Window {
			c.mu.Unlock()
			return nil, &packet.Error{Code: packet.ReceiveMaximumExceeded, Detail: "more messages without their acknowledgement than CONNACK allows"}
		}
		c.inflight++
	}
	for c.queue.using >= c.g.limits.Window {
		if err := c.awaitRoom(); err != nil {
			return nil, err
		}
	}
	s := c.queue.push(c)
	c.mu.Unlock()
	switch p.QoS {
	case 1:
		s.ack, s.id = packet.PUBACK, p.ID
	case 2:
		s.ack, s.id = packet.PUBREC, p.ID
	}
	return s, nil
}

// release ends the exchange of a QoS 2 message.
func (c *conn) release(f packet.Frame) error {
	id, _, err := packet.DecodeAck(f, c.version)
	if err != nil {
		return err
	}
	code := packet.Success
	if c.sess.release(id) {
		c.uncount()
	} else {
		code = packet.PacketIDNotFound
	}
	return c.send(func(b []byte) []byte { return packet.AppendAck(b, c.version, packet.PUBCOMP, id, code, "") })
}

// uncount takes a message off those that version 5 counts against the receive
// maximum.
func (c *conn) uncount() {
	c.mu.Lock()
	c.inflight = max(0, c.inflight-1)
	c.mu.Unlock()
}
