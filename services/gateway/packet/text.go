package packet

import "strings"

// validText makes text fit for the wire: UTF-8 without control characters.
func validText(s string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7F {
			return ' '
		}
		return r
	}, strings.ToValidUTF8(s, "?"))
}
