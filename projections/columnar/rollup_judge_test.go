package columnar

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"testing"
	"time"

	"github.com/tachograph/tachograph/events"
	"github.com/tachograph/tachograph/events/memlog"
)

// telemetry returns the newest position of each partition that has roll-ups.
func (b *bench) telemetry() (tails []events.Position) {
	b.t.Helper()
	for _, p := range b.log.Partitions() {
		tail, err := b.log.Tail(b.t.Context(), p)
		if err != nil {
			b.t.Fatal(err)
		}
		if p < events.ControlPartition && tail.Seq > 0 {
			tails = append(tails, tail)
		}
	}
	return tails
}

// awaitRollUps waits until they are as far as the log.
func (b *bench) awaitRollUps() {
	b.t.Helper()
	for _, tail := range b.telemetry() {
		for deadline := time.Now().Add(3 * time.Minute); ; time.Sleep(100 * time.Millisecond) {
			var seq uint64
			b.scan(fmt.Sprintf("SELECT max(seq) FROM tacho.checkpoints WHERE table = '_rollups' AND partition = %d", tail.Partition), &seq)
			if seq == tail.Seq {
				break
			}
			if time.Now().After(deadline) {
				b.t.Fatalf("roll-ups of partition %d are at %d of %d", tail.Partition, seq, tail.Seq)
			}
		}
	}
}

// judgeRollUps holds the roll-ups of position.speed to the log itself, read
// and added up without a database.
func (b *bench) judgeRollUps() {
	b.t.Helper()
	b.awaitRollUps()
	want := map[string]map[string]*bucket{"position_1m": {}, "position_1h": {}}
	tails := b.telemetry()
	if len(tails) == 0 {
		b.t.Fatal("nothing was sent")
	}
	for _, tail := range tails {
		repeats := newRepeats()
		for e, err := range b.log.Follow(b.t.Context(), tail.Partition, events.Cursor{}) {
			if err != nil {
				b.t.Fatal(err)
			}
			if !repeats.fold(&e) {
				for _, sample := range samplesOf(b.t, e.Payload) {
					for view, seconds := range map[string]int64{"position_1m": 60, "position_1h": 3600} {
						at := int64(sample["time"])
						key := fmt.Sprintf("%s %d", e.Stream.ID, at/1000/seconds*seconds)
						if want[view][key] == nil {
							want[view][key] = &bucket{}
						}
						want[view][key].add(at, sample["speed"])
					}
				}
			}
			if e.Position.Seq == tail.Seq {
				break
			}
		}
	}
	conn, err := b.server.Open()
	if err != nil {
		b.t.Fatal(err)
	}
	defer conn.Close()
	for view, want := range want {
		rows, err := conn.Query(b.t.Context(), "SELECT concat(device, ' ', toString(toUnixTimestamp64Second(time))), count, min, max, avg, last FROM tacho."+view+" WHERE signal = 'speed'")
		if err != nil {
			b.t.Fatal(err)
		}
		n := 0
		for rows.Next() {
			var key string
			var got bucket
			var avg float64
			if err := rows.Scan(&key, &got.count, &got.min, &got.max, &avg, &got.last); err != nil {
				b.t.Fatal(err)
			}
			w := want[key]
			if w == nil || w.count != got.count || w.min != got.min || w.max != got.max || w.last != got.last || avg != w.sum/float64(w.count) {
				b.t.Fatalf("%s %s: %+v, average %v, want %+v", view, key, got, avg, w)
			}
			n++
		}
		if rows.Close(); rows.Err() != nil || n != len(want) {
			b.t.Fatalf("%s: %d buckets, want %d: %v", view, n, len(want), rows.Err())
		}
	}
}

// TestRollUpsOfABacklog: samples that are older than they are kept for when they
// are inserted, as in a replay, are in the roll-ups.
func TestRollUpsOfABacklog(t *testing.T) {
	long(t)
	b := newBenchOf(t, memlog.Options{Now: func() time.Time { return time.Now().Add(-60 * 24 * time.Hour) }})
	keep := Keep{Samples: 24 * time.Hour}
	w, err := New(Config{Log: b.log, Catalog: b.catalog, Server: b.server, MaxAge: b.age, RollUpEvery: time.Second, Keep: keep})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- w.Run(ctx) }()
	for n := range 300 {
		b.send("car", "position", fmt.Sprintf(`{"time":%d,"speed":%d}`, deviceTime(n), n%113))
		if n%10 == 0 {
			b.await(w) // many parts, which are merged soon
		}
	}
	b.await(w)
	b.exec("OPTIMIZE TABLE tacho.position FINAL")
	b.judgeRollUps()
	cancel()
	if err := <-ended; err != nil {
		t.Fatal(err)
	}
}

// samplesOf reads a message the slow way: one sample, or an array of them.
func samplesOf(t testing.TB, payload []byte) (samples []map[string]float64) {
	t.Helper()
	if !bytes.HasPrefix(payload, []byte("[")) {
		payload = append(append([]byte("["), payload...), ']')
	}
	if err := json.Unmarshal(payload, &samples); err != nil {
		t.Fatal(err)
	}
	return samples
}
