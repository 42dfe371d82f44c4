package packet

import "fmt"

// A Code is a reason code of version 5.
type Code byte

// The reason codes that this server sends or understands.
const (
	Success                    Code = 0x00
	DisconnectWithWill         Code = 0x04
	NoSubscriptionExisted      Code = 0x11
	UnspecifiedError           Code = 0x80
	MalformedPacket            Code = 0x81
	ProtocolError              Code = 0x82
	ImplementationError        Code = 0x83
	UnsupportedVersion         Code = 0x84
	BadClientID                Code = 0x85
	BadUserNameOrPassword      Code = 0x86
	NotAuthorized              Code = 0x87
	ServerUnavailable          Code = 0x88
	ServerBusy                 Code = 0x89
	ServerShuttingDown         Code = 0x8B
	BadAuthenticationMethod    Code = 0x8C
	KeepAliveTimeout           Code = 0x8D
	SessionTakenOver           Code = 0x8E
	TopicFilterInvalid         Code = 0x8F
	TopicNameInvalid           Code = 0x90
	PacketIDInUse              Code = 0x91
	PacketIDNotFound           Code = 0x92
	ReceiveMaximumExceeded     Code = 0x93
	TopicAliasInvalid          Code = 0x94
	PacketTooLarge             Code = 0x95
	QuotaExceeded              Code = 0x97
	AdministrativeAction       Code = 0x98
	PayloadFormatInvalid       Code = 0x99
	RetainNotSupported         Code = 0x9A
	SharedSubsNotSupported     Code = 0x9E
	SubscriptionIDNotSupported Code = 0xA1
)

var codeNames = map[Code]string{
	Success: "success", DisconnectWithWill: "disconnect with will", NoSubscriptionExisted: "no subscription existed",
	UnspecifiedError: "unspecified error", MalformedPacket: "malformed packet", ProtocolError: "protocol error",
	ImplementationError: "implementation error", UnsupportedVersion: "unsupported protocol version", BadClientID: "client id not valid",
	BadUserNameOrPassword: "bad user name or password", NotAuthorized: "not authorized", ServerUnavailable: "server unavailable",
	ServerBusy: "server busy", ServerShuttingDown: "server shutting down", BadAuthenticationMethod: "bad authentication method",
	KeepAliveTimeout: "keep alive timeout", SessionTakenOver: "session taken over", TopicFilterInvalid: "topic filter invalid",
	TopicNameInvalid: "topic name invalid", PacketIDInUse: "packet id in use", PacketIDNotFound: "packet id not found",
	ReceiveMaximumExceeded: "receive maximum exceeded", TopicAliasInvalid: "topic alias invalid", PacketTooLarge: "packet too large",
	QuotaExceeded: "quota exceeded", AdministrativeAction: "administrative action", PayloadFormatInvalid: "payload format invalid",
	RetainNotSupported: "retain not supported", SharedSubsNotSupported: "shared subscriptions not supported",
	SubscriptionIDNotSupported: "subscription identifiers not supported",
}

func (c Code) String() string {
	if name := codeNames[c]; name != "" {
		return name
	}
	return fmt.Sprintf("reason 0x%02X", byte(c))
}

// ReturnCode returns what version 3.1.1's CONNACK says instead.
func (c Code) ReturnCode() byte {
	switch c {
	case Success:
		return 0
	case UnsupportedVersion:
		return 1
	case BadClientID:
		return 2
	case BadUserNameOrPassword:
		return 4
	case NotAuthorized:
		return 5
	}
	return 3
}
