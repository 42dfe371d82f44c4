package auth

import (
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"
)

const maxDeviceID = 128

// ValidDeviceID tells why a device cannot be called id: 1 to 128 bytes of
// UTF-8, no control characters, none of / # +, no space at either end. Dots,
// inner spaces, * and > are allowed; subjects carry ids escaped.
func ValidDeviceID(id string) error {
	bad := func(why string) error { return fmt.Errorf("device id %.140q: %s", id, why) }
	switch {
	case id == "":
		return bad("is empty")
	case len(id) > maxDeviceID:
		return fmt.Errorf("device id %.40q...: has %d bytes, at most %d are allowed", id, len(id), maxDeviceID)
	case !utf8.ValidString(id):
		return bad("is not UTF-8")
	case strings.ContainsAny(id, "/#+"):
		return bad("contains one of / # +")
	case strings.ContainsFunc(id, unicode.IsControl):
		return bad("contains a control character")
	case strings.TrimSpace(id) != id:
		return bad("begins or ends with a space")
	}
	return nil
}
