package columnar

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/tachograph/tachograph/events"
)

func (b *bench) drive(from, n int) {
	b.t.Helper()
	for i := range n {
		b.send(fmt.Sprint("car-", i%5), "position", fmt.Sprintf(`{"time":%d,"speed":1}`, 1700000000000+from+i))
	}
}

// TestTakeOver: a writer that was paused between reading the tables and
// inserting finds, when it wakes up, that another one has its partition.
func TestTakeOver(t *testing.T) {
	b := newBench(t)
	b.drive(0, 50)
	paused, wake := make(chan struct{}), make(chan struct{})
	var once sync.Once
	_, stopOld := b.start(0, func(step string) error {
		if step == "send position" {
			once.Do(func() {
				close(paused)
				<-wake
			})
		}
		return nil
	})
	<-paused
	w, stop := b.start(0, nil)
	b.await(w)
	close(wake)
	time.Sleep(100 * time.Millisecond)
	if err := stopOld(); !errors.Is(err, ErrFenced) {
		t.Fatalf("the paused writer ended with %v, want ErrFenced", err)
	}
	b.drive(50, 50)
	b.await(w)
	b.judge(0, 100, 100)
	if err := stop(); err != nil {
		t.Fatal(err)
	}
}

// TestLostCheckpoint: a checkpoint that is older than the tables, or gone,
// costs time and nothing else.
func TestLostCheckpoint(t *testing.T) {
	b := newBench(t)
	b.send("car", "position", `[{"time":1700000000000,"speed":1},{"time":1700000000001,"speed":"fast"},{"time":1700000000002,"speed":1}]`)
	b.drive(10, 300)
	w, stop := b.start(0, nil)
	b.await(w)
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	b.exec("TRUNCATE TABLE tacho.checkpoints")
	b.exec("DELETE FROM tacho.position WHERE _seq BETWEEN 100 AND 120 OR _seq = 1 AND _row = 2")
	b.exec("DELETE FROM tacho.events WHERE _seq % 7 = 0")
	b.drive(400, 100)
	w, stop = b.start(0, nil)
	b.await(w)
	b.judge(0, 401, 402)
	b.awaitRollUps()
	b.expect("SELECT sum(count) FROM tacho.position_1m WHERE signal = 'speed'", "(402)")
	b.expect("SELECT count() FROM tacho.dead_letters", "(1)")
	if err := stop(); err != nil {
		t.Fatal(err)
	}
}

