package fault

import (
	"testing"
	"time"
)

// TestRebuilds: one of what fleet replays does with many seeds.
func TestRebuilds(t *testing.T) {
	c := Rebuilds{Tacho: program(t), Dir: t.TempDir(), Seed: 1, Random: 500 * time.Millisecond, Kills: 1, Short: true, Say: t.Logf}
	report, err := c.Run(t.Context())
	if t.Log(report); err != nil {
		t.Fatal(err)
	}
	if !report.Good() {
		t.Fatal("not the same")
	}
}

// TestPictures: what differs is found and named.
func TestPictures(t *testing.T) {
	p := picture{"table a": {"1": "x", "2": "y"}, "roll-up b": {"k": "1" + averageMark + "0.1"}, "view": {}}
	q := picture{"table a": {"1": "x", "3": "y"}, "roll-up b": {"k": "1" + averageMark + "0.10000000000000002"}}
	if n, first := p.differences(q); n != 3 || len(first) != 3 {
		t.Error(n, first)
	}
	q["roll-up b"]["k"] = "1" + averageMark + "0.1001"
	if n, first := p.differences(q); n != 4 {
		t.Error(n, first)
	}
	p.put("table a", "1", "x")
	if n, _ := p.differences(q); n != 5 {
		t.Error("a row that is there twice is not found")
	}
	if n, first := p.differences(p); n != 0 {
		t.Error(n, first)
	}
}
