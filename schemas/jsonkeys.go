package schemas

import (
	"bytes"
	"cmp"
	"slices"
)

// A keyRef is a key of an object, remembered to find the same one again.
type keyRef struct {
	hash       uint64
	start, end int32
	plain      bool
}

// noteKey remembers a key. It fails on text that is not valid.
func (d *decoder) noteKey(start, end int, plain bool) int {
	text, ok := d.plainText(start, end, plain)
	if !ok {
		return d.fail(start, InvalidUTF8, "half of a surrogate pair")
	}
	d.keys = append(d.keys, keyRef{hash(text), int32(start), int32(end), plain})
	return start
}

// hash is 64-bit FNV-1a.
func hash(b []byte) uint64 {
	h := uint64(14695981039346656037)
	for _, c := range b {
		h = (h ^ uint64(c)) * 1099511628211
	}
	return h
}

// twice looks for a key of the payload that stands twice among those remembered
// since from. It returns where the second one is, -1 if there is none.
func (d *decoder) twice(from int) int { return twice(d.keys[from:], d.buf) }

// twice does so for keys of any text. It may reorder them.
func twice(keys []keyRef, text []byte) int {
	if len(keys) < 2 {
		return -1
	}
	if len(keys) <= 8 {
		for i := range keys {
			for j := range i {
				if sameKey(keys[i], keys[j], text) {
					return int(keys[i].start)
				}
			}
		}
		return -1
	}
	slices.SortFunc(keys, func(a, b keyRef) int {
		if c := cmp.Compare(a.hash, b.hash); c != 0 {
			return c
		}
		return cmp.Compare(a.start, b.start)
	})
	// Equal hashes lie together. A payload made to collide costs a quadratic
	// search within the collision only up to collisions keys; beyond, it is refused.
	const collisions = 64
	for i := range keys {
		for j := i - 1; j >= 0 && keys[j].hash == keys[i].hash; j-- {
			if i-j > collisions || sameKey(keys[i], keys[j], text) {
				return int(keys[i].start)
			}
		}
	}
	return -1
}

func sameKey(a, b keyRef, text []byte) bool {
	if a.hash != b.hash {
		return false
	}
	if a.plain && b.plain {
		return bytes.Equal(text[a.start:a.end], text[b.start:b.end])
	}
	// Escaped keys are rare enough to be worth two allocations.
	ta, _ := unescape(nil, text[a.start:a.end])
	tb, _ := unescape(nil, text[b.start:b.end])
	return bytes.Equal(ta, tb)
}
