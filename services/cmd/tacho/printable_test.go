package main

import (
	"testing"
	"unicode"
)

func TestPrintable(t *testing.T) {
	for in, want := range map[string]string{
		"":                    "",
		"car-1":               "car-1",
		"ä🚗 b":                "ä🚗 b",
		"a\x1b[31mred":        `a\x1b[31mred`,
		"a\nb\tc\r":           `a\nb\tc\r`,
		"\u009b31m":           `\u009b31m`,
		"\xff":                `\xff`,
		"\u202egnp.exe":       `\u202egnp.exe`,
		"\uFFFD":              "\uFFFD",
		`already \x1b a text`: `already \x1b a text`,
	} {
		if got := printable(in); got != want {
			t.Errorf("%q: %q, want %q", in, got, want)
		}
	}
}

func FuzzPrintable(f *testing.F) {
	f.Add("a\x1b[31m\u009b\xff")
	f.Fuzz(func(t *testing.T, s string) {
		for _, r := range printable(s) {
			if !unicode.IsPrint(r) {
				t.Fatalf("%q: %q is left", s, r)
			}
		}
	})
}
