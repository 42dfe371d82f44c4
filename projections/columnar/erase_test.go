package columnar

import (
	"bytes"
	"context"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"github.com/tachograph/tachograph/events"
	"github.com/tachograph/tachograph/events/memlog"
	"github.com/tachograph/tachograph/projections"
)

// filesWith lists the files below dir that hold a text.
func filesWith(t *testing.T, dir, text string) (files []string) {
	t.Helper()
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if os.IsNotExist(err) || err == nil && !d.Type().IsRegular() {
			return nil // merged away while we look
		}
		if err != nil {
			return err
		}
		b, err := os.ReadFile(path)
		if bytes.Contains(b, []byte(text)) {
			files = append(files, path)
		}
		if os.IsNotExist(err) {
			err = nil
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return files
}

// TestErase removes hours of one car: what is left is what a replay of the log
// without them makes, and nothing of them is on the disk. Done again it changes
// nothing.
func TestErase(t *testing.T) {
	long(t)
	const marker = "SECRET-OF-THE-RENTER"
	var clock atomic.Int64
	begin := time.Date(2026, 11, 1, 12, 0, 0, 0, time.UTC)
	b := newBenchOf(t, memlog.Options{Now: func() time.Time { return begin.Add(time.Duration(clock.Load())) }})
	if err := Migrate(t.Context(), b.server); err != nil {
		t.Fatal(err)
	}
	cfg := Config{Log: b.log, Catalog: b.catalog, Server: b.server, MaxAge: 20 * time.Millisecond, RollUpEvery: 20 * time.Millisecond}
	writers := map[uint16]*projections.Restartable{}
	for _, p := range []uint16{0, events.ControlPartition} {
		c := cfg
		c.Partition = p
		w, err := projections.NewRestartable(func() (projections.Runner, error) { return New(c) })
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(context.Background())
		ended := make(chan error, 1)
		go func() { ended <- w.Run(ctx) }()
		t.Cleanup(func() {
			cancel()
			if err := <-ended; err != nil {
				t.Error(err)
			}
		})
		writers[p] = w
	}
	caughtUp := func() {
		t.Helper()
		for deadline := time.Now().Add(3 * time.Minute); ; time.Sleep(10 * time.Millisecond) {
			s, c := writers[0].Status(), writers[events.ControlPartition].Status()
			if s.CaughtUp && s.Lag == 0 && c.CaughtUp && c.Lag == 0 && c.Position.Seq > 0 {
				return
			}
			if time.Now().After(deadline) {
				t.Fatalf("%+v %+v", s, c)
			}
		}
	}
	caughtUp()
	// Compressed, the marker could not be found.
	for table, columns := range map[string][]string{"events": {"payload"}, "dead_letters": {"payload", "detail"}, "position": {"_unknown"}} {
		for _, column := range columns {
			b.exec(fmt.Sprintf("ALTER TABLE tacho.%s MODIFY COLUMN %s CODEC(NONE)", table, column))
		}
	}

	// Three stretches; what is measured in all of them falls into the same hours.
	from, to := begin.Add(time.Hour), begin.Add(2*time.Hour)
	random := rand.New(rand.NewPCG(3, 3))
	var goes []events.Position
	var ofRenter []string
	for n := range 300 {
		clock.Store(int64(n) * int64(36*time.Second))
		device := fmt.Sprint("car-", random.IntN(2))
		secret := ""
		if now := begin.Add(time.Duration(clock.Load())); device == "car-1" && !now.Before(from) && now.Before(to) {
			secret = marker
		}
		at := begin.UnixMilli() + random.Int64N(3_600_000*3)
		payload := fmt.Sprintf(`{"time":%d,"speed":%d,"heading":%d,"route":%q}`, at, random.IntN(200), n, secret)
		switch random.IntN(8) {
		case 0:
			payload = fmt.Sprintf(`{"time":%d,"speed":%q}`, at, "x"+secret)
		case 1:
			if len(ofRenter) > 0 && device == "car-1" {
				payload = ofRenter[random.IntN(len(ofRenter))] // sent again, perhaps after the stretch
				secret = marker
			}
		}
		e := b.send(device, "position", payload)
		tail, err := b.log.Tail(t.Context(), 0)
		if err != nil {
			t.Fatal(err)
		}
		if e.Position = tail; secret != "" {
			goes, ofRenter = append(goes, e.Position), append(ofRenter, payload)
		}
	}
	caughtUp()
	if len(goes) < 30 || len(filesWith(t, b.engine.Dir(), marker)) == 0 {
		t.Fatalf("%d events to forget, files %v: this test shows nothing", len(goes), filesWith(t, b.engine.Dir(), marker))
	}
	awaitEqual := func(sql, want string) {
		t.Helper()
		for deadline := time.Now().Add(3 * time.Minute); b.query(sql) != want; time.Sleep(20 * time.Millisecond) {
			if time.Now().After(deadline) {
				t.Fatalf("%s: %s, want %s", sql, b.query(sql), want)
			}
		}
	}
	const rolledUp = "SELECT sum(count) FROM tacho.position_1m WHERE signal = 'heading'"
	awaitEqual(rolledUp, b.query("SELECT countIf(heading IS NOT NULL) FROM tacho.position"))

	if err := b.log.Erase(t.Context(), goes...); err != nil {
		t.Fatal(err)
	}
	erasure := Erasure{
		Server: b.server, Partitions: []uint16{0}, Schemas: b.catalog.Schemas().All(), Device: "car-1", From: from, To: to,
		Pause: writers[0].Pause, Tell: func(string) {},
	}
	for n := range 2 {
		counts, err := erasure.Run(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if n == 0 && (counts["events"] != uint64(len(goes)) || counts["position"] == 0 || counts["dead_letters"] == 0) || n == 1 && len(counts) > 0 {
			t.Errorf("removed %v, want %d events", counts, len(goes))
		}
		if files := filesWith(t, b.engine.Dir(), marker); len(files) > 0 {
			t.Fatalf("the marker is in %v", files)
		}
	}
	caughtUp()
	b.send("car-1", "position", ofRenter[0]) // late, after all: it is new
	caughtUp()
	b.expect("SELECT count(), countIf(repeat) FROM tacho.events WHERE payload LIKE '%"+marker+"%'", "(1,0)")
	awaitEqual(rolledUp, b.query("SELECT countIf(heading IS NOT NULL) FROM tacho.position"))

	replay := Replay{Writer: cfg, Partitions: []uint16{0, events.ControlPartition}}
	reports, err := replay.Build(t.Context(), projections.Order{Dry: true}, silent)
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range reports {
		if !r.Equal() {
			t.Errorf("a replay differs: %+v", r)
		}
	}
	for _, view := range []string{"position_1m", "position_1h"} {
		awaitEqual("SELECT count() FROM (SELECT * FROM tacho."+view+" EXCEPT SELECT * FROM tacho_replay."+view+") ", "(0)")
		awaitEqual("SELECT count() FROM (SELECT * FROM tacho_replay."+view+" EXCEPT SELECT * FROM tacho."+view+") ", "(0)")
	}
	b.expect("SELECT count() > 0 FROM tacho.position WHERE device = 'car-1'", "(1)")
}
