package latest

import (
	"cmp"
	"math"
	"slices"
	"strconv"
)

// snapshotEvery is how many events of a device lie between two snapshots.
const snapshotEvery = 2048

// Stretches of a device's events, each eight times as long as the one before:
// those of the first level lie between two snapshots.
const (
	stretchLevels = 4
	stretchFactor = 8
)

// A span is a stretch of a device's events after a sequence up to the newest that the
// state has. It tells whether a look at the past by the device's clock may pass
// over them: when it wants nothing that is as late as the earliest sample, but for a
// few that came long after they were measured, of which it knows where they are.
type span struct {
	after uint64 // unknown: nothing is known of it
	low   int64  // order of the earliest sample that is not among late; nothing when there is none
	begin int64  // the newest order before the stretch; a sample of an earlier one is late
	late  []late // the earliest of those, ascending, at most maxLate
}

// A late sample is one that came after the stretch had begun and was measured before.
type late struct {
	order int64
	seq   uint64
}

// maxLate bounds what a document carries. The others count for low.
const maxLate = 8

const (
	unknown = math.MaxUint64
	nothing = math.MaxInt64
)

// beginStretches begins those that the next event is the first of. Whoever calls
// it has evolved all samples before.
func (s *State) beginStretches() {
	for i, length := 0, uint64(snapshotEvery); i < stretchLevels; i, length = i+1, length*stretchFactor {
		if s.Events%length == 0 {
			s.stretches[i] = span{after: s.Position.Seq, low: nothing, begin: s.newest()}
		}
	}
}

// measured notes a sample's order, and the sequence of its event, in the stretches.
// What it leads to is the same in whichever order samples come.
func (s *State) measured(order int64, seq uint64) {
	for i := range s.stretches {
		t := &s.stretches[i]
		if order >= t.begin {
			t.low = min(t.low, order)
		} else {
			t.add(late{order, seq})
		}
	}
}

func (l late) compare(o late) int {
	return cmp.Or(cmp.Compare(l.order, o.order), cmp.Compare(l.seq, o.seq))
}

// add keeps a late sample if it is among the earliest ones.
func (t *span) add(l late) {
	i, there := slices.BinarySearchFunc(t.late, l, late.compare)
	switch {
	case there:
		return
	case i == maxLate:
		t.low = min(t.low, l.order)
		return
	}
	if t.late = slices.Insert(t.late, i, l); len(t.late) > maxLate {
		t.low = min(t.low, t.late[maxLate].order)
		t.late = t.late[:maxLate]
	}
}

// passes tells whether all that the state has after another one of its device was
// measured after a time, as far as the stretch of a level tells; all but what the
// events of few sequences have, which it returns.
func (s *State) passes(level int, have *State, until int64) (but []uint64, ok bool) {
	t := s.stretches[level]
	if t.after > have.Position.Seq || s.Position.Epoch != have.Position.Epoch || !before(have.Position, s.Position) || t.low <= until {
		return nil, false
	}
	for _, l := range t.late {
		if l.order <= until && l.seq > have.Position.Seq {
			but = append(but, l.seq)
		}
	}
	slices.Sort(but)
	return slices.Compact(but), true
}

// pass takes over what a state knows of events that brought nothing.
func (s *State) pass(to *State) {
	s.Position, s.ID, s.Received, s.Events = to.Position, to.ID, to.Received, to.Events
}

// newest is the highest order of a value; nothing in the state is later.
func (s *State) newest() int64 {
	newest := int64(math.MinInt64)
	for i := range s.Messages {
		for j := range s.Messages[i].Signals {
			newest = max(newest, s.Messages[i].Signals[j].order())
		}
	}
	return newest
}

// appendStretches appends them as JSON: [] unknown; [after] without a sample, or
// [after,earliest]; [after,earliest,begin]; [after,earliest,begin,low,order,seq...] with late
// samples, each as how long before begin and how far behind after. Where nothing is
// known to have been before the stretch there is no begin. Releases that don't know
// of begin read the first two.
func (s *State) appendStretches(b []byte) []byte {
	b = append(b, '[')
	for i := range s.stretches {
		if i > 0 {
			b = append(b, ',')
		}
		b = s.stretches[i].append(b)
	}
	return append(b, ']')
}

func (t *span) append(b []byte) []byte {
	b = append(b, '[')
	if t.after == unknown {
		return append(b, ']')
	}
	b = strconv.AppendUint(b, t.after, 10)
	number := func(n int64) { b = strconv.AppendInt(append(b, ','), n, 10) }
	earliest, begun := t.low, t.begin != math.MinInt64
	if len(t.late) > 0 {
		earliest = min(earliest, t.late[0].order)
	}
	if begun || earliest != nothing {
		number(earliest)
	}
	if begun {
		number(t.begin)
	}
	if len(t.late) > 0 {
		number(t.low)
	}
	for _, l := range t.late {
		number(t.begin - l.order)
		number(int64(l.seq - t.after))
	}
	return append(b, ']')
}

// readStretches is the inverse; what it does not know is unknown.
func (s *State) readStretches(all [][]int64) {
	for i := range s.stretches {
		t := &s.stretches[i]
		*t = span{after: unknown, low: nothing, begin: math.MinInt64}
		if i >= len(all) || len(all[i]) == 0 {
			continue
		}
		n := all[i]
		t.after = uint64(n[0])
		if len(n) > 1 {
			t.low = n[1]
		}
		if len(n) > 2 {
			t.begin = n[2]
		}
		if len(n) > 3 {
			t.low = n[3]
		}
		for j := 4; j+1 < len(n); j += 2 {
			t.late = append(t.late, late{t.begin - n[j], t.after + uint64(n[j+1])})
		}
	}
}
