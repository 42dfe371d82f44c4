package packet

// The properties of version 5.
const (
	propPayloadFormat      = 1
	propMessageExpiry      = 2
	propContentType        = 3
	propResponseTopic      = 8
	propCorrelationData    = 9
	propSubscriptionID     = 11
	propSessionExpiry      = 17
	propAssignedClientID   = 18
	propServerKeepAlive    = 19
	propAuthMethod         = 21
	propAuthData           = 22
	propRequestProblemInfo = 23
	propWillDelay          = 24
	propRequestResponse    = 25
	propResponseInfo       = 26
	propServerReference    = 28
	propReasonString       = 31
	propReceiveMaximum     = 33
	propTopicAliasMaximum  = 34
	propTopicAlias         = 35
	propMaximumQoS         = 36
	propRetainAvailable    = 37
	propUser               = 38
	propMaximumPacketSize  = 39
	propWildcardAvailable  = 40
	propSubIDAvailable     = 41
	propSharedAvailable    = 42
)

func bit(ids ...int) (set uint64) {
	for _, id := range ids {
		set |= 1 << id
	}
	return set
}

// Which properties a client may put where.
var (
	onConnect = bit(propSessionExpiry, propAuthMethod, propAuthData, propRequestProblemInfo, propRequestResponse,
		propReceiveMaximum, propTopicAliasMaximum, propUser, propMaximumPacketSize)
	onWill    = bit(propPayloadFormat, propMessageExpiry, propContentType, propResponseTopic, propCorrelationData, propWillDelay, propUser)
	onPublish = bit(propPayloadFormat, propMessageExpiry, propContentType, propResponseTopic, propCorrelationData,
		propTopicAlias, propUser)
	onAck         = bit(propReasonString, propUser)
	onSubscribe   = bit(propSubscriptionID, propUser)
	onUnsubscribe = bit(propUser)
	onDisconnect  = bit(propSessionExpiry, propReasonString, propUser)
)

// properties iterates over the properties of a packet.
type properties struct {
	reader
	seen  uint64
	id    byte
	num   uint32 // of a number
	key   []byte // of a user property
	value []byte // of text, bytes and user properties
}

// properties begins with a packet's properties and moves the reader past them.
func (r *reader) properties() properties {
	return properties{reader: reader{b: r.take(int(r.varint())), err: r.err}}
}

// next decodes the next property. It refuses those that are not allowed here,
// and a second one of any but the user's.
func (p *properties) next(allowed uint64) bool {
	if p.err != nil || len(p.b) == 0 {
		return false
	}
	id := p.varint()
	if id > 63 || allowed&(1<<id) == 0 {
		p.fail(malformed("property does not belong here"))
		return false
	}
	if id != propUser && p.seen&(1<<id) != 0 {
		p.fail(violation("property stands twice"))
		return false
	}
	p.seen |= 1 << id
	p.id, p.num, p.key, p.value = byte(id), 0, nil, nil
	switch id {
	case propPayloadFormat, propRequestProblemInfo, propRequestResponse:
		if p.num = uint32(p.byte()); p.num > 1 {
			p.fail(violation("property is neither 0 nor 1"))
		}
	case propReceiveMaximum, propTopicAliasMaximum, propTopicAlias:
		p.num = uint32(p.uint16())
	case propMessageExpiry, propSessionExpiry, propWillDelay, propMaximumPacketSize:
		p.num = p.uint32()
	case propSubscriptionID:
		p.num = p.varint()
	case propContentType, propResponseTopic, propAuthMethod, propReasonString:
		p.value = p.string()
	case propCorrelationData, propAuthData:
		p.value = p.binary()
	case propUser:
		p.key, p.value = p.string(), p.string()
	default:
		p.fail(malformed("property of a server"))
	}
	return p.err == nil
}

// skip checks properties of which none is used.
func (p *properties) skip(allowed uint64) *Error {
	for p.next(allowed) {
	}
	return p.err
}
