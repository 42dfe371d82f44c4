package events

import "fmt"

// Expect is what an append takes for granted about its stream.
// The zero value is Any.
type Expect struct {
	mode expectMode
	seq  uint64
}

type expectMode uint8

const (
	expectAny expectMode = iota
	expectFresh
	expectAt
)

// Any appends whatever the stream holds.
var Any = Expect{}

// Fresh appends only to a stream that has no event yet.
var Fresh = Expect{mode: expectFresh}

// At appends only if the stream's newest event has this sequence.
// At(0) is Fresh.
func At(seq uint64) Expect {
	if seq == 0 {
		return Fresh
	}
	return Expect{mode: expectAt, seq: seq}
}

// Seq returns the sequence that the stream's newest event must have, and
// whether anything is expected at all. Fresh is (0, true).
func (e Expect) Seq() (seq uint64, expected bool) {
	return e.seq, e.mode != expectAny
}

func (e Expect) String() string {
	switch e.mode {
	case expectFresh:
		return "fresh"
	case expectAt:
		return fmt.Sprintf("at %d", e.seq)
	default:
		return "any"
	}
}
