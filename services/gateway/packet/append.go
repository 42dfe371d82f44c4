package packet

import "encoding/binary"

// A Connack is the answer to CONNECT. All but Code and SessionPresent is for
// version 5.
type Connack struct {
	Code              Code
	SessionPresent    bool
	ReceiveMaximum    uint16
	TopicAliasMaximum uint16
	MaximumPacketSize uint32
	HasExpiry         bool // the session's expiry is not what the client asked for
	Expiry            uint32
	AssignedClientID  string
	Reason            string
}

// AppendConnack appends the answer to a CONNECT of the given version. What this
// server doesn't have (retained messages, shared subscriptions, subscription
// identifiers) it says.
func AppendConnack(b []byte, version byte, c Connack) []byte {
	var present byte
	if c.SessionPresent {
		present = 1
	}
	if version != V5 {
		return append(b, byte(CONNACK)<<4, 2, present, c.Code.ReturnCode())
	}
	p := make([]byte, 0, 64)
	if c.Code == Success {
		p = append16(p, propReceiveMaximum, c.ReceiveMaximum)
		p = append32(p, propMaximumPacketSize, c.MaximumPacketSize)
		if c.TopicAliasMaximum > 0 {
			p = append16(p, propTopicAliasMaximum, c.TopicAliasMaximum)
		}
		if c.HasExpiry {
			p = append32(p, propSessionExpiry, c.Expiry)
		}
		p = append(p, propRetainAvailable, 0, propSubIDAvailable, 0, propSharedAvailable, 0)
		if c.AssignedClientID != "" {
			p = appendText(append(p, propAssignedClientID), c.AssignedClientID)
		}
	}
	p = appendReason(p, c.Reason)
	b = appendVarint(append(b, byte(CONNACK)<<4), 2+varintLen(len(p))+len(p))
	b = appendVarint(append(b, present, byte(c.Code)), len(p))
	return append(b, p...)
}

// AppendAck appends a PUBACK, PUBREC, PUBREL or PUBCOMP. Version 3.1.1 has no
// room for a code.
func AppendAck(b []byte, version byte, t Type, id uint16, code Code, reason string) []byte {
	head := byte(t) << 4
	if t == PUBREL {
		head |= 2
	}
	switch {
	case version != V5 || code == Success && reason == "":
		return append(b, head, 2, byte(id>>8), byte(id))
	case reason == "":
		return append(b, head, 3, byte(id>>8), byte(id), byte(code))
	}
	p := appendReason(nil, reason)
	b = appendVarint(append(b, head), 3+varintLen(len(p))+len(p))
	b = appendVarint(append(b, byte(id>>8), byte(id), byte(code)), len(p))
	return append(b, p...)
}

// AppendSuback appends the answer to a SUBSCRIBE or, as UNSUBACK, to an
// UNSUBSCRIBE: one code for each filter. Version 3.1.1 knows but one failure,
// and has no codes in its UNSUBACK.
func AppendSuback(b []byte, version byte, t Type, id uint16, codes []Code) []byte {
	n := 2 + len(codes)
	switch {
	case version == V5:
		n++ // no properties
	case t == UNSUBACK:
		n, codes = 2, nil
	}
	b = appendVarint(append(b, byte(t)<<4), n)
	b = append(b, byte(id>>8), byte(id))
	if version == V5 {
		b = append(b, 0)
	}
	for _, c := range codes {
		if version != V5 && c > UnspecifiedError {
			c = UnspecifiedError
		}
		b = append(b, byte(c))
	}
	return b
}

// AppendPublish appends a message to a client, without properties.
func AppendPublish(b []byte, version byte, topic string, payload []byte, qos byte, id uint16) []byte {
	b = appendVarint(append(b, byte(PUBLISH)<<4|qos<<1), PublishSize(version, topic, payload, qos))
	b = appendText(b, topic)
	if qos > 0 {
		b = binary.BigEndian.AppendUint16(b, id)
	}
	if version == V5 {
		b = append(b, 0)
	}
	return append(b, payload...)
}

// PublishSize returns how long AppendPublish's packet is, less its fixed header.
func PublishSize(version byte, topic string, payload []byte, qos byte) int {
	n := 2 + len(topic) + len(payload)
	if qos > 0 {
		n += 2
	}
	if version == V5 {
		n++
	}
	return n
}

// AppendPingresp appends the answer to a PINGREQ.
func AppendPingresp(b []byte) []byte { return append(b, byte(PINGRESP)<<4, 0) }

// AppendDisconnect appends a server's DISCONNECT, which only version 5 has.
func AppendDisconnect(b []byte, version byte, code Code, reason string) []byte {
	if version != V5 {
		return b
	}
	p := appendReason(nil, reason)
	if len(p) == 0 {
		return append(b, byte(DISCONNECT)<<4, 1, byte(code))
	}
	b = appendVarint(append(b, byte(DISCONNECT)<<4), 1+varintLen(len(p))+len(p))
	return append(appendVarint(append(b, byte(code)), len(p)), p...)
}

const maxReason = 512

func appendReason(p []byte, reason string) []byte {
	if reason == "" {
		return p
	}
	if len(reason) > maxReason {
		reason = reason[:maxReason]
	}
	return appendText(append(p, propReasonString), validText(reason))
}

func append16(p []byte, id byte, v uint16) []byte {
	return binary.BigEndian.AppendUint16(append(p, id), v)
}

func append32(p []byte, id byte, v uint32) []byte {
	return binary.BigEndian.AppendUint32(append(p, id), v)
}

func appendText(b []byte, s string) []byte {
	return append(binary.BigEndian.AppendUint16(b, uint16(len(s))), s...)
}

func appendVarint(b []byte, n int) []byte {
	for n >= 0x80 {
		b = append(b, byte(n)|0x80)
		n >>= 7
	}
	return append(b, byte(n))
}

func varintLen(n int) int {
	size := 1
	for ; n >= 0x80; n >>= 7 {
		size++
	}
	return size
}
