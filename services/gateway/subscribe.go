package gateway

import (
	"errors"
	"strings"

	"github.com/tachograph/tachograph/services/dialect"
	"github.com/tachograph/tachograph/services/gateway/packet"
)

// subscribe grants what a device may hear, each filter for itself, at QoS 1 at
// most.
func (c *conn) subscribe(f packet.Frame) error {
	s, err := packet.DecodeSubscribe(f, c.version)
	if err != nil {
		return err
	}
	if s.HasSub {
		return &packet.Error{Code: packet.SubscriptionIDNotSupported, Detail: "subscription identifiers are not supported, CONNACK said so"}
	}
	codes := make([]packet.Code, len(s.Filters))
	var granted []string
	for i, filter := range s.Filters {
		if codes[i] = c.grant(filter); codeGranted(codes[i]) {
			granted = append(granted, strings.Clone(filter.Topic))
		}
	}
	defer c.listening(granted) // after SUBACK
	return c.send(func(b []byte) []byte { return packet.AppendSuback(b, c.version, packet.SUBACK, s.ID, codes) })
}

func (c *conn) grant(f packet.Filter) packet.Code {
	if strings.HasPrefix(f.Topic, "$share/") {
		return packet.SharedSubsNotSupported
	}
	switch err := c.g.dialect.Subscribable(c.sender.device, f.Topic); {
	case errors.Is(err, dialect.ErrFilter):
		return packet.TopicFilterInvalid
	case err != nil:
		return packet.NotAuthorized
	}
	return c.sess.subscribe(f.Topic, min(f.QoS, 1), c.g.limits.Subscriptions)
}

func (c *conn) unsubscribe(f packet.Frame) error {
	s, err := packet.DecodeUnsubscribe(f, c.version)
	if err != nil {
		return err
	}
	codes := make([]packet.Code, len(s.Filters))
	for i, filter := range s.Filters {
		codes[i] = c.sess.unsubscribe(filter.Topic)
	}
	return c.send(func(b []byte) []byte { return packet.AppendSuback(b, c.version, packet.UNSUBACK, s.ID, codes) })
}

func (s *session) subscribe(filter string, qos byte, most int) packet.Code {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.subs == nil {
		s.subs = map[string]byte{}
	}
	if _, again := s.subs[filter]; !again && len(s.subs) >= most {
		return packet.QuotaExceeded
	}
	s.subs[strings.Clone(filter)] = qos
	return packet.Code(qos)
}

func (s *session) unsubscribe(filter string) packet.Code {
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, ok := s.subs[filter]; !ok {
		return packet.NoSubscriptionExisted
	}
	delete(s.subs, filter)
	return packet.Success
}

// filters lists what the session listens to.
func (s *session) filters() (all []string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for filter := range s.subs {
		all = append(all, filter)
	}
	return all
}

// subscribed returns the highest QoS at which the session hears a topic.
func (s *session) subscribed(topic string) (qos byte, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for filter, granted := range s.subs {
		if dialect.Match(filter, topic) {
			qos, ok = max(qos, granted), true
		}
	}
	return qos, ok
}
