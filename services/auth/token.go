package auth

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
)

// tokenPrefix makes a leaked token recognizable to secret scanners.
const tokenPrefix = "tacho_"

// maxToken bounds what is hashed on behalf of a stranger.
const maxToken = 128

type digest = [sha256.Size]byte

// newToken returns a token of 256 random bits and its digest.
func newToken() (string, digest) {
	var b [32]byte
	_, _ = rand.Read(b[:]) // never fails, see crypto/rand
	token := tokenPrefix + base64.RawURLEncoding.EncodeToString(b[:])
	return token, sha256.Sum256([]byte(token))
}

// digestOf hashes what claims to be a token; ok is false for what cannot be one.
func digestOf(token string) (d digest, ok bool) {
	if token == "" || len(token) > maxToken {
		return d, false
	}
	var b [maxToken]byte
	return sha256.Sum256(b[:copy(b[:], token)]), true
}
