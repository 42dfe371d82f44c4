package columnar

import (
	"context"
	"fmt"
	"testing"
	"time"
)

// TestKeep: tables get their time to live, a changed one at the next start, and
// lose it.
func TestKeep(t *testing.T) {
	b := newBench(t)
	ttl := "SELECT name, extract(engine_full, 'toIntervalSecond\\((\\d+)\\)') FROM system.tables WHERE database = 'tacho' AND name IN ('events', 'position', '_position_1m', '_position_1h') ORDER BY name"
	for i, test := range []struct {
		keep Keep
		want string
	}{
		{Keep{}, "('_position_1h','') ('_position_1m','') ('events','') ('position','')"},
		{Keep{24 * time.Hour, 48 * time.Hour, 72 * time.Hour, 96 * time.Hour}, "('_position_1h','345600') ('_position_1m','259200') ('events','172800') ('position','86400')"},
		{Keep{Samples: 48 * time.Hour, Minutes: 72 * time.Hour}, "('_position_1h','') ('_position_1m','259200') ('events','') ('position','172800')"},
	} {
		w, err := New(Config{Log: b.log, Catalog: b.catalog, Server: b.server, MaxAge: b.age, Keep: test.keep})
		if err != nil {
			t.Fatal(err)
		}
		ended := make(chan error, 1)
		ctx, cancel := context.WithCancel(t.Context())
		go func() { ended <- w.Run(ctx) }()
		b.send("car", "position", fmt.Sprintf(`{"latitude":%d}`, i))
		b.await(w)
		b.expect(ttl, test.want)
		b.expect("SELECT count() FROM tacho.position", []string{"(1)", "(2)", "(3)"}[i])
		cancel()
		if err := <-ended; err != nil {
			t.Fatal(err)
		}
	}
}
