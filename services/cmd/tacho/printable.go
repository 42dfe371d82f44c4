package main

import (
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"
)

// printable makes of any text one that a terminal can't be steered with: a
// device chooses what its ids and strings hold. What is not a graphic character
// or a plain space appears as a Go escape.
func printable(s string) string {
	clean := func(r rune, size int) bool {
		return (r != utf8.RuneError || size > 1) && unicode.IsPrint(r)
	}
	for i, r := range s {
		_, size := utf8.DecodeRuneInString(s[i:])
		if !clean(r, size) {
			var b strings.Builder
			for i := 0; i < len(s); {
				r, size := utf8.DecodeRuneInString(s[i:])
				if clean(r, size) {
					b.WriteString(s[i : i+size])
				} else {
					quoted := strconv.QuoteToGraphic(s[i : i+size])
					b.WriteString(quoted[1 : len(quoted)-1])
				}
				i += size
			}
			return b.String()
		}
	}
	return s
}
