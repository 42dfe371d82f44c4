package packet

// A Filter is one line of a SUBSCRIBE.
type Filter struct {
	Topic string
	QoS   byte
}

// Subscribe is a SUBSCRIBE or, without the filters' QoS, an UNSUBSCRIBE.
type Subscribe struct {
	ID      uint16
	HasSub  bool // it carries a subscription identifier
	Filters []Filter
}

// DecodeSubscribe reads a SUBSCRIBE.
func DecodeSubscribe(f Frame, version byte) (Subscribe, error) {
	r := reader{b: f.Body}
	s := Subscribe{ID: r.packetID()}
	if version == V5 {
		p := r.properties()
		for p.next(onSubscribe) {
			if p.id == propSubscriptionID {
				if s.HasSub = true; p.num == 0 {
					p.fail(violation("subscription identifier 0"))
				}
			}
		}
		if p.err != nil {
			r.fail(p.err)
		}
	}
	for len(r.b) > 0 {
		topic, options := r.string(), r.byte()
		reserved, retain := byte(0xFC), byte(0)
		if version == V5 {
			reserved, retain = 0xC0, options>>4&3
		}
		if options&3 == 3 || options&reserved != 0 || retain == 3 {
			r.fail(malformed("options of a subscription"))
		}
		s.Filters = append(s.Filters, Filter{string(topic), options & 3})
	}
	return s, s.check(&r)
}

// DecodeUnsubscribe reads an UNSUBSCRIBE.
func DecodeUnsubscribe(f Frame, version byte) (Subscribe, error) {
	r := reader{b: f.Body}
	s := Subscribe{ID: r.packetID()}
	if version == V5 {
		p := r.properties()
		if err := p.skip(onUnsubscribe); err != nil {
			r.fail(err)
		}
	}
	for len(r.b) > 0 {
		s.Filters = append(s.Filters, Filter{Topic: string(r.string())})
	}
	return s, s.check(&r)
}

func (s *Subscribe) check(r *reader) error {
	if r.err == nil && len(s.Filters) == 0 {
		r.fail(violation("no topic filter"))
	}
	return r.end()
}
