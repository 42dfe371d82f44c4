package schemas

import (
	"math/bits"
	"strconv"
)

// Times are microseconds since 1970. The range is that of DateTime64(6).
const (
	minTime int64 = -2208988800 * micro   // 1900-01-01
	maxTime int64 = 10413792000*micro - 1 // the end of 2299
	micro         = 1_000_000
)

// time reads a time: RFC 3339 text, or a number in the unit of the field,
// milliseconds if it declares none. A field that declares text takes only text,
// one that declares a unit only numbers; the sample's own time takes both.
func (d *decoder) time(n *node, v *vector, slot, i int) int {
	if d.buf[i] != '"' {
		if n.timeUnit == "rfc3339" && !n.sampled {
			return d.mistyped(i, "time as string")
		}
		return d.numericTime(n, v, slot, i)
	}
	if c := d.buf[i+1]; n.scale != 0 && n.strings && (c == '-' || c-'0' <= 9 && d.buf[i+5] != '-') {
		// protojson writes 64-bit integers as strings.
		next := d.numericTime(n, v, slot, i+1)
		if next < 0 || d.buf[next] != '"' {
			return d.fail(i, BadTime, "")
		}
		return next + 1
	}
	if n.scale != 0 && !n.sampled {
		return d.mistyped(i, "time as number")
	}
	start, end, plain, next := d.quoted(i)
	if next < 0 {
		return -1
	}
	text, ok := d.plainText(start, end, plain)
	if !ok {
		return d.fail(start, InvalidUTF8, "half of a surrogate pair")
	}
	t, ok := parseRFC3339(text)
	if !ok {
		return d.fail(i, BadTime, "not RFC 3339")
	}
	if t < minTime || t > maxTime {
		return d.fail(i, BadTime, "outside 1900 to 2299")
	}
	v.putBits(slot, uint64(t))
	return next
}

func (d *decoder) numericTime(n *node, v *vector, slot, i int) int {
	x, next := d.number(i)
	if next < 0 {
		return d.numberless(i, 0)
	}
	scale := n.scale
	if scale == 0 {
		scale = 1e6
	}
	t, ok := x.micros(d.buf, scale)
	if !ok {
		return d.fail(i, BadTime, "outside 1900 to 2299")
	}
	v.putBits(slot, uint64(t))
	return next
}

// micros is the number, in units of scale nanoseconds, as microseconds rounded
// down; false outside the range of times.
func (x *number) micros(text []byte, scale int64) (int64, bool) {
	if x.exp == 0 && !x.long && x.mantissa < 1<<62 {
		if m := int64(x.mantissa); !x.negative {
			return scaleTime(m, scale)
		} else {
			return scaleTime(-m, scale)
		}
	}
	// mantissa * 10^exp * scale / 1000, the power of ten as one number.
	m, exp, inexact := x.mantissa, x.exp, false
	if x.long {
		m, exp, inexact = leading(text[x.start:x.end], x.exp)
	}
	for s := scale; s > 1; s /= 10 {
		exp++
	}
	exp -= 3
	for ; exp > 0 && m != 0; exp-- {
		high, low := bits.Mul64(m, 10)
		if high != 0 || low > 1<<62 {
			return 0, false
		}
		m = low
	}
	for ; exp < 0 && m != 0; exp++ {
		inexact = inexact || m%10 != 0
		m /= 10
	}
	if m > 1<<62 {
		return 0, false
	}
	t := int64(m)
	if x.negative {
		if t = -t; inexact {
			t--
		}
	}
	return t, t >= minTime && t <= maxTime
}

// leading is the first 19 significant digits of a number's text, the power of
// ten of the last of them, and whether anything but zeros follows.
func leading(text []byte, exp int) (m uint64, e int, more bool) {
	n, dropped := 0, 0
	for _, c := range text {
		if c|0x20 == 'e' {
			break
		}
		if c < '0' || c > '9' {
			continue
		}
		switch {
		case n == 19:
			dropped++
			more = more || c != '0'
		case n > 0 || c != '0':
			m = m*10 + uint64(c-'0')
			n++
		}
	}
	return m, exp + dropped, more
}

// scaleTime makes microseconds of v units of scale nanoseconds, rounded down;
// false outside the range of times.
func scaleTime(v, scale int64) (int64, bool) {
	if scale >= 1000 {
		factor := scale / 1000
		if v > maxTime/factor || v < minTime/factor {
			return 0, false
		}
		return v * factor, true
	}
	t := floorDiv(v, 1000/scale)
	return t, t >= minTime && t <= maxTime
}

