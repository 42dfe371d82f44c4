package events

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
)

// Cursors is where a reader of several partitions is: for each of them the last
// event that it has dealt with.
type Cursors map[uint16]Cursor

// Advance notes that an event was dealt with.
func (c Cursors) Advance(e *Event) {
	c[e.Position.Partition] = Cursor{Position: e.Position, ID: e.ID}
}

// Clone returns a copy.
func (c Cursors) Clone() Cursors { return maps.Clone(c) }

// Token returns the cursors as text that may stand in a URL as it is, one
//
//	<epoch>.<partition>.<sequence>[.<id>]
//
// for each partition, ascending, with commas between them.
func (c Cursors) Token() string { return string(c.AppendToken(nil)) }

// AppendToken appends what Token returns.
func (c Cursors) AppendToken(b []byte) []byte {
	if len(c) == 1 {
		for _, at := range c {
			return at.append(b)
		}
	}
	for i, p := range slices.Sorted(maps.Keys(c)) {
		if i > 0 {
			b = append(b, ',')
		}
		b = c[p].append(b)
	}
	return b
}

func (c Cursor) append(b []byte) []byte {
	b = append(strconv.AppendUint(b, uint64(c.Position.Epoch), 10), '.')
	b = append(strconv.AppendUint(b, uint64(c.Position.Partition), 10), '.')
	b = strconv.AppendUint(b, c.Position.Seq, 10)
	if c.ID != "" {
		b = append(append(b, '.'), c.ID...)
	}
	return b
}

// maxCursors is how many partitions there can be.
const maxCursors = Slots + 2

// ParseCursors is the inverse of Token. Errors wrap ErrInvalid.
func ParseCursors(token string) (Cursors, error) {
	all := Cursors{}
	for i, part := range strings.SplitN(token, ",", maxCursors+1) {
		c, ok := parseCursor(part)
		if _, twice := all[c.Position.Partition]; !ok || twice || i == maxCursors {
			return nil, fmt.Errorf("token %.100q: want epoch.partition.sequence[.id], once for each partition: %w", token, ErrInvalid)
		}
		all[c.Position.Partition] = c
	}
	return all, nil
}

func parseCursor(s string) (c Cursor, ok bool) {
	parts := strings.SplitN(s, ".", 4)
	if len(parts) < 3 {
		return c, false
	}
	epoch, err1 := strconv.ParseUint(parts[0], 10, 32)
	partition, err2 := strconv.ParseUint(parts[1], 10, 16)
	seq, err3 := strconv.ParseUint(parts[2], 10, 64)
	if err1 != nil || err2 != nil || err3 != nil {
		return c, false
	}
	c.Position = Position{Epoch: uint32(epoch), Partition: uint16(partition), Seq: seq}
	if len(parts) == 4 {
		c.ID = parts[3]
		return c, ValidID(c.ID)
	}
	return c, true
}
