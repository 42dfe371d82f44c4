package columnar

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/tachograph/tachograph/events"
	"github.com/tachograph/tachograph/events/memlog"
	"github.com/tachograph/tachograph/projections"
	"github.com/tachograph/tachograph/projections/columnar/engine"
	"github.com/tachograph/tachograph/projections/columnar/engine/enginetest"
)

// A sharded is a log of some partitions over two real engines, with a writer for
// each partition and a front. What bench asks goes to the second one, over all.
type sharded struct {
	*bench
	engines []*engine.Engine
	shards  Shards
	laid    chan error // what the front tells
}

func newSharded(t *testing.T, partitions int) *sharded {
	t.Helper()
	log := memlog.New(memlog.Options{Partitions: partitions})
	t.Cleanup(func() { log.Close() })
	c := openCatalog(t, log)
	s := &sharded{engines: enginetest.StartShards(t, "fleet", 2)}
	var servers []Server
	for _, e := range s.engines {
		user, password := e.Writer()
		servers = append(servers, Server{URL: "http://" + e.HTTPAddr(), User: user, Password: password})
	}
	s.shards = NewShards("fleet", servers...)
	s.bench = &bench{t: t, age: 20 * time.Millisecond, log: log, catalog: c, engine: s.engines[1], server: s.shards.Servers[1].front()}
	s.background(c.Run)
	return s
}

// background runs something until the test ends.
func (s *sharded) background(run func(context.Context) error) {
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- run(ctx) }()
	s.t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			s.t.Error(err)
		}
	})
}

func (s *sharded) config(partition uint16, fault func(string) error) Config {
	return Config{
		Log: s.log, Catalog: s.catalog, Partition: partition, Server: s.shards.Of(partition), Fault: fault, MaxAge: s.age, RollUpEvery: s.age,
		Logger: slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelError})),
	}
}

