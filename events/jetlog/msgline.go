package jetlog

import "bytes"

// A msgLine is the line that a message begins with: MSG or HMSG of NATS's client
// protocol. Its parts lie in the line.
//
//	MSG <subject> <sid> [reply] <size>
//	HMSG <subject> <sid> [reply] <size of headers> <size>
type msgLine struct {
	subject, sid, reply []byte
	headers             int // of size
	size                int
}

// parseLine reads a line with its end; sid is nil when it begins no message.
// It is not ok when the line begins one and cannot be read.
func parseLine(line []byte) (f msgLine, ok bool) {
	var rest []byte
	counts := 1
	switch {
	case len(line) >= 4 && line[0]|0x20 == 'm' && line[1]|0x20 == 's' && line[2]|0x20 == 'g' && blank(line[3]):
		rest = line[4:]
	case len(line) >= 5 && line[0]|0x20 == 'h' && line[1]|0x20 == 'm' && line[2]|0x20 == 's' && line[3]|0x20 == 'g' && blank(line[4]):
		rest, counts = line[5:], 2
	case line[0]|0x20 == 'm' || line[0]|0x20 == 'h':
		return f, false
	default:
		return f, true
	}
	rest, crlf := bytes.CutSuffix(rest, []byte("\r\n"))
	if !crlf {
		return f, false
	}
	if f.size, rest = lastNumber(rest); f.size < 0 || f.size > maxFrame {
		return f, false
	}
	if counts == 2 {
		if f.headers, rest = lastNumber(rest); f.headers < 0 || f.headers > f.size {
			return f, false
		}
	}
	if f.subject, rest = word(rest); len(f.subject) == 0 {
		return f, false
	}
	if f.sid, rest = word(rest); len(f.sid) == 0 {
		return f, false
	}
	if f.reply, rest = word(rest); len(rest) > 0 {
		return f, false
	}
	return f, true
}

func blank(b byte) bool { return b == ' ' || b == '\t' }

// word cuts off the first word, and the blanks around it.
func word(b []byte) (w, rest []byte) {
	for len(b) > 0 && blank(b[0]) {
		b = b[1:]
	}
	n := 0
	for n < len(b) && !blank(b[n]) {
		n++
	}
	w, rest = b[:n], b[n:]
	for len(rest) > 0 && blank(rest[0]) {
		rest = rest[1:]
	}
	return w, rest
}

// lastNumber cuts off the last word, which must be a number of at most 9 digits;
// else it is -1.
func lastNumber(b []byte) (n int, rest []byte) {
	for len(b) > 0 && blank(b[len(b)-1]) {
		b = b[:len(b)-1]
	}
	from := len(b)
	for from > 0 && b[from-1] >= '0' && b[from-1] <= '9' {
		from--
	}
	if digits := len(b) - from; digits == 0 || digits > 9 || from > 0 && !blank(b[from-1]) {
		return -1, b
	}
	for _, c := range b[from:] {
		n = 10*n + int(c-'0')
	}
	return n, b[:from]
}
