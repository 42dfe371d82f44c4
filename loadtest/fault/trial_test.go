package fault

import (
	"context"
	"testing"
	"time"
)

// TestTrials: a few of what fleet trials does 200 times, each fault once but
// for the shorter log, which needs a machine that is not busy.
func TestTrials(t *testing.T) {
	c := &Cluster{Tacho: program(t), Dir: t.TempDir(), Partitions: 2}
	t.Cleanup(c.Stop)
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Minute) // the first start fetches ClickHouse
	defer cancel()
	if err := c.Start(ctx, 1); err != nil {
		t.Fatal(err)
	}
	s, err := NewSenders(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, f := range faults {
		names = append(names, f.name)
	}
	if testing.Short() {
		names = names[:8]
	}
	for seed := uint64(1); len(names) > 0; seed++ {
		n := min(8, len(names)) // to become whole and to be judged takes longer than a fault
		trial := Trial{Cluster: c, Senders: s, Seed: seed, Faults: names[:n:n], Say: t.Logf}
		names = names[n:]
		report, err := trial.Run(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if !report.Good() {
			t.Fatal("not as promised")
		}
	}
}
