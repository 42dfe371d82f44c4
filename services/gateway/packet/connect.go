package packet

// Connect is a client's first packet. Everything in it is copied, for it lives
// as long as the session.
type Connect struct {
	Version     byte // V311 or V5
	ClientID    string
	UserName    string
	Password    string
	HasUserName bool
	HasPassword bool
	CleanStart  bool
	KeepAlive   uint16 // seconds; 0 is none
	Will        *Will
	ProblemInfo bool   // reason strings are welcome
	AuthMethod  string // of extended authentication
	HasExpiry   bool
	Expiry      uint32 // seconds that the session outlives the connection
	ReceiveMax  uint16
	MaxPacket   uint32 // 0 is no limit
}

// A Will is the message that a server publishes for a client that vanished.
type Will struct {
	Topic     string
	Payload   []byte
	QoS       byte
	Retain    bool
	Delay     uint32 // seconds
	MessageID string
}

// DecodeConnect reads the body of a CONNECT. When the error's code is
// UnsupportedVersion, Version holds what the client asked for.
func DecodeConnect(body []byte) (Connect, error) {
	r := reader{b: body}
	c := Connect{ProblemInfo: true, ReceiveMax: 65535}
	name := r.string()
	c.Version = r.byte()
	if r.err != nil {
		return c, r.err
	}
	switch known := string(name); {
	case known != "MQTT" && known != "MQIsdp":
		return c, malformed("protocol name")
	case known == "MQIsdp" || c.Version != V311 && c.Version != V5:
		return c, &Error{UnsupportedVersion, "versions 3.1.1 and 5 are spoken here"}
	}
	flags := r.byte()
	c.KeepAlive = r.uint16()
	c.CleanStart = flags&0x02 != 0
	c.HasUserName, c.HasPassword = flags&0x80 != 0, flags&0x40 != 0
	if c.Version == V5 {
		c.properties(&r)
	}
	c.ClientID = string(r.string())
	hasWill, willQoS, willRetain := flags&0x04 != 0, flags>>3&3, flags&0x20 != 0
	switch {
	case r.err != nil:
		return c, r.err
	case flags&0x01 != 0:
		return c, malformed("reserved flag of CONNECT")
	case !hasWill && (willQoS != 0 || willRetain), willQoS == 3:
		return c, malformed("flags of the will")
	case c.Version == V311 && c.HasPassword && !c.HasUserName:
		return c, malformed("password without user name")
	}
	if hasWill {
		c.Will = &Will{QoS: willQoS, Retain: willRetain}
		if c.Version == V5 {
			c.Will.properties(&r)
		}
		c.Will.Topic = string(r.string())
		c.Will.Payload = append([]byte(nil), r.binary()...)
	}
	if c.HasUserName {
		c.UserName = string(r.string())
	}
	if c.HasPassword {
		c.Password = string(r.binary())
	}
	return c, r.end()
}

func (c *Connect) properties(r *reader) {
	p := r.properties()
	for p.next(onConnect) {
		switch p.id {
		case propSessionExpiry:
			c.HasExpiry, c.Expiry = true, p.num
		case propReceiveMaximum:
			if c.ReceiveMax = uint16(p.num); p.num == 0 {
				p.fail(violation("receive maximum 0"))
			}
		case propMaximumPacketSize:
			if c.MaxPacket = p.num; p.num == 0 {
				p.fail(violation("maximum packet size 0"))
			}
		case propRequestProblemInfo:
			c.ProblemInfo = p.num == 1
		case propAuthMethod:
			c.AuthMethod = string(p.value)
		}
	}
	if p.err == nil && p.seen&bit(propAuthData) != 0 && p.seen&bit(propAuthMethod) == 0 {
		p.fail(violation("authentication data without a method"))
	}
	if p.err != nil {
		r.fail(p.err)
	}
}

func (w *Will) properties(r *reader) {
	p := r.properties()
	for p.next(onWill) {
		switch p.id {
		case propWillDelay:
			w.Delay = p.num
		case propUser:
			if string(p.key) == MessageIDProperty {
				w.MessageID = string(p.value)
			}
		}
	}
	if p.err != nil {
		r.fail(p.err)
	}
}
