package shadow

import (
	"bytes"
	"strconv"

	"github.com/go-json-experiment/json/jsontext"
)

// equalValues compares two leaves: strings, booleans and arrays byte for byte
// (they were normalised when they came in), numbers by their exact value, so
// that 1, 1.0 and 10e-1 are equal and two 64-bit integers never are by rounding.
// Inside arrays numbers are compared as they were written: [1] and [1.0] differ.
func equalValues(a, b jsontext.Value) bool {
	if bytes.Equal(a, b) {
		return true
	}
	if a.Kind() != '0' || b.Kind() != '0' {
		return false
	}
	x, okX := parseDecimal(a)
	y, okY := parseDecimal(b)
	return okX && okY && x == y
}

// A decimal is sign · 0.digits · 10^exp with no zero at either end of digits.
type decimal struct {
	negative bool
	digits   string
	exp      int64
}

// parseDecimal reads a valid JSON number. ok is false for an exponent that no
// int64 holds.
func parseDecimal(v jsontext.Value) (d decimal, ok bool) {
	if v[0] == '-' {
		d.negative, v = true, v[1:]
	}
	if i := bytes.IndexAny(v, "eE"); i >= 0 {
		exp, err := strconv.ParseInt(string(v[i+1:]), 10, 62)
		if err != nil {
			return d, false
		}
		d.exp, v = exp, v[:i]
	}
	point := bytes.IndexByte(v, '.')
	if point < 0 {
		point = len(v)
	} else {
		v = append(append([]byte{}, v[:point]...), v[point+1:]...)
	}
	d.exp += int64(point)
	trimmed := bytes.TrimLeft(v, "0")
	d.exp -= int64(len(v) - len(trimmed))
	d.digits = string(bytes.TrimRight(trimmed, "0"))
	if d.digits == "" {
		return decimal{}, true // zero has no sign and no exponent
	}
	return d, true
}
