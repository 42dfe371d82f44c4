package schemas

import (
	"encoding/binary"
	"math/bits"
	"unicode/utf8"
	"unsafe"
)

// maxDepth is how deep values may be nested in a payload.
const maxDepth = 64

// sentinel stands behind the payload in a decoder's buffer. Its bytes are not
// valid anywhere in JSON, so that a scan needs no other check for the end, and
// there are enough of them to read words.
const sentinel = "\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"

// space skips white space.
func (d *decoder) space(i int) int {
	for {
		switch d.buf[i] {
		case ' ', '\n', '\t', '\r':
			i++
		default:
			return i
		}
	}
}

// syntax fails at a byte that cannot stand where it does.
func (d *decoder) syntax(i int) int {
	if i >= d.end {
		return d.fail(d.end, Truncated, "")
	}
	return d.fail(i, NotJSON, "")
}

const (
	ones  = 0x0101010101010101
	highs = 0x8080808080808080
)

// quoted scans a string whose opening quote is at i. It returns the bounds of
// what stands between the quotes, whether it is plain (no escapes), and where
// the text goes on (-1: failed).
func (d *decoder) quoted(i int) (start, end int, plain bool, next int) {
	b := d.buf
	i++
	start = i
	plain = true
	ascii := true
	for {
		w := binary.LittleEndian.Uint64(b[i:])
		quote := w ^ ones*'"'
		slash := w ^ ones*'\\'
		// The high bit of the lowest byte that is a quote, a backslash, a control
		// character or beyond ASCII. Bytes above a hit may be wrong, it is not.
		hit := (quote-ones)&^quote | (slash-ones)&^slash | (w-ones*0x20)&^w | w
		hit &= highs
		if hit == 0 {
			i += 8
			continue
		}
		i += bits.TrailingZeros64(hit) >> 3
		switch c := b[i]; {
		case c == '"':
			if !ascii && !d.lenient && !utf8.Valid(b[start:i]) {
				return 0, 0, false, d.fail(start, InvalidUTF8, "")
			}
			return start, i, plain, i + 1
		case c == '\\':
			plain = false
			if i = d.escape(i); i < 0 {
				return 0, 0, false, -1
			}
		case c < 0x20:
			return 0, 0, false, d.syntax(i)
		default:
			ascii = false
			i++
		}
	}
}

// escape checks the escape at i and returns where it ends.
func (d *decoder) escape(i int) int {
	switch d.buf[i+1] {
	case '"', '\\', '/', 'b', 'f', 'n', 'r', 't':
		return i + 2
	case 'u':
		for j := i + 2; j < i+6; j++ {
			if unhex(d.buf[j]) < 0 {
				return d.syntax(j)
			}
		}
		return i + 6
	}
	return d.syntax(i + 1)
}

func unhex(c byte) int {
	switch {
	case c >= '0' && c <= '9':
		return int(c - '0')
	case c|0x20 >= 'a' && c|0x20 <= 'f':
		return int(c|0x20-'a') + 10
	}
	return -1
}

func unhex4(b []byte) rune {
	return rune(unhex(b[0])<<12 | unhex(b[1])<<8 | unhex(b[2])<<4 | unhex(b[3]))
}

// unescape appends what the escaped text of a scanned string stands for. It
// answers false for half of a surrogate pair, which no text can hold.
func unescape(dst, src []byte) ([]byte, bool) {
	for i := 0; i < len(src); {
		c := src[i]
		if c != '\\' {
			dst = append(dst, c)
			i++
			continue
		}
		switch c = src[i+1]; c {
		case 'b':
			dst = append(dst, '\b')
		case 'f':
			dst = append(dst, '\f')
		case 'n':
			dst = append(dst, '\n')
		case 'r':
			dst = append(dst, '\r')
		case 't':
			dst = append(dst, '\t')
		case 'u':
			r := unhex4(src[i+2:])
			i += 6
			if r&^0x7ff == 0xd800 {
				if r >= 0xdc00 || i+6 > len(src) || src[i] != '\\' || src[i+1] != 'u' {
					return dst, false
				}
				low := unhex4(src[i+2:])
				if low&^0x3ff != 0xdc00 {
					return dst, false
				}
				r = 0x10000 + (r-0xd800)<<10 + (low - 0xdc00)
				i += 6
			}
			dst = utf8.AppendRune(dst, r)
			continue
		default:
			dst = append(dst, c)
		}
		i += 2
	}
	return dst, true
}

