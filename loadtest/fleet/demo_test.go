package fleet

import (
	"testing"
	"time"

	"github.com/tachograph/tachograph/loadtest/ledger"
)

// TestTheNextStartGoesOn: the shift is kept, so what was acknowledged is known
// by its bytes; what is left keeps its distances, and its first is due at once.
func TestTheNextStartGoesOn(t *testing.T) {
	begin := time.Date(2016, 2, 7, 0, 0, 0, 0, time.UTC)
	fixes := []Fix{{Device: "bus-1", Time: begin}, {Device: "bus-2", Time: begin.Add(time.Minute)}, {Device: "bus-1", Time: begin.Add(3 * time.Minute)}}
	d := &Demo{Node: &Node{Dir: t.TempDir()}, Fixes: fixes, Speed: 60}
	first, err := d.resume()
	if err != nil {
		t.Fatal(err)
	}
	if end := fixes[2].Time.Add(first.Shift); time.Since(end) < -time.Second || time.Since(end) > time.Minute {
		t.Fatalf("the day ends %s", end)
	}
	acked, err := ledger.Open(LedgerPath(d.Node.Dir))
	if err != nil {
		t.Fatal(err)
	}
	defer acked.Close()
	left := d.left(first, acked)
	if len(left["bus-1"]) != 2 || left["bus-1"][0].due != 0 || left["bus-1"][1].due != 3*time.Second || left["bus-2"][0].due != time.Second {
		t.Fatalf("%+v", left)
	}
	if err := acked.Add(left["bus-1"][0].entry); err != nil {
		t.Fatal(err)
	}
	again, err := d.resume()
	if err != nil || again != first {
		t.Fatal(again, err)
	}
	left = d.left(again, acked)
	if len(left["bus-1"]) != 1 || left["bus-1"][0].due != 2*time.Second || left["bus-2"][0].due != 0 {
		t.Fatalf("%+v", left)
	}
	if _, accepted, total := d.Counts(); accepted != 1 || total != 3 {
		t.Fatal(accepted, total)
	}
	time.Sleep(2 * time.Millisecond) // another shift: other bytes
	anew, err := d.begin()
	if err != nil || len(d.left(anew, acked)["bus-1"]) != 2 {
		t.Fatal(anew, err)
	}
	if err := (&Demo{Node: d.Node, Speed: 60}).Run(t.Context()); err == nil {
		t.Fatal("a day without fixes can be played")
	}
}
