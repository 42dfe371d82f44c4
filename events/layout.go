package events

import (
	"encoding/json"
	"fmt"
	"iter"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"
)

// A Layout says which partition keeps which devices' telemetry, and which ones
// kept it before: a log can be split into more partitions. Nothing is moved then.
// The devices that leave a partition have their history up to its seam there, and
// what comes after it in a partition that begins empty.
//
// A partition that a split has made has a higher number than the one it came
// from, and its epoch is the next one: of two positions of a device, the later
// one has the higher epoch or, in the same one, the higher sequence.
type Layout struct {
	counts []int           // of telemetry partitions when the log was made, and after each split
	seams  map[uint16]Seam // by partition that a split has made
}

// A Seam is where the history of a partition's devices goes on backwards.
type Seam struct {
	From uint16 `json:"from"` // the partition in which they were before
	Seq  uint64 `json:"seq"`  // the last sequence there that can be theirs
}

// A Stretch is a part of devices' history: what a partition has up to a sequence.
type Stretch struct {
	Partition uint16
	UpTo      uint64 // math.MaxUint64 where it goes on
}

// NewLayout is that of a log with n telemetry partitions that was never split.
func NewLayout(n int) Layout { return Layout{counts: []int{n}} }

// MakeLayout is that of a log which was split. counts are the numbers of telemetry
// partitions when it was made and after each split, seams those of all partitions
// that splits have made. Errors wrap ErrInvalid.
func MakeLayout(counts []int, seams map[uint16]Seam) (Layout, error) {
	l := Layout{counts: slices.Clone(counts), seams: map[uint16]Seam{}}
	bad := func(format string, args ...any) (Layout, error) {
		return Layout{}, fmt.Errorf("layout of the log: %w: %w", fmt.Errorf(format, args...), ErrInvalid)
	}
	if len(counts) == 0 || counts[0] < 1 {
		return bad("no partitions")
	}
	for i := 1; i < len(counts); i++ {
		if err := divides(counts[i-1], counts[i]); err != nil {
			return bad("%w", err)
		}
	}
	if l.Telemetry() > Slots {
		return bad("%d partitions: at most %d are possible", l.Telemetry(), Slots)
	}
	for p := counts[0]; p < l.Telemetry(); p++ {
		s, ok := seams[uint16(p)]
		if !ok || s.From != l.parent(uint16(p)) {
			return bad("no seam of partition %d", p)
		}
		l.seams[uint16(p)] = s
	}
	return l, nil
}

func divides(have, want int) error {
	switch {
	case want <= have:
		return fmt.Errorf("%d partitions cannot become %d: they can only become more", have, want)
	case want%have != 0:
		return fmt.Errorf("%d partitions cannot be split into %d: each has to become as many (remedy: a multiple of %d)", have, want, have)
	}
	return nil
}

// Split returns the layout after a split into n telemetry partitions. at tells the
// last sequence of a partition. Errors wrap ErrInvalid.
func (l Layout) Split(n int, at func(partition uint16) uint64) (Layout, error) {
	seams := map[uint16]Seam{}
	maps.Copy(seams, l.seams)
	counts := append(slices.Clone(l.counts), n)
	if divides(l.Telemetry(), n) == nil && n <= Slots {
		for p := l.Telemetry(); p < n; p++ {
			from := Layout{counts: counts}.parent(uint16(p))
			seams[uint16(p)] = Seam{From: from, Seq: at(from)}
		}
	}
	return MakeLayout(counts, seams)
}

// Telemetry is how many partitions of telemetry there are.
func (l Layout) Telemetry() int { return l.counts[len(l.counts)-1] }

// Counts are the numbers of telemetry partitions when the log was made and after
// each split.
func (l Layout) Counts() []int { return slices.Clone(l.counts) }

// Partitions lists all partitions, ascending.
func (l Layout) Partitions() []uint16 { return PartitionsOf(l.Telemetry()) }

// PartitionOf returns which telemetry partition takes the events of a slot now.
func (l Layout) PartitionOf(slot uint8) uint16 { return numberOf(slot, l.counts) }

// numberOf: the first range of slots that a partition was split into keeps its
// number, the others have new ones.
func numberOf(slot uint8, counts []int) uint16 {
	number := int(PartitionOf(slot, counts[0]))
	for i := 1; i < len(counts); i++ {
		was, parts := int(PartitionOf(slot, counts[i-1])), counts[i]/counts[i-1]
		if part := int(PartitionOf(slot, counts[i])) - was*parts; part > 0 {
			number = counts[i-1] + was*(parts-1) + part - 1
		}
	}
	return uint16(number)
}

// parent returns the partition that one which a split has made came from.
func (l Layout) parent(p uint16) uint16 {
	i := 1
	for l.counts[i] <= int(p) {
		i++
	}
	parts := l.counts[i] / l.counts[i-1]
	was := (int(p) - l.counts[i-1]) / (parts - 1) // its range among those of before
	return numberOf(uint8((was*Slots+l.counts[i-1]-1)/l.counts[i-1]), l.counts[:i])
}

// Of returns which partition takes the events of a stream now.
func (l Layout) Of(s Stream) uint16 {
	if s.Kind == Telemetry {
		return l.PartitionOf(Slot(s.ID))
	}
	return s.PartitionIn(1)
}