// write starts the writers of all partitions; fault, if there is one, makes each its own.
func (s *sharded) write(fault func() func(step string) error) (writers []*Writer, stop func() []error) {
	s.t.Helper()
	var stops []func() error
	for _, p := range s.log.Partitions() {
		if p == events.DeadLetterPartition {
			continue
		}
		cfg := s.config(p, nil)
		if fault != nil {
			cfg.Fault = fault()
		}
		w, err := New(cfg)
		if err != nil {
			s.t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(context.Background())
		ended := make(chan error, 1)
		go func() { ended <- w.Run(ctx) }()
		writers, stops = append(writers, w), append(stops, func() error {
			cancel()
			return <-ended
		})
	}
	return writers, func() (errs []error) {
		for _, stop := range stops {
			errs = append(errs, stop())
		}
		return errs
	}
}

// front lets the shards be asked as one and waits until they can be.
func (s *sharded) front() {
	s.t.Helper()
	s.laid = make(chan error, 100)
	f := &Front{Writer: s.config(0, nil), Shards: s.shards, Tell: func(err error) { s.laid <- err }}
	f.Writer.Views = append(AnalystViews(s.catalog.Schemas().All()), LetterView)
	s.background(f.Run)
	s.awaitFront()
}

// awaitFront waits until the front has been laid since it was asked last.
func (s *sharded) awaitFront() {
	s.t.Helper()
	for deadline := time.After(time.Minute); ; {
		select {
		case err := <-s.laid:
			if err == nil {
				return
			}
			s.t.Log(err)
		case <-deadline:
			s.t.Fatal("there is no front")
		}
	}
}

func (s *sharded) awaitAll(writers []*Writer) {
	s.t.Helper()
	for _, w := range writers {
		s.await(w)
	}
}

// at asks one shard about its own tables.
func (s *sharded) at(shard int) *bench {
	server := s.shards.Servers[shard]
	return &bench{t: s.t, server: server}
}

// count holds the tables of all shards to what was sent.
func (s *sharded) count(n, samples int) {
	s.t.Helper()
	s.expect("SELECT count(), uniqExact(_partition, _seq) FROM tacho.events WHERE kind = 'telemetry'", fmt.Sprintf("(%d,%d)", n, n))
	s.expect("SELECT count(), uniqExact(_partition, _seq, _row) FROM tacho.position", fmt.Sprintf("(%d,%d)", samples, samples))
}

// judge holds them to the log, value for value, and each shard to its partitions.
func (s *sharded) judge(n, samples int) {
	s.t.Helper()
	s.count(n, samples)
	for i := range s.engines {
		for _, table := range []string{"events", "position", "checkpoints"} {
			column := map[bool]string{true: "partition", false: "_partition"}[table == "checkpoints"]
			s.at(i).expect(fmt.Sprintf("SELECT countIf(%s %% 2 != %d), count() > 0 FROM tacho_shard.%s", column, i, table), "(0,1)")
		}
	}
	report, err := (&Audit{Writer: s.config(0, nil), Shards: s.shards, Log: s.log}).Run(s.t.Context())
	if err != nil {
		s.t.Fatal(err)
	}
	if !report.Equal() || report.Events < uint64(n) || len(report.UpTo) != len(s.log.Partitions())-1 {
		s.t.Fatalf("%+v", report)
	}
}

// drive sends n messages of many cars, so that each partition gets some.
func (s *sharded) drive(from, n int) (samples int) {
	s.t.Helper()
	for k := from; k < from+n; k++ {
		payload := fmt.Sprintf(`{"time":%d,"speed":%d}`, deviceTime(k), k%113)
		samples++
		if k%7 == 0 {
			payload = fmt.Sprintf(`[%s,{"time":%d,"speed":2}]`, payload, deviceTime(k)+1)
			samples++
		}
		s.send(fmt.Sprint("car-", k%37), "position", payload)
	}
	return samples
}

// TestShards: each partition is written to its shard, all are asked as one through
// the same names from any of them, a new schema and what is found of an analyst's
// rights included.
func TestShards(t *testing.T) {
	s := newSharded(t, 4)
	writers, stop := s.write(nil)
	s.front()
	samples := s.drive(0, 200)
	s.send("car-1", "position", `{"latitude":"north"}`)
	s.awaitAll(writers)
	s.count(201, samples)

	// Who has nothing to do with a shard that is away goes on.
	if err := syscall.Kill(s.engines[1].PID(), syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	samples += s.drive(201, 100)
	for _, w := range writers {
		if s.shards.Servers[0].Shard.Has(w.cfg.Partition) {
			s.await(w)
		}
	}
	if err := syscall.Kill(s.engines[1].PID(), syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	s.awaitAll(writers)
	s.judge(301, samples)
	for i := range s.engines {
		front := &bench{t: t, server: s.shards.Servers[i].front()}
		front.expect("SELECT count() FROM tacho.position", fmt.Sprintf("(%d)", samples))
		front.expect("SELECT uniqExact(device), count() FROM tacho.latest", "(37,37)")
		front.expect("SELECT reason, state FROM tacho.dead_letter_states", "('wrong_type','parked')")
		if err := front.tell("INSERT INTO tacho.position (device) VALUES ('car-1')"); err == nil {
			t.Error("rows can be inserted past the writers")
		}
	}
	s.halves(samples)
	for _, err := range stop() {
		if err != nil {
			t.Error(err)
		}
	}
}

// halves asks while a shard is away: what is answered is whole.
func (s *sharded) halves(samples int) {
	s.t.Helper()
	front := &bench{t: s.t, server: s.shards.Servers[0].front()}
	for failed := 0; failed < 3; {
		_ = syscall.Kill(s.engines[1].PID(), syscall.SIGKILL) // it may be down from the last time
		for range 3 {
			if err := front.tell(fmt.Sprintf("SELECT throwIf(count() != %d, 'half an answer') FROM tacho.position", samples)); err != nil {
				if strings.Contains(err.Error(), "half an answer") {
					s.t.Fatal(err)
				}
				failed++
			}
		}
		time.Sleep(50 * time.Millisecond)
	}
}

// tell runs a statement and returns its error.
func (b *bench) tell(sql string) error {
	conn, err := b.server.Open()
	if err != nil {
		return err
	}
	defer conn.Close()
	return conn.Exec(b.t.Context(), sql)
}

// TestShardQuestions asks the analysts' questions of two shards.
func TestShardQuestions(t *testing.T) {
	long(t)
	s := newSharded(t, 2)
	writers, stop := s.write(nil)
	s.front()
	user, password := s.engines[0].Analyst()
	versions := len(s.catalog.Schemas().All())
	askQuestions(s.bench, Server{URL: s.shards.Servers[0].URL, User: user, Password: password}, func() {
		s.awaitAll(writers)
		if n := len(s.catalog.Schemas().All()); n != versions {
			versions = n
			s.awaitFront()
		}
	})
	for _, err := range stop() {
		if err != nil {
			t.Error(err)
		}
	}
}

// TestShardCrashes ends writers at random steps, has steps fail after they were
// done, starts others over them, and kills or freezes one of the engines: in the
// end every event is there once, at its shard.
func TestShardCrashes(t *testing.T) {
	long(t)
	runs := *seeds / 10
	s := newSharded(t, 2)
	s.front()
	n, samples := 0, 0
	crash := fmt.Errorf("crash: %w", ErrFenced) // which ends a writer where it is
	end := func(seed uint64, stop func() []error) {
		for _, err := range stop() {
			if err != nil && !errors.Is(err, ErrFenced) && !errors.Is(err, context.DeadlineExceeded) { // which both end it
				t.Fatalf("seed %d: %v", seed, err)
			}
		}
	}
	former, ended, killed := func() []error { return nil }, int64(0), 0
	for seed := range uint64(runs) {
		r := rand.New(rand.NewPCG(seed, 21))
		var crashed atomic.Int64
		_, stop := s.write(func() func(string) error {
			steps, crashAt := 0, 1+r.IntN(60)
			return func(string) error {
				switch steps++; {
				case steps == crashAt:
					crashed.Add(1)
					return crash
				case steps%31 == 0:
					return context.DeadlineExceeded // an outcome nobody knows
				}
				return nil
			}
		})
		killAt := r.IntN(100) // ClickHouse takes longer to come back from each time
		for burst := 0; burst < 6 || burst < 1000 && crashed.Load() < 2; burst++ {
			samples += s.drive(n, 10)
			n += 10
			pid := s.engines[r.IntN(2)].PID()
			switch {
			case burst == killAt:
				_ = syscall.Kill(pid, syscall.SIGKILL)
				killed++
			case r.IntN(20) == 0:
				_ = syscall.Kill(pid, syscall.SIGSTOP)
			}
			time.Sleep(time.Duration(r.IntN(50)) * time.Millisecond)
			_ = syscall.Kill(pid, syscall.SIGCONT)
		}
		ended += crashed.Load()
		end(seed, former)
		former = stop
		if r.IntN(2) == 0 {
			end(seed, stop)
			former = func() []error { return nil }
		}
	}
	end(0, former)
	writers, stop := s.write(nil)
	s.awaitAll(writers)
	s.judge(n, samples)
	s.judgeRollUps()
	t.Logf("%d messages, %d writers ended at a step, %d engines killed", n, ended, killed)
	if ended < int64(runs) {
		t.Error("this test shows little")
	}
	for _, err := range stop() {
		if err != nil {
			t.Error(err)
		}
	}
}

// TestOtherShards: a server that has another place than it had, or none, is
// written to by nobody.
func TestOtherShards(t *testing.T) {
	long(t)
	s := newSharded(t, 2)
	first, second := s.shards.Servers[0], s.shards.Servers[1]
	refused := func(server Server, want string) {
		t.Helper()
		cfg := s.config(0, nil)
		cfg.Server = server
		w, err := New(cfg)
		if err != nil {
			t.Fatal(err)
		}
		if err := w.Run(t.Context()); !errors.Is(err, ErrOtherShards) || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), "remedy") {
			t.Errorf("%v, want %q", err, want)
		}
	}
	if err := Migrate(t.Context(), first.front()); err != nil {
		t.Fatal(err)
	}
	refused(first, "was written as the only one")
	s.exec("DROP DATABASE IF EXISTS tacho SYNC")
	(&bench{t: t, server: first.front()}).exec("DROP DATABASE tacho SYNC")

	for _, server := range s.shards.Servers {
		if err := Migrate(t.Context(), server); err != nil {
			t.Fatal(err)
		}
	}
	refused(second.front(), "is one of several shards") // before there is a front
	swapped := NewShards("fleet", second, first)
	refused(swapped.Servers[0], "is shard 2 of 2, not 1 of 2")
	three := NewShards("fleet", first, second, first)
	refused(three.Servers[1], "is shard 2 of 2, not 2 of 3")
	s.front()
	refused(first.front(), "is one of several shards")

	lay := func(name string, servers ...Server) error {
		return (&Front{Writer: s.config(0, nil), Shards: NewShards(name, servers...)}).lay(t.Context())
	}
	if err := lay("flet", first, second); err == nil || !strings.Contains(err.Error(), `cluster "flet" has 0 shards`) {
		t.Error(err)
	}
	if err := lay("fleet", second, first); !errors.Is(err, ErrOtherShards) {
		t.Error(err)
	}
}

// TestShardReplay: a replay that is cut off anywhere in its swap is, once Recover
// was there, swapped at all shards or at none, and either can be gone on with.
func TestShardReplay(t *testing.T) {
	long(t)
	s := newSharded(t, 2)
	writers, stop := s.write(nil)
	s.front()
	samples := s.drive(0, 200)
	n := 200
	var met []string
	crashAt := 0
	crash := errors.New("crash")
	replay := &Replay{
		Writer: s.config(0, nil), Shards: s.shards, Partitions: []uint16{0, 1, events.ControlPartition},
		Pause: func(context.Context) (func(), error) {
			for _, err := range stop() {
				if err != nil {
					t.Error(err)
				}
			}
			return func() {}, nil
		},
		Fault: func(step string) error {
			if met = append(met, step); len(met) == crashAt {
				return crash
			}
			return nil
		},
	}
	serving := func() (ids [2]string) {
		for i := range s.shards.Servers {
			ids[i] = s.at(i).query("SELECT uuid FROM system.tables WHERE database = 'tacho_shard' AND name = 'checkpoints'")
		}
		return ids
	}
	try := func(at int, work func() error) (swapped bool) {
		t.Helper()
		before := serving()
		met, crashAt = nil, at
		if err := work(); (at > 0) != errors.Is(err, crash) || at == 0 && err != nil {
			t.Fatalf("step %d: %v", at, err)
		}
		for _, server := range s.shards.Servers { // in the order that suits it least
			if err := Recover(t.Context(), s.shards, server); err != nil {
				t.Fatal(err)
			}
		}
		after := serving()
		if (before[0] == after[0]) != (before[1] == after[1]) {
			t.Fatalf("step %d, %s: one shard is swapped alone", at, met[len(met)-1])
		}
		writers, stop = s.write(nil)
		samples += s.drive(n, 20)
		n += 20
		s.awaitAll(writers)
		s.count(n, samples)
		return before[0] != after[0]
	}
	build := func() error {
		reports, err := replay.Build(t.Context(), projections.Order{}, silent)
		for _, r := range reports {
			if !r.Equal() {
				t.Errorf("%+v", r)
			}
		}
		return err
	}
	steps := []int{2, 3} // before both shards have written down what they intend, and after
	if *seeds > 40 {     // a campaign
		try(0, build)
		last := len(met)
		steps = append(steps, 1, last/2+1, last-1, last)
	}
	for _, at := range steps {
		if swapped := try(at, build); swapped != (at > 2) {
			t.Errorf("step %d: swapped: %t", at, swapped)
		}
	}
	if !try(0, func() error { return replay.Undo(t.Context()) }) {
		t.Error("nothing was undone")
	}
	s.judge(n, samples)
	for _, err := range stop() {
		if err != nil {
			t.Error(err)
		}
	}
}
