package events

import (
	"fmt"
	"math"
)

// A Position names one place in the log: sequences count up within a partition
// and are used again only in a new epoch.
type Position struct {
	Epoch     uint32 `json:"epoch"`
	Partition uint16 `json:"partition"`
	Seq       uint64 `json:"seq"`
}

// Partitions 0 to 255 hold telemetry, one range of slots each; the partitions
// from here on hold what is not telemetry.
const (
	ControlPartition    uint16 = 256
	DeadLetterPartition uint16 = 512
)

// Latest, as the upper bound of a read, stands for whatever the log holds when
// the read begins.
var Latest = Position{Epoch: math.MaxUint32, Seq: math.MaxUint64}

func (p Position) String() string {
	return fmt.Sprintf("%d.%d.%d", p.Epoch, p.Partition, p.Seq)
}

// A Cursor is the last event that a reader has dealt with. The id guards the
// position: after a power failure a log may be shorter than what a reader has
// seen, and use its sequences again (DESIGN.md, "Positions").
//
// The zero Cursor means: from the beginning. A cursor without an id is not
// guarded; it is for who begins at Bounds.
type Cursor struct {
	Position Position `json:"position"`
	ID       string   `json:"id"`
}

// PartitionsOf lists all partitions of a log with n of telemetry, ascending.
func PartitionsOf(n int) []uint16 {
	ps := make([]uint16, 0, n+2)
	for p := range n {
		ps = append(ps, uint16(p))
	}
	return append(ps, ControlPartition, DeadLetterPartition)
}
