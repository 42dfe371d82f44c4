package columnar

import (
	"context"
	"testing"
)

// BenchmarkAudit audits 500,000 messages of 8 fields and their two tables; the
// log is in memory. BenchmarkWriter is what writing them costs.
func BenchmarkAudit(b *testing.B) {
	bb := newBench(b)
	s, _ := bb.catalog.Schemas().Current("position")
	const n = 500_000
	for i := range n {
		if err := bb.log.Enqueue(b.Context(), benchEvent(i, s.Version()), func(err error) {
			if err != nil {
				b.Error(err)
			}
		}); err != nil {
			b.Fatal(err)
		}
	}
	cfg := Config{Log: bb.log, Catalog: bb.catalog, Server: bb.server}
	w, err := New(cfg)
	if err != nil {
		b.Fatal(err)
	}
	ctx, cancel := context.WithCancel(b.Context())
	ended := make(chan error, 1)
	go func() { ended <- w.Run(ctx) }()
	bb.await(w)
	bb.awaitRollUps()
	cancel()
	if err := <-ended; err != nil {
		b.Fatal(err)
	}
	m := bb.meter(b)
	messages := 0
	for b.Loop() {
		r, err := (&Audit{Writer: cfg, Log: bb.log}).Run(b.Context())
		if err != nil || !r.Equal() || r.Events != n {
			b.Fatalf("%+v, %v", r, err)
		}
		messages += n
	}
	m.report(messages, "message")
}
