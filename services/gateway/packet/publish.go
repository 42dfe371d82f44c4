package packet

// MessageIDProperty is the user property in which a device may name its message.
const MessageIDProperty = "id"

// Publish is a client's message. Its slices point into the packet.
type Publish struct {
	QoS       byte
	Dup       bool
	Retain    bool
	ID        uint16 // 0 with QoS 0
	HasAlias  bool
	Alias     uint16 // version 5
	Topic     []byte // empty when the alias says it
	MessageID []byte // user property "id"; nil without
	Payload   []byte
}

// Decode reads a PUBLISH of a connection of the given version, without
// allocating.
func (p *Publish) Decode(f Frame, version byte) error {
	r := reader{b: f.Body}
	*p = Publish{QoS: f.Flags >> 1 & 3, Dup: f.Flags&8 != 0, Retain: f.Flags&1 != 0, Topic: r.string()}
	if p.QoS > 0 {
		p.ID = r.packetID()
	}
	if version == V5 {
		props := r.properties()
		for props.next(onPublish) {
			switch props.id {
			case propTopicAlias:
				p.HasAlias, p.Alias = true, uint16(props.num)
			case propUser:
				if string(props.key) == MessageIDProperty {
					p.MessageID = props.value
				}
			}
		}
		if props.err != nil {
			r.fail(props.err)
		}
	}
	if r.err != nil {
		return r.err
	}
	for _, c := range p.Topic {
		if c == '+' || c == '#' {
			return malformed("topic has a wild card")
		}
	}
	if len(p.Topic) == 0 && (version != V5 || !p.HasAlias) {
		return violation("no topic")
	}
	p.Payload = r.b
	return nil
}
