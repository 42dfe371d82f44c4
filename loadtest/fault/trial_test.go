package fault

import (
	"context"
	"testing"
	"time"
)

// TestTrials: a few of what fleet trials does 200 times, each fault once.
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
	for seed := uint64(1); len(names) > 0; seed++ {
		n := min(4, len(names))
		trial := Trial{Cluster: c, Senders: s, Seed: seed, Faults: names[:n:n], Say: t.Logf}
		if names = names[n:]; len(names) == 0 {
			trial.Faults = append(trial.Faults, shortLog)
		}
		report, err := trial.Run(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if !report.Good() {
			t.Fatal("not as promised")
		}
	}
}
