package events

import (
	"crypto/rand"
	"encoding/base64"

	"github.com/zeebo/xxh3"
)

// DeriveID returns the id of a message that carries its own time: the same
// device sending the same bytes again is the same event. It is XXH3-128 of the
// payload, seeded with XXH3-64 of device, a zero byte and type, big endian, in
// 22 characters of unpadded base64url. Repeats are only ever looked for within
// one device, so a device can at most repeat itself.
func DeriveID(device, typ string, payload []byte) string {
	var id [DerivedLength]byte
	return string(AppendDerivedID(id[:0], device, typ, payload))
}

// DerivedLength is how many bytes an id of DeriveID has.
const DerivedLength = 22

// AppendDerivedID appends what DeriveID returns.
func AppendDerivedID(to []byte, device, typ string, payload []byte) []byte {
	var stack [192]byte
	seed := append(append(append(stack[:0], device...), 0), typ...)
	sum := xxh3.Hash128Seed(payload, xxh3.Hash(seed)).Bytes()
	return base64.RawURLEncoding.AppendEncode(to, sum[:])
}

// UniqueID returns an id that no other event has: 128 random bits, for
// messages without a time of their own, which are never taken for repeats.
func UniqueID() string {
	var b [16]byte
	_, _ = rand.Read(b[:]) // never fails, see crypto/rand
	return base64.RawURLEncoding.EncodeToString(b[:])
}

const maxID = 64

// ValidID tells whether an id may stand in the log: 1 to 64 bytes of [A-Za-z0-9_-].
func ValidID(id string) bool {
	if id == "" || len(id) > maxID {
		return false
	}
	for i := 0; i < len(id); i++ {
		if !tokenByte(id[i]) {
			return false
		}
	}
	return true
}