// plainText returns what a scanned string stands for: the payload's own bytes
// where they say it, else bytes of the scratch buffer.
func (d *decoder) plainText(start, end int, plain bool) ([]byte, bool) {
	if plain {
		return d.buf[start:end], true
	}
	var ok bool
	d.scratch, ok = unescape(d.scratch[:0], d.buf[start:end])
	return d.scratch, ok
}

// literal checks that a word stands at i and returns where it ends.
func (d *decoder) literal(i int, word string) int {
	if string(d.buf[i:i+len(word)]) != word {
		for j := range len(word) {
			if d.buf[i+j] != word[j] {
				return d.syntax(i + j)
			}
		}
	}
	return i + len(word)
}

// A frame is an open array or object of a value that is skipped.
type frame struct {
	object bool
	keys   int // where its keys begin in d.keys
}

// skip passes over one JSON value and checks it: syntax always; nesting, UTF-8,
// keys that stand twice and what is not finite unless the decoder is lenient.
func (d *decoder) skip(i, depth int) int {
	base := len(d.frames)
	limit := base + maxDepth - depth
	if d.lenient {
		limit = base + 10000
	}
	firstKey := len(d.keys)
	i = d.skipFrames(i, base, limit)
	d.frames = d.frames[:base]
	d.keys = d.keys[:firstKey]
	return i
}

func (d *decoder) skipFrames(i, base, limit int) int {
	b := d.buf
value:
	i = d.space(i)
	switch c := b[i]; {
	case c == '"':
		start, end, plain, next := d.quoted(i)
		if i = next; i < 0 {
			return -1
		}
		if !plain && !d.lenient {
			if _, ok := d.plainText(start, end, plain); !ok {
				return d.fail(start, InvalidUTF8, "half of a surrogate pair")
			}
		}
	case c == '{' || c == '[':
		if len(d.frames) >= limit {
			return d.fail(i, TooDeep, "")
		}
		d.frames = append(d.frames, frame{c == '{', len(d.keys)})
		i = d.space(i + 1)
		if b[i] == c+2 { // } or ]
			goto closed
		}
		if c == '{' {
			goto key
		}
		goto value
	case c == 't':
		i = d.literal(i, "true")
	case c == 'f':
		i = d.literal(i, "false")
	case c == 'n' && b[i+1] != 'a': // nan is dealt with below
		i = d.literal(i, "null")
	default:
		_, i = d.number(i)
	}
	if i < 0 {
		return -1
	}
after:
	if len(d.frames) == base {
		return i
	}
	i = d.space(i)
	switch top := d.frames[len(d.frames)-1]; {
	case b[i] == ',' && top.object:
		i = d.space(i + 1)
		goto key
	case b[i] == ',':
		i++
		goto value
	case b[i] == '}' && top.object, b[i] == ']' && !top.object:
		goto closed
	}
	return d.syntax(i)
key:
	if b[i] != '"' {
		return d.syntax(i)
	}
	{
		start, end, plain, next := d.quoted(i)
		if next < 0 {
			return -1
		}
		if !d.lenient {
			if i = d.noteKey(start, end, plain); i < 0 {
				return -1
			}
		}
		i = d.space(next)
	}
	if b[i] != ':' {
		return d.syntax(i)
	}
	i++
	goto value
closed:
	{
		top := d.frames[len(d.frames)-1]
		if top.object && !d.lenient {
			if at := d.twice(top.keys); at >= 0 {
				return d.fail(at, DuplicateKey, "")
			}
		}
		d.frames = d.frames[:len(d.frames)-1]
		d.keys = d.keys[:top.keys]
		i++
		goto after
	}
}

// unsafeString views bytes as a string, for calls that do not keep it.
func unsafeString(b []byte) string {
	return unsafe.String(unsafe.SliceData(b), len(b))
}
