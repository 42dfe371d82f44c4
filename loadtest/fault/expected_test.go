package fault

import (
	"encoding/json"
	"fmt"
	"testing"

	"github.com/tachograph/tachograph/loadtest/ledger"
)

// TestCompareOrder: the judge names a message that the log has in front of one that
// was acknowledged before it was sent. A split begins sequences anew and epochs go
// on; what was sent together, or by others, may come in any order.
func TestCompareOrder(t *testing.T) {
	batch := func(device string, ids ...string) (b []ledger.Entry) {
		for _, id := range ids {
			b = append(b, ledger.Entry{Device: device, Type: "position", ID: id})
		}
		return b
	}
	acknowledged := [][]ledger.Entry{batch("car-1", "a", "b"), batch("car-2", "x"), batch("car-1", "c"), batch("car-1", "d")}
	for _, c := range []struct {
		log   []string // id, device, epoch, partition, sequence
		wrong int
	}{
		{[]string{"b car-1 1 0 1", "a car-1 1 0 2", "c car-1 1 0 7", "d car-1 2 1 1", "x car-2 1 0 9", "a car-1 2 1 2"}, 0},
		{[]string{"a car-1 1 0 1", "c car-1 1 0 2", "b car-1 1 0 3", "d car-1 1 0 4", "x car-2 1 0 5"}, 1},
		{[]string{"a car-1 1 0 1", "b car-1 1 0 2", "c car-1 2 1 9", "d car-1 1 0 10", "x car-2 1 0 5"}, 1},
		{[]string{"d car-1 1 0 1", "c car-1 1 0 2", "b car-1 1 0 3", "a car-1 1 0 4", "x car-2 1 0 5"}, 2},
	} {
		x := newExpected()
		for _, line := range c.log {
			var e loggedEvent
			if _, err := fmt.Sscan(line, &e.ID, &e.Device, &e.Position.Epoch, &e.Position.Partition, &e.Position.Seq); err != nil {
				t.Fatal(err)
			}
			e.Type, e.Payload = "position", json.RawMessage(`{"time":1}`)
			if err := x.add(e); err != nil {
				t.Fatal(err)
			}
		}
		var r Report
		if x.compareOrder(acknowledged, &r); len(r.Differences) != c.wrong {
			t.Errorf("%v: %q, want %d", c.log, r.Differences, c.wrong)
		}
	}
}
