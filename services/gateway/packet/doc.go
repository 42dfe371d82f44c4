// Package packet is the server's half of the MQTT wire format, versions 3.1.1
// and 5: it decodes what clients send and encodes what servers answer.
//
// Decoding takes whole packets out of a connection's read buffer and copies
// nothing: slices point into the buffer. It checks everything that can be
// checked without knowing the session, and no bytes make it panic. The errors
// are *Error and carry the reason code that version 5 sends.
package packet

import "fmt"

// Protocol levels as CONNECT carries them.
const (
	V311 byte = 4
	V5   byte = 5
)

// A Type is the kind of a control packet.
type Type byte

// The types.
const (
	CONNECT Type = iota + 1
	CONNACK
	PUBLISH
	PUBACK
	PUBREC
	PUBREL
	PUBCOMP
	SUBSCRIBE
	SUBACK
	UNSUBSCRIBE
	UNSUBACK
	PINGREQ
	PINGRESP
	DISCONNECT
	AUTH
)

// An Error is a packet that breaks the protocol.
type Error struct {
	Code   Code
	Detail string
}

func (e *Error) Error() string { return fmt.Sprintf("%s: %s", e.Code, e.Detail) }

func malformed(detail string) *Error { return &Error{MalformedPacket, detail} }
func violation(detail string) *Error { return &Error{ProtocolError, detail} }