// TestFrozenServer: the server stops answering and later does what it was
// asked: an insert whose outcome was unknown, and a backlog meanwhile.
func TestFrozenServer(t *testing.T) {
	b := newBench(t)
	b.patience = 150 * time.Millisecond
	var w *Writer
	frozen := make(chan struct{})
	var once sync.Once
	w, stop := b.start(0, func(step string) error {
		if step == "send position" {
			once.Do(func() {
				if err := syscall.Kill(b.engine.PID(), syscall.SIGSTOP); err != nil {
					t.Error(err)
				}
				close(frozen)
			})
		}
		return nil
	})
	b.drive(0, 100)
	<-frozen
	b.drive(100, 2000)
	time.Sleep(600 * time.Millisecond)
	if s := w.Status(); s.Errors == 0 || s.CaughtUp || s.LastError == "" || s.Lag == 0 {
		t.Errorf("a frozen server does not show: %+v", s)
	}
	if err := syscall.Kill(b.engine.PID(), syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	b.await(w)
	b.judge(0, 2100, 2100)
	if err := stop(); err != nil {
		t.Fatal(err)
	}
}

// TestRepeats: what a device sends again is kept in events, marked, and not
// counted twice, whether or not the writer was started anew in between.
func TestRepeats(t *testing.T) {
	b := newBench(t)
	w, stop := b.start(0, nil)
	b.send("car", "position", `{"time":1700000000000,"speed":1}`)
	b.send("car", "position", `{"time":1700000000000,"speed":1}`)
	b.send("bus", "position", `{"time":1700000000000,"speed":1}`)
	b.await(w)
	if s := w.Status(); s.Repeats != 1 {
		t.Fatalf("%+v", s)
	}
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	w, stop = b.start(0, nil)
	b.send("car", "position", `{"time":1700000000000,"speed":1}`)
	b.send("bus", "position", `{"time":1700000000001,"speed":2}`)
	b.await(w)
	b.expect("SELECT device, repeat, toUnixTimestamp64Milli(time), _seq FROM tacho.events WHERE kind = 'telemetry' ORDER BY _seq",
		"('car',false,1700000000000,1) ('car',true,1700000000000,2) ('bus',false,1700000000000,3) ('car',true,1700000000000,4) ('bus',false,1700000000001,5)")
	b.expect("SELECT device, speed, _seq FROM tacho.position ORDER BY _seq", "('car',1,1) ('bus',1,3) ('bus',2,5)")
	if err := stop(); err != nil {
		t.Fatal(err)
	}
}

func TestRepeatsHaveAHorizon(t *testing.T) {
	r := newRepeats()
	seq := uint64(0)
	fold := func(id string) bool {
		seq++
		return r.fold(&events.Event{Stream: events.Stream{ID: "car"}, ID: id, Position: events.Position{Epoch: 1, Seq: seq}})
	}
	for n := range repeatIDs {
		if fold(fmt.Sprint(n)) {
			t.Fatalf("%d is no repeat", n)
		}
	}
	if !fold("0") || !fold("5") {
		t.Fatal("the oldest of the last ids is not recognised")
	}
	if fold("1") {
		t.Fatal("an id beyond the last ids is recognised")
	}
	seq += repeatReach
	if fold("100") {
		t.Fatal("an id beyond the reach is recognised")
	}
	again := events.Event{Stream: events.Stream{ID: "car"}, ID: "100", Position: events.Position{Epoch: 1, Seq: seq}}
	if r.fold(&again) {
		t.Fatal("an event is taken for its own repeat")
	}
	again.Position = events.Position{Epoch: 2, Seq: 1}
	if r.fold(&again) {
		t.Fatal("a repeat is looked for in another epoch")
	}
}

// A deafLog brings nothing the first time it is followed.
type deafLog struct {
	events.Log
	followed atomic.Int64
}

func (l *deafLog) Follow(ctx context.Context, partition uint16, after events.Cursor) iter.Seq2[events.Event, error] {
	if l.followed.Add(1) > 1 {
		return l.Log.Follow(ctx, partition, after)
	}
	return func(func(events.Event, error) bool) { <-ctx.Done() }
}

func TestStuckReaderIsReplaced(t *testing.T) {
	b := newBench(t)
	b.drive(0, 10)
	deaf := &deafLog{Log: b.log}
	w, err := New(Config{Log: deaf, Catalog: b.catalog, Server: b.server, Stall: 20 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- w.Run(ctx) }()
	b.await(w)
	cancel()
	if err := <-ended; err != nil {
		t.Fatal(err)
	}
	if n := deaf.followed.Load(); n != 2 {
		t.Fatalf("the log was followed %d times, want 2", n)
	}
}

// A coyLog refuses to be followed a few times.
type coyLog struct {
	events.Log
	followed atomic.Int64
}

func (l *coyLog) Follow(ctx context.Context, partition uint16, after events.Cursor) iter.Seq2[events.Event, error] {
	if l.followed.Add(1) > 3 {
		return l.Log.Follow(ctx, partition, after)
	}
	return func(yield func(events.Event, error) bool) { yield(events.Event{}, errors.New("no servers")) }
}

// TestQuietPartitionRecovers: a failure that is over, of the log or of
// ClickHouse, is not held against a writer that has nothing to do.
func TestQuietPartitionRecovers(t *testing.T) {
	b := newBench(t)
	b.drive(0, 10)
	w, stop := b.start(0, nil)
	b.await(w)
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	coy := &coyLog{Log: b.log}
	var failed atomic.Int64
	w, err := New(Config{Log: coy, Catalog: b.catalog, Server: b.server, Fault: func(step string) error {
		if step == "keep events" && failed.Add(1) < 3 {
			return errors.New("not now")
		}
		return nil
	}})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- w.Run(ctx) }()
	for deadline := time.Now().Add(3 * time.Minute); ; time.Sleep(10 * time.Millisecond) {
		s := w.Status()
		if s.Errors == 5 && s.Resumed && s.CaughtUp && s.LastError == "" {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("%+v", s)
		}
	}
	cancel()
	if err := <-ended; err != nil {
		t.Fatal(err)
	}
}

// TestBatchesAreBounded: rows and bytes close a batch, and one message with
// very many samples counts as what it is.
func TestBatchesAreBounded(t *testing.T) {
	b := newBench(t)
	s, _ := b.catalog.Schemas().Current("position")
	w, err := New(Config{Log: b.log, Catalog: b.catalog, Server: b.server})
	if err != nil {
		t.Fatal(err)
	}
	payload := []byte(`[{"speed":1}`)
	for range 9_999 {
		payload = append(payload, `,{"speed":1}`...)
	}
	payload = append(payload, ']')
	if !w.current.add(&events.Event{Stream: events.Stream{Kind: events.Telemetry, ID: "car"}, Payload: payload}, s, nil, false) {
		t.Fatal("refused")
	}
	if got, took := w.current.bytes, w.current.messageRows(s).samples.Bytes(); w.current.rows != 10_001 || got < took {
		t.Fatalf("%d rows counted as %d bytes, take at least %d", w.current.rows, got, took)
	}
}

// TestTwoWritersAtOnce starts writers over one another, with crashes.
func TestTwoWritersAtOnce(t *testing.T) {
	rounds := 12
	if testing.Short() {
		rounds = 3
	}
	b := newBench(t)
	n := 0
	for seed := range uint64(rounds) {
		r := rand.New(rand.NewPCG(seed, 5))
		var stops []func() error
		for range 3 {
			var steps atomic.Int64
			crashAt := int64(5 + r.IntN(40))
			_, stop := b.start(0, func(string) error {
				if steps.Add(1) == crashAt {
					return errCrash
				}
				return nil
			})
			stops = append(stops, stop)
			b.drive(n, 60)
			n += 60
			time.Sleep(time.Duration(r.IntN(60)) * time.Millisecond)
		}
		for _, stop := range stops {
			if err := stop(); err != nil && !errors.Is(err, ErrFenced) && !errors.Is(err, errCrash) {
				t.Fatalf("seed %d: %v", seed, err)
			}
		}
	}
	w, stop := b.start(0, nil)
	b.await(w)
	b.judge(0, n, n)
	b.judgeRollUps()
	if err := stop(); err != nil {
		t.Fatal(err)
	}
}
