package events

import (
	"fmt"
	"strings"
)

// Slots is how many slots there are. It never changes: the slot stands in
// every subject, and a partition is a range of slots.
const Slots = 256

// Slot returns the slot of a device (or other aggregate): 32-bit FNV-1a of the
// id's bytes, its four bytes folded into one by exclusive or.
func Slot(id string) uint8 {
	h := uint32(2166136261)
	for i := 0; i < len(id); i++ {
		h = (h ^ uint32(id[i])) * 16777619
	}
	h ^= h >> 16
	return uint8(h ^ h>>8)
}

// PartitionOf returns which of n telemetry partitions holds a slot in a log that
// was never split; Layout knows those that were. Ranges are contiguous and differ
// in size by at most one slot.
func PartitionOf(slot uint8, n int) uint16 {
	return uint16(int(slot) * n / Slots)
}

const upperHex = "0123456789ABCDEF"

// Escape makes one subject token of any bytes: all outside [A-Za-z0-9_-]
// become =HH, as KV keys allow no more. The empty string becomes "=".
func Escape(id string) string {
	if id == "" {
		return "="
	}
	plain := 0
	for plain < len(id) && tokenByte(id[plain]) {
		plain++
	}
	if plain == len(id) {
		return id
	}
	var b strings.Builder
	b.Grow(len(id) + 8)
	b.WriteString(id[:plain])
	for i := plain; i < len(id); i++ {
		if c := id[i]; tokenByte(c) {
			b.WriteByte(c)
		} else {
			b.WriteByte('=')
			b.WriteByte(upperHex[c>>4])
			b.WriteByte(upperHex[c&15])
		}
	}
	return b.String()
}

// Unescape is the inverse of Escape. It refuses what Escape cannot have made.
func Unescape(token string) (string, error) {
	if token == "=" {
		return "", nil
	}
	if strings.IndexByte(token, '=') < 0 {
		if token == "" {
			return "", fmt.Errorf("unescape subject token: empty: %w", ErrInvalid)
		}
		for i := 0; i < len(token); i++ {
			if !tokenByte(token[i]) {
				return "", fmt.Errorf("unescape subject token %q: byte %#x: %w", token, token[i], ErrInvalid)
			}
		}
		return token, nil
	}
	b := make([]byte, 0, len(token))
	for i := 0; i < len(token); i++ {
		c := token[i]
		switch {
		case tokenByte(c):
			b = append(b, c)
		case c == '=' && i+2 < len(token):
			hi, lo := strings.IndexByte(upperHex, token[i+1]), strings.IndexByte(upperHex, token[i+2])
			if hi < 0 || lo < 0 || tokenByte(byte(hi<<4|lo)) {
				return "", fmt.Errorf("unescape subject token %q: bad escape at %d: %w", token, i, ErrInvalid)
			}
			b = append(b, byte(hi<<4|lo))
			i += 2
		default:
			return "", fmt.Errorf("unescape subject token %q: bad byte at %d: %w", token, i, ErrInvalid)
		}
	}
	return string(b), nil
}

// tokenBytes are those that a subject token may have as they are. It is a table because
// ids are as good as random: comparisons would be foretold wrongly at every fourth byte.
var tokenBytes = func() (is [256]bool) {
	for _, c := range "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-" {
		is[c] = true
	}
	return is
}()

func tokenByte(c byte) bool { return tokenBytes[c] }