// Seam returns where the history of a partition's devices goes on backwards; false
// when it begins in the partition.
func (l Layout) Seam(partition uint16) (Seam, bool) {
	s, ok := l.seams[partition]
	return s, ok
}

// Seams are those of all partitions that splits have made.
func (l Layout) Seams() map[uint16]Seam {
	all := map[uint16]Seam{}
	maps.Copy(all, l.seams)
	return all
}

// Way lists where the history of a partition's devices is, oldest first; the last
// stretch is the partition itself.
func (l Layout) Way(partition uint16) []Stretch {
	way := []Stretch{{partition, math.MaxUint64}}
	for s, ok := l.seams[partition]; ok; s, ok = l.seams[s.From] {
		way = append(way, Stretch{s.From, s.Seq})
	}
	slices.Reverse(way)
	return way
}

// Passes tells whether the telemetry of a slot is in a partition, or was.
func (l Layout) Passes(slot uint8, partition uint16) bool {
	return slices.ContainsFunc(l.Way(l.PartitionOf(slot)), func(s Stretch) bool { return s.Partition == partition })
}

// String returns the counts, as 1,4.
func (l Layout) String() string { return CountsText(l.counts) }

// CountsText writes numbers of partitions as ParseCounts reads them.
func CountsText(counts []int) string {
	texts := make([]string, len(counts))
	for i, n := range counts {
		texts[i] = strconv.Itoa(n)
	}
	return strings.Join(texts, ",")
}

// ParseCounts reads the counts that String has written. Errors wrap ErrInvalid.
func ParseCounts(text string) ([]int, error) {
	var counts []int
	for part := range strings.SplitSeq(text, ",") {
		n, err := strconv.Atoi(part)
		if err != nil || n < 1 || n > Slots || len(counts) > 0 && divides(counts[len(counts)-1], n) != nil {
			return nil, fmt.Errorf("numbers of partitions %.80q: %w", text, ErrInvalid)
		}
		counts = append(counts, n)
	}
	return counts, nil
}

// SlotsOf returns the slots that a partition takes now.
func (l Layout) SlotsOf(partition uint16) (slots []uint8) {
	for slot := range Slots {
		if l.PartitionOf(uint8(slot)) == partition {
			slots = append(slots, uint8(slot))
		}
	}
	return slots
}

// EndOf, as the upper bound of a read, stands for whatever a partition holds when
// the read comes to it. Latest is what the last one holds.
func EndOf(partition uint16) Position {
	return Position{Partition: partition, Seq: math.MaxUint64}
}

// ReadAlong is how logs read a stream: stretch by stretch of its way, by read, which
// yields what a partition has of it after one sequence and up to another. A position
// with Seq 0 that is in no stretch asks for the beginning.
func (l Layout) ReadAlong(s Stream, after, upTo Position, read func(partition uint16, after, upTo uint64) iter.Seq2[Event, error]) iter.Seq2[Event, error] {
	return func(yield func(Event, error) bool) {
		way := l.Way(l.Of(s))
		first, last := 0, len(way)-1
		if last > 0 {
			place := func(p Position, otherwise int) int {
				i := slices.IndexFunc(way, func(s Stretch) bool { return s.Partition == p.Partition })
				if i < 0 && p.Seq == 0 {
					return otherwise
				}
				return i
			}
			first = place(after, 0)
			if upTo != Latest {
				last = place(upTo, 0)
			}
			if first < 0 || last < 0 {
				yield(Event{}, fmt.Errorf("read %s after %s up to %s: it was never there: %w", s, after, upTo, ErrInvalid))
				return
			}
		}
		for i := first; i <= last; i++ {
			from, to := uint64(0), way[i].UpTo
			if i == first {
				from = after.Seq
			}
			if i == last {
				to = min(to, upTo.Seq)
			}
			if from > 0 && from >= to {
				continue
			}
			for e, err := range read(way[i].Partition, from, to) {
				if !yield(e, err) || err != nil {
					return
				}
			}
		}
	}
}

type layoutText struct {
	Partitions []int      `json:"partitions"`
	Seams      []seamText `json:"seams"`
}

type seamText struct {
	Partition uint16 `json:"partition"`
	Seam
}

// MarshalJSON writes the numbers of partitions and the seams, ascending.
func (l Layout) MarshalJSON() ([]byte, error) {
	text := layoutText{Partitions: l.counts, Seams: []seamText{}}
	for _, p := range slices.Sorted(maps.Keys(l.seams)) {
		text.Seams = append(text.Seams, seamText{p, l.seams[p]})
	}
	return json.Marshal(text)
}

// UnmarshalJSON is the inverse. Errors wrap ErrInvalid where it is JSON and no
// layout.
func (l *Layout) UnmarshalJSON(b []byte) error {
	var text layoutText
	if err := json.Unmarshal(b, &text); err != nil {
		return err
	}
	seams := map[uint16]Seam{}
	for _, s := range text.Seams {
		seams[s.Partition] = s.Seam
	}
	made, err := MakeLayout(text.Partitions, seams)
	if err == nil {
		*l = made
	}
	return err
}
