package columnar

import (
	"context"
	"fmt"
	"testing"
)

// TestDropDatabase drops a database while others make tables in it. The last statement
// of a round, whose client hung up, may be carried out in the next one's database: its
// table has a name of its own.
func TestDropDatabase(t *testing.T) {
	b := newBench(t)
	conn, err := b.server.Open()
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	const name = "tacho_replay"
	for round := range 5 {
		b.exec("CREATE DATABASE " + name)
		maker, err := b.server.Open()
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		made := make(chan struct{})
		ended := make(chan struct{})
		go func() {
			defer close(ended)
			defer maker.Close()
			for n := range 40 {
				if err := maker.Exec(ctx, fmt.Sprintf("CREATE TABLE %s.t%d_%d (n UInt8) ENGINE = MergeTree ORDER BY n", name, round, n)); err != nil {
					if n <= round {
						t.Errorf("round %d, table %d: %v", round, n, err)
						close(made)
					}
					return // the database is gone
				}
				if n == round {
					close(made)
				}
			}
		}()
		<-made
		if err := dropDatabase(t.Context(), conn, name); err != nil {
			t.Error(err)
		}
		cancel()
		<-ended
	}
}
