package schemas

import (
	"encoding/binary"
	"math"
	"math/bits"
	"strconv"
)

// A number is a JSON number as it stands in the text: the digits as one
// integer, times ten to the exp.
type number struct {
	mantissa   uint64
	exp        int
	negative   bool
	long       bool // more digits than the mantissa holds: only the text is exact
	start, end int
}

// maxExp bounds exponents, so that they can be added up.
const maxExp = 1 << 40

// number scans a JSON number at i and returns where it ends (-1: failed).
func (d *decoder) number(i int) (x number, next int) {
	b := d.buf
	x.start = i
	if b[i] == '-' {
		x.negative = true
		i++
	}
	c := b[i] - '0'
	if c > 9 {
		return x, d.noNumber(i)
	}
	m := uint64(c)
	i++
	digits := 1
	if c == 0 {
		if b[i]-'0' <= 9 {
			return x, d.fail(i, NotJSON, "number begins with 0")
		}
	} else {
		first := i
		for c = b[i] - '0'; c <= 9; c = b[i] - '0' {
			m = m*10 + uint64(c)
			i++
		}
		digits += i - first
	}
	if b[i] == '.' {
		i++
		first := i
		for c = b[i] - '0'; c <= 9; c = b[i] - '0' {
			m = m*10 + uint64(c)
			i++
		}
		if i == first {
			return x, d.syntax(i)
		}
		x.exp = first - i
		digits += i - first
	}
	x.mantissa = m
	x.long = digits > 19
	if b[i]|0x20 == 'e' {
		if i = d.exponent(i+1, &x); i < 0 {
			return x, -1
		}
	}
	x.end = i
	return x, i
}

func (d *decoder) exponent(i int, x *number) int {
	negative := d.buf[i] == '-'
	if negative || d.buf[i] == '+' {
		i++
	}
	if d.buf[i]-'0' > 9 {
		return d.syntax(i)
	}
	exp := 0
	for ; d.buf[i]-'0' <= 9; i++ {
		exp = min(exp*10+int(d.buf[i]-'0'), maxExp)
	}
	if negative {
		exp = -exp
	}
	x.exp += exp
	return i
}

// noNumber fails where a number should begin. The names of values that are not
// finite, which several languages' JSON writers produce, are told apart from
// text that is not JSON: the rest of the message can still be read.
func (d *decoder) noNumber(i int) int {
	for _, word := range [...]string{"NaN", "Infinity", "nan", "inf"} {
		if d.buf[i] == word[0] && string(d.buf[i:min(i+len(word), len(d.buf))]) == word {
			if d.lenient {
				return i + len(word)
			}
			return d.fail(i, NotFinite, word)
		}
	}
	return d.syntax(i)
}

var powers = [...]float64{
	1e0, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9, 1e10, 1e11, 1e12, 1e13, 1e14, 1e15, 1e16, 1e17, 1e18, 1e19, 1e20, 1e21, 1e22,
}

// float64 is the double nearest to the number; false if it is too large. Below
// 2^53 and within 10^22 one division or multiplication is exact (Clinger); the
// rest is strconv's.
func (x *number) float64(text []byte) (float64, bool) {
	if x.mantissa < 1<<53 && !x.long {
		f := float64(x.mantissa)
		if x.negative {
			f = -f
		}
		switch {
		case x.exp == 0:
			return f, true
		case x.exp < 0 && x.exp >= -22:
			return f / powers[-x.exp], true
		case x.exp > 0 && x.exp <= 22:
			return f * powers[x.exp], true
		}
	}
	f, err := strconv.ParseFloat(unsafeString(text[x.start:x.end]), 64)
	return f, err == nil
}

// float32 is the float nearest to the number; false if it is too large. Going
// by way of the nearest double errs only where that lies exactly between two
// floats.
func (x *number) float32(text []byte) (float32, bool) {
	f, ok := x.float64(text)
	if !ok {
		return 0, false
	}
	if between := math.Float64bits(f)&(1<<29-1) == 1<<28; between || math.Abs(f) < 0x1p-125 && f != 0 {
		f, err := strconv.ParseFloat(unsafeString(text[x.start:x.end]), 32)
		return float32(f), err == nil
	}
	g := float32(f)
	return g, !math.IsInf(float64(g), 0)
}