func floorDiv(a, b int64) int64 {
	q := a / b
	if a%b < 0 {
		q--
	}
	return q
}

// parseRFC3339 reads 2006-01-02T15:04:05[.fraction](Z|+hh:mm|-hh:mm). Digits
// beyond microseconds are cut off.
func parseRFC3339(s []byte) (micros int64, ok bool) {
	if len(s) < 20 || s[4] != '-' || s[7] != '-' || s[10] != 'T' || s[13] != ':' || s[16] != ':' {
		return 0, false
	}
	ok = true
	two := func(i int) int64 {
		a, b := s[i]-'0', s[i+1]-'0'
		ok = ok && a <= 9 && b <= 9
		return int64(a)*10 + int64(b)
	}
	year, month, day := two(0)*100+two(2), two(5), two(8)
	hour, minute, second := two(11), two(14), two(17)
	if !ok || month < 1 || month > 12 || day < 1 || day > daysIn(year, month) || hour > 23 || minute > 59 || second > 59 {
		return 0, false
	}
	i := 19
	var fraction int64
	if s[i] == '.' {
		i++
		first := i
		for scale := int64(micro / 10); i < len(s) && s[i]-'0' <= 9; i++ {
			fraction += int64(s[i]-'0') * scale
			scale /= 10
		}
		if i == first {
			return 0, false
		}
	}
	var offset int64
	switch rest := s[i:]; {
	case len(rest) == 1 && rest[0] == 'Z':
	case len(rest) == 6 && (rest[0] == '+' || rest[0] == '-') && rest[3] == ':':
		h, m := two(i+1), two(i+4)
		if !ok || h > 23 || m > 59 {
			return 0, false
		}
		offset = h*3600 + m*60
		if rest[0] == '-' {
			offset = -offset
		}
	default:
		return 0, false
	}
	return (daysSince1970(year, month, day)*86400+hour*3600+minute*60+second-offset)*micro + fraction, true
}

func daysIn(year, month int64) int64 {
	switch month {
	case 2:
		if year%4 == 0 && (year%100 != 0 || year%400 == 0) {
			return 29
		}
		return 28
	case 4, 6, 9, 11:
		return 30
	}
	return 31
}

// daysSince1970 counts in the Gregorian calendar, years beginning in March.
func daysSince1970(year, month, day int64) int64 {
	if month <= 2 {
		year--
		month += 12
	}
	return 365*year + floorDiv(year, 4) - floorDiv(year, 100) + floorDiv(year, 400) + (153*(month-3)+2)/5 + day - 1 - 719468
}

// maxDuration is how many seconds fit into nanoseconds, with room to spare.
const maxDuration = 1 << 62 / 1_000_000_000

// duration reads a google.protobuf.Duration as protojson writes it, "1.5s",
// into nanoseconds.
func (d *decoder) duration(v *vector, slot, i int) int {
	if d.buf[i] != '"' {
		return d.mistyped(i, `duration like "1.5s"`)
	}
	start, end, _, next := d.quoted(i)
	if next < 0 {
		return -1
	}
	text := d.buf[start:end]
	if len(text) < 2 || text[len(text)-1] != 's' {
		return d.fail(i, WrongType, `want duration like "1.5s"`)
	}
	text = text[:len(text)-1]
	negative := text[0] == '-'
	if negative {
		text = text[1:]
	}
	whole, fraction := text, []byte(nil)
	for k, c := range text {
		if c == '.' {
			whole, fraction = text[:k], text[k+1:]
			break
		}
	}
	seconds, err := strconv.ParseUint(unsafeString(whole), 10, 63)
	if err != nil || len(fraction) > 9 || len(whole)+1 == len(text) {
		return d.fail(i, WrongType, `want duration like "1.5s"`)
	}
	var nanos int64
	for k := range 9 {
		nanos *= 10
		if k < len(fraction) {
			if fraction[k]-'0' > 9 {
				return d.fail(i, WrongType, `want duration like "1.5s"`)
			}
			nanos += int64(fraction[k] - '0')
		}
	}
	if seconds > maxDuration {
		return d.fail(i, OutOfRange, "duration beyond 146 years")
	}
	total := int64(seconds)*1e9 + nanos
	if negative {
		total = -total
	}
	v.putBits(slot, uint64(total))
	return next
}
