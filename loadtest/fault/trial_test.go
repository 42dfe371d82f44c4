package fault

import (
	"context"
	"testing"
	"time"
)

// TestTrials: one of what fleet trials does 200 times, over two shards, with the
// faults that are unlike each other and soon over.
func TestTrials(t *testing.T) {
	c := &Cluster{Tacho: program(t), Dir: t.TempDir(), Partitions: 2, Shards: 2}
	t.Cleanup(c.Stop)
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Minute) // the first start fetches ClickHouse
	defer cancel()
	if err := c.Start(ctx, 1); err != nil {
		t.Fatal(err)
	}
	s, err := NewSenders(t.Context(), c, c.Widest())
	if err != nil {
		t.Fatal(err)
	}
	trial := Trial{Cluster: c, Senders: s, Seed: 1, Say: t.Logf, Faults: []string{
		"kill the writer", "lose answers of ClickHouse", "kill ClickHouse", "pause the writer, start another",
		splitLog, "kill NATS", "hold requests, kill their writer, let them go", "a new version of a schema",
	}}
	report, err := trial.Run(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if !report.Good() {
		t.Fatal("not as promised")
	}
	if trial.Splits != 1 || c.Partitions != 4 {
		t.Errorf("%d splits, %d partitions", trial.Splits, c.Partitions)
	}
}