// integer is the number as sign and magnitude. whole is false if there is
// anything behind the point, fits is false beyond 64 bits.
func (x *number) integer(text []byte) (magnitude uint64, whole, fits bool) {
	if x.exp == 0 && !x.long {
		return x.mantissa, true, true
	}
	return wholeNumber(text[x.start:x.end], x.exp)
}

// wholeNumber reads the digits of a number's text exactly; exp is the power of
// ten of its last digit.
func wholeNumber(text []byte, exp int) (magnitude uint64, whole, fits bool) {
	var digits [20]byte
	n, zeros := 0, 0 // significant digits; zeros that may turn out to be trailing
	long := false
	for _, c := range text {
		if c|0x20 == 'e' {
			break
		}
		switch {
		case c < '0' || c > '9' || c == '0' && n == 0:
			continue
		case c == '0':
			zeros++
			continue
		}
		for ; zeros > 0 || c != 0; n++ {
			if n == len(digits) {
				long = true
				n--
			}
			if zeros > 0 {
				digits[n] = 0
				zeros--
				continue
			}
			digits[n] = c - '0'
			c = 0
		}
	}
	exp += zeros
	switch {
	case n == 0:
		return 0, true, true
	case exp < 0:
		return 0, false, true
	case long || n+exp > 20:
		return 0, true, false
	}
	for _, c := range digits[:n] {
		if magnitude > (math.MaxUint64-uint64(c))/10 {
			return 0, true, false
		}
		magnitude = magnitude*10 + uint64(c)
	}
	for ; exp > 0; exp-- {
		if magnitude > math.MaxUint64/10 {
			return 0, true, false
		}
		magnitude *= 10
	}
	return magnitude, true, true
}

// digits reads up to eight digits at i as one number.
func digits(b []byte, i int) (value uint64, n int) {
	w := binary.LittleEndian.Uint64(b[i:]) - ones*'0'
	n = bits.TrailingZeros64(((w+ones*0x76)|w)&highs) >> 3
	w <<= (8 - n) * 8
	w = w*10 + w>>8 // pairs
	const pair = 0x000000ff000000ff
	return ((w&pair)*(100+1_000_000<<32) + (w>>16&pair)*(1+10_000<<32)) >> 32, n
}

var tens = [...]uint64{1, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8}

// plainInteger reads the usual integer: up to 16 digits, no point, no exponent.
// next is 0 for every other text, which number deals with.
func (d *decoder) plainInteger(i int) (m uint64, next int) {
	b := d.buf
	m, n := digits(b, i)
	if n == 0 || b[i] == '0' && n > 1 {
		return 0, 0
	}
	i += n
	if n == 8 {
		more, k := digits(b, i)
		if k == 8 {
			return 0, 0
		}
		m = m*tens[k] + more
		i += k
	}
	if c := b[i]; c == '.' || c|0x20 == 'e' {
		return 0, 0
	}
	return m, i
}

// plainFloat reads the usual decimal number: up to 7 digits before the point and
// 7 behind it, no exponent; their integer is below 2^53 and the power of ten
// exact, so one division is all. next is 0 for every other text.
func (d *decoder) plainFloat(i int) (f float64, next int) {
	b := d.buf
	first := i
	if b[i] == '-' {
		i++
	}
	m, n := digits(b, i)
	if n == 0 || n == 8 || b[i] == '0' && n > 1 {
		return 0, 0
	}
	i += n
	k := 0
	if b[i] == '.' {
		var fraction uint64
		if fraction, k = digits(b, i+1); k == 0 || k == 8 {
			return 0, 0
		}
		m = m*tens[k] + fraction
		i += 1 + k
	}
	if b[i]|0x20 == 'e' {
		return 0, 0
	}
	f = float64(m) / powers[k&15]
	if b[first] == '-' {
		f = -f
	}
	return f, i
}
