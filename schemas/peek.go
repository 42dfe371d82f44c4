package schemas

import "time"

// PeekTime finds the device time of a message that has no schema: the field
// time of the first JSON sample, epoch milliseconds or RFC 3339. It answers
// false for everything else and never fails.
func PeekTime(payload []byte) (time.Time, bool) {
	var d decoder
	d.load(payload)
	d.plan = &plan{}
	i := d.space(0)
	if d.buf[i] == '{' {
		if list := d.envelope(i); list >= 0 {
			i = list
		}
	}
	if d.buf[i] == '[' {
		i = d.space(i + 1)
	}
	if d.buf[i] != '{' {
		return time.Time{}, false
	}
	for i = d.space(i + 1); d.buf[i] == '"'; {
		start, end, plain, next := d.quoted(i)
		if next < 0 {
			return time.Time{}, false
		}
		if i = d.space(next); d.buf[i] != ':' {
			return time.Time{}, false
		}
		i = d.space(i + 1)
		if plain && string(d.buf[start:end]) == TimeColumn {
			return d.peek(i)
		}
		if i = d.skip(i, 1); i < 0 {
			return time.Time{}, false
		}
		if i = d.space(i); d.buf[i] != ',' {
			return time.Time{}, false
		}
		i = d.space(i + 1)
	}
	return time.Time{}, false
}

func (d *decoder) peek(i int) (time.Time, bool) {
	var t int64
	var ok bool
	if d.buf[i] == '"' {
		start, end, plain, next := d.quoted(i)
		if next < 0 || !plain {
			return time.Time{}, false
		}
		t, ok = parseRFC3339(d.buf[start:end])
	} else if x, next := d.number(i); next > 0 {
		t, ok = x.micros(d.buf, 1e6)
	}
	if !ok || t < minTime || t > maxTime {
		return time.Time{}, false
	}
	return time.UnixMicro(t).UTC(), true
}
