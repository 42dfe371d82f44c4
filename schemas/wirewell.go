package schemas

import "strconv"

// wireTimestamp reads a google.protobuf.Timestamp: seconds and nanoseconds. One
// that comes in several pieces is merged, as protobuf has it.
func (d *decoder) wireTimestamp(v *vector, slot, i, end int) int {
	var seconds, nanos int64
	if v.has(slot) {
		was := *at[int64](v, slot)
		seconds = floorDiv(was, micro)
		nanos = (was - seconds*micro) * 1000
	}
	start := i
	seconds, nanos, i = d.secondsNanos(seconds, nanos, i, end)
	if i < 0 {
		return -1
	}
	if nanos < 0 || nanos > 999999999 || seconds < minTime/micro || seconds > maxTime/micro {
		return d.fail(start, BadTime, "outside 1900 to 2299")
	}
	v.putBits(slot, uint64(seconds*micro+nanos/1000))
	return i
}

// wireDuration reads a google.protobuf.Duration into nanoseconds.
func (d *decoder) wireDuration(v *vector, slot, i, end int) int {
	var seconds, nanos int64
	if v.has(slot) {
		was := *at[int64](v, slot)
		seconds, nanos = was/1e9, was%1e9
	}
	start := i
	seconds, nanos, i = d.secondsNanos(seconds, nanos, i, end)
	switch {
	case i < 0:
		return -1
	case nanos < -999999999 || nanos > 999999999 || seconds > 0 && nanos < 0 || seconds < 0 && nanos > 0:
		return d.fail(start, WrongType, "nanoseconds that are none")
	case seconds > maxDuration || seconds < -maxDuration:
		return d.fail(start, OutOfRange, "duration beyond 146 years")
	}
	v.putBits(slot, uint64(seconds*1e9+nanos))
	return i
}

// secondsNanos reads the two fields that Timestamp and Duration have.
func (d *decoder) secondsNanos(seconds, nanos int64, i, end int) (int64, int64, int) {
	for i < end {
		key, next := d.key(i, end)
		if next < 0 {
			return 0, 0, -1
		}
		var x uint64
		switch key {
		case 1<<3 | varintType:
			x, i = d.varint(next, end)
			seconds = int64(x)
		case 2<<3 | varintType:
			x, i = d.varint(next, end)
			nanos = int64(int32(x))
		default:
			return 0, 0, d.foreign(key, i)
		}
		if i < 0 {
			return 0, 0, -1
		}
	}
	return seconds, nanos, i
}

// wireWrapper reads a message of wrappers.proto: its value is in tag 1 and zero
// where it is missing.
func (d *decoder) wireWrapper(n *node, v *vector, slot, i, end int) int {
	if !v.has(slot) {
		v.zero(slot)
	}
	for i < end {
		key, next := d.key(i, end)
		if next < 0 {
			return -1
		}
		if key != 1<<3|wireTypeOf(n.inner) {
			return d.foreign(key, i)
		}
		if i = d.wireValue(n.inner, v, slot, next, end); i < 0 {
			return -1
		}
	}
	return i
}

// foreign fails on a field that a message of protobuf's own does not have, and
// that therefore could not be kept.
func (d *decoder) foreign(key uint64, i int) int {
	return d.fail(i, WrongType, "field "+strconv.FormatUint(key>>3, 10)+" of wire type "+strconv.FormatUint(key&7, 10)+" is out of place")
}
