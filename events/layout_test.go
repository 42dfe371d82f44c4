package events

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"testing"
)

// TestLayout: whatever a log was split into, each slot has one partition, ranges are
// as even as those of a log that was made so, and a device's partitions ascend.
func TestLayout(t *testing.T) {
	for _, counts := range [][]int{{1}, {3}, {1, 2}, {1, 3}, {1, 256}, {1, 2, 4, 8}, {2, 4}, {3, 6, 30}, {5, 250}, {1, 2, 254}} {
		l := NewLayout(counts[0])
		for i, n := range counts[1:] {
			before := l
			var err error
			if l, err = l.Split(n, func(p uint16) uint64 { return uint64(i+1)*1000 + uint64(p) }); err != nil {
				t.Fatal(counts, err)
			}
			for slot := range Slots {
				was, is := before.PartitionOf(uint8(slot)), l.PartitionOf(uint8(slot))
				seam, split := l.Seam(is)
				if was != is && (!split || seam.From != was || seam.Seq != uint64(i+1)*1000+uint64(was) || is < uint16(before.Telemetry())) {
					t.Fatalf("%v: slot %d moves from %d to %d, seam %+v", counts, slot, was, is, seam)
				}
				for _, s := range before.Way(was) {
					if !l.Passes(uint8(slot), s.Partition) {
						t.Fatalf("%v: slot %d was in %d", counts, slot, s.Partition)
					}
				}
				if way := l.Way(is); !slices.IsSortedFunc(way, func(a, b Stretch) int { return int(a.Partition) - int(b.Partition) }) || len(way) > i+2 {
					t.Fatalf("%v: way %v", counts, way)
				}
			}
		}
		size := map[uint16]int{}
		for _, p := range l.Partitions()[:l.Telemetry()] {
			size[p] = len(l.SlotsOf(p))
			if size[p] < Slots/l.Telemetry() || size[p] > Slots/l.Telemetry()+1 {
				t.Errorf("%v: partition %d has %d slots", counts, p, size[p])
			}
		}
		back, err := ParseCounts(l.String())
		if err != nil || !slices.Equal(back, counts) {
			t.Errorf("%q: %v, %v", l, back, err)
		}
		var again Layout
		text, err := json.Marshal(l)
		if err == nil {
			err = json.Unmarshal(text, &again)
		}
		if err != nil || fmt.Sprint(again) != fmt.Sprint(l) || again.PartitionOf(200) != l.PartitionOf(200) {
			t.Errorf("%v: made again %v, %v", counts, again, err)
		}
	}
	for _, bad := range []string{"", "0", "a", "4,2", "2,3", "1,257", "1,,2", "1,1"} {
		if got, err := ParseCounts(bad); !errors.Is(err, ErrInvalid) {
			t.Errorf("%q: %v, %v", bad, got, err)
		}
	}
	for _, seams := range []map[uint16]Seam{nil, {1: {From: 0}, 2: {From: 1}}, {1: {From: 0}, 2: {From: 3}, 3: {From: 1}}} {
		if _, err := MakeLayout([]int{2, 4}, seams); !errors.Is(err, ErrInvalid) {
			t.Errorf("%v: %v", seams, err)
		}
	}
	if _, err := NewLayout(4).Split(6, nil); !errors.Is(err, ErrInvalid) {
		t.Error(err)
	}
}
