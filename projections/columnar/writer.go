package columnar

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"sync"
	"time"

	"github.com/ClickHouse/clickhouse-go/v2"
	"github.com/apache/arrow/go/v15/arrow/memory"

	"github.com/tachograph/tachograph/events"
	"github.com/tachograph/tachograph/projections"
	"github.com/tachograph/tachograph/schemas"
)

// Writer is the projection of one partition into ClickHouse.
type Writer struct {
	cfg    Config
	conn   clickhouse.Conn
	client *http.Client
	mem    *schemas.Recycler

	mu      sync.Mutex
	status  projections.Status
	unread  bool      // the last thing that failed is reading the log; guarded by mu
	arrived time.Time // of the newest event inserted

	current *batch        // being built
	due     chan struct{} // signals that current has its first event, or is full
	full    bool
	taken   chan struct{} // closed and replaced when current was taken

	// Of the inserting goroutine alone.
	checkpoint  events.Cursor
	beyond      map[string]uint64 // after a doubt: up to which sequence a table may have rows already
	term        uint64            // see claim
	claims      map[uint64]bool   // every term that this writer has ever claimed
	attempts    uint64
	rolled      events.Position // up to where the roll-ups are
	rolledAt    time.Time
	rollUpDoubt bool              // see rollUpLater
	touched     map[string]bool   // message tables with samples since then; nil: any may have
	ensured     map[string]uint32 // version of each message table's schema
	known       *stock            // at the start
	age         time.Duration     // how old a batch may get; see adapt

	suspects map[events.Position]*projections.BreakdownError // events at which the code broke, to be parked

	facts   map[events.Kind]*FactTable
	repeats *repeats // of the reading goroutine, once it runs
}

var _ projections.Runner = (*Writer)(nil)

// New returns a writer; nothing happens before Run.
func New(cfg Config) (*Writer, error) {
	if err := cfg.complete(); err != nil {
		return nil, err
	}
	conn, err := cfg.Server.Open()
	if err != nil {
		return nil, err
	}
	w := &Writer{
		cfg: cfg, conn: conn, mem: schemas.NewRecycler(memory.NewGoAllocator(), int(2*cfg.MaxBytes)),
		client: &http.Client{Transport: &http.Transport{
			TLSClientConfig: cfg.Server.TLS, MaxIdleConnsPerHost: 4, IdleConnTimeout: 2 * time.Second,
		}},
		due: make(chan struct{}, 1), taken: make(chan struct{}), ensured: map[string]uint32{}, facts: map[events.Kind]*FactTable{}, claims: map[uint64]bool{}, age: cfg.MaxAge,
		status: projections.Status{Name: "columnar", Partition: cfg.Partition},
	}
	for i := range cfg.Facts {
		w.facts[cfg.Facts[i].Kind] = &cfg.Facts[i]
	}
	w.current = newBatch(w.mem)
	return w, nil
}

// Name implements projections.Runner.
func (w *Writer) Name() string { return "columnar" }

// Status implements projections.Runner.
func (w *Writer) Status() projections.Status {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	bounds, err := w.cfg.Log.Bounds(ctx, w.cfg.Partition)
	w.mu.Lock()
	defer w.mu.Unlock()
	s := w.status
	if err == nil {
		s.Tail = bounds.Newest.Seq
		if w.unread && s.Tail == s.Position.Seq { // the log is there again, and no event would tell
			s.LastError, s.CaughtUp = "", true
		}
	}
	if s.Tail > s.Position.Seq {
		s.Lag = s.Tail - s.Position.Seq
		if w.current.events > 0 {
			s.LagSeconds = time.Since(w.current.began).Seconds()
		}
		if !w.arrived.IsZero() {
			s.LagSeconds = max(s.LagSeconds, min(time.Since(w.arrived).Seconds(), 1e6))
		}
	}
	s.CaughtUp = s.CaughtUp && s.Lag == 0
	return s
}

// Run writes until ctx ends, then inserts what it has read. A writer runs once.
//
// Errors, only for what waiting does not mend: events.ErrDiverged when the log
// does not hold what the tables say it held, *events.TruncatedError when it was
// purged before it was read, ErrFenced when another writer has taken over,
// ErrOtherShards when the server has another place among the shards.
func (w *Writer) Run(ctx context.Context) (err error) {
	defer func() {
		if err != nil {
			w.mu.Lock()
			w.unread = false
			w.status.LastError, w.status.CaughtUp = err.Error(), false // of all that it says, this is what stays
			w.mu.Unlock()
		}
		w.client.CloseIdleConnections() // a server that stops waits for idle connections
		_ = w.conn.Close()
	}()
	for {
		err := projections.Guard(nil, func() error { return w.work(ctx) })
		if broken, ok := projections.Broken(err); !ok || !w.parks(broken) {
			return w.end(err)
		}
	}
}

// parks tells whether to begin anew without the event at which the code broke.
func (w *Writer) parks(broken *projections.BreakdownError) bool {
	if w.suspects == nil {
		w.suspects = map[events.Position]*projections.BreakdownError{}
	}
	park := w.cfg.OnPanic.Park && broken.ID != "" && w.suspects[broken.Position] == nil
	w.cfg.Logger.Error("the code of the projection broke at an event", "projection", "columnar", "partition", w.cfg.Partition, "device", broken.Device, "position", broken.Position.String(),
		"parked", park, "panic", broken.Panic, "stack", string(broken.Stack))
	if park {
		w.suspects[broken.Position] = broken
		w.cfg.OnPanic.Parked(broken.Breakdown)
	}
	return park
}

// work finds out where the writer stood and writes from there.
func (w *Writer) work(ctx context.Context) error {
	w.known = nil // of an earlier run
	if err := w.resume(ctx); err != nil {
		return unless(ctx, err)
	}
	if err := w.prepare(ctx); err != nil {
		return unless(ctx, err)
	}
	w.mu.Lock()
	w.status.Resumed = true // who waits for it may ask the tables
	w.mu.Unlock()
	reading, stop := context.WithCancel(ctx)
	read, ended := make(chan error, 1), make(chan struct{})
	go func() {
		defer close(ended)
		read <- projections.Guard(nil, func() error { return w.read(reading) })
	}()
	defer func() {
		stop()
		<-ended
	}()
	return w.write(ctx, read)
}

// unless is no error when ctx ended.
func unless(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return nil
	}
	return err
}

// end makes Run's error of what ended the work.
func (w *Writer) end(err error) error {
	var truncated *events.TruncatedError
	if errors.As(err, &truncated) {
		err = fmt.Errorf("the log was purged before it was written (remedy: refill it from the archive, or restore a backup of the tables): %w", err)
	}
	if err != nil {
		return fmt.Errorf("columnar partition %d: %w", w.cfg.Partition, err)
	}
	return nil
}

// prepare makes the tables of facts and the views, so that they can be queried
// before the first fact.
func (w *Writer) prepare(ctx context.Context) error {
	err := w.persist(ctx, "keep events", func() (err error) {
		if w.known, err = takeStock(ctx, w.conn, w.cfg.Server.Name()); err != nil {
			return err
		}
		for _, table := range []string{"events", "dead_letters"} { // outcomes outlive their letters
			if err := w.ensureKept(ctx, table, "toDateTime(received)", w.cfg.Keep.Events); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	if w.cfg.Partition == events.ControlPartition { // what is kept for how long may have changed
		for _, s := range w.cfg.Catalog.Schemas().All() {
			if err := w.ensure(ctx, s); err != nil {
				return err
			}
		}
	}
	for _, f := range w.cfg.Facts {
		if err := w.ensure(ctx, f.Schema); err != nil {
			return err
		}
	}
	for _, v := range w.cfg.Views {
		for _, name := range v.Needs {
			if s, ok := w.cfg.Catalog.Schemas().Current(name); ok {
				if err := w.ensure(ctx, s); err != nil {
					return err
				}
			}
		}
		if err := w.ensureView(ctx, v); err != nil {
			return err
		}
	}
	return nil
}

func (w *Writer) wake() {
	select {
	case w.due <- struct{}{}:
	default:
	}
}

// write inserts batch after batch: at once when one is full, else when it is
// old enough. While one is inserted the next one grows, so a server that is
// slow gets fewer and larger blocks by itself. A writer that is behind, and reads
// on, has no delay to save: its batches may become full.
func (w *Writer) write(ctx context.Context, read <-chan error) error {
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	var readErr error
	ended, before := false, 0
	for {
		w.mu.Lock()
		age, n, full := time.Since(w.current.began), w.current.events, w.full
		late := n > before && time.Since(w.current.newest) > behind
		w.mu.Unlock()
		limit := w.age
		if late && age < behind {
			limit, before = min(age+w.age, behind), n
		}
		switch {
		case n > 0 && (full || ended || age >= limit):
			if err := w.insertBatch(ctx, w.take()); err != nil {
				if ctx.Err() != nil && !errors.Is(err, ErrFenced) {
					return nil // read again after the checkpoint next time
				}
				return err
			}
			before = 0
			continue
		case ended:
			return readErr
		}
		pending, in := w.rollUpDue()
		if pending && in == 0 {
			if err := w.rollUp(ctx); errors.Is(err, errDamaged) {
				w.rollUpLater(err)
			} else if err != nil {
				if ctx.Err() != nil && !errors.Is(err, ErrFenced) {
					return nil // goes on after its own checkpoint next time
				}
				return err
			}
			continue
		}
		switch {
		case n > 0 && pending:
			timer.Reset(min(limit-age, in))
		case n > 0:
			timer.Reset(limit - age)
		case pending:
			timer.Reset(in)
		}
		select {
		case <-w.due:
		case <-timer.C:
		case readErr = <-read:
			ended = true
		}
	}
}

// take closes the current batch and lets the reader go on with a new one.
func (w *Writer) take() *batch {
	w.mu.Lock()
	defer w.mu.Unlock()
	b := w.current
	w.current, w.full = newBatch(w.mem), false
	close(w.taken)
	w.taken = make(chan struct{})
	return b
}

// insertBatch brings a batch into every table and saves the checkpoint,
// however long it takes. It gives up only when stopping takes too long.
func (w *Writer) insertBatch(ctx context.Context, b *batch) error {
	ctx, cancel := graceful(ctx, stopPatience)
	defer cancel()
	started := time.Now()
	blocks := b.seal()
	defer func() {
		for _, blk := range blocks {
			blk.release()
		}
	}()
	if err := w.ensureRegistered(ctx, b); err != nil {
		return err
	}
	rows := uint64(0)
	for _, blk := range blocks {
		if blk.schema != nil {
			rows += uint64(blk.record.NumRows())
			if w.touched != nil {
				w.touched[blk.table] = true
			}
		}
		if err := w.insertBlock(ctx, b, blk); err != nil {
			return err
		}
	}
	if err := w.parkAll(ctx, b.dead); err != nil {
		return err
	}
	if err := w.noteAbsent(ctx, b); err != nil {
		return err
	}
	if err := w.saveCheckpoint(ctx, b, blocks); err != nil {
		return err
	}
	w.checkpoint = b.last
	for table, seq := range w.beyond {
		if seq <= b.last.Position.Seq {
			delete(w.beyond, table)
		}
	}
	w.adapt(time.Since(started))
	w.mu.Lock()
	defer w.mu.Unlock()
	w.status.Position = b.last.Position
	w.status.Events += uint64(b.events)
	w.status.Rows += rows
	w.status.Parked += uint64(len(b.dead))
	w.status.Repeats += uint64(b.repeats)
	w.status.CaughtUp, w.status.LastError, w.unread = true, "", false
	w.arrived = b.newest
	return nil
}

// behind is the age of what is read at which a writer is catching up, and for how
// long its batches may grow then.
const behind = 3 * time.Second

// adapt sets the age of the next batch by what the last one took: inserting
// shall fill no more than a quarter of the time. So a quiet fleet's rows wait
// for MaxAge, while many tables, or a server that is busy merging, get fewer
// and larger blocks.
func (w *Writer) adapt(took time.Duration) {
	w.age = min(max(w.cfg.MaxAge, 4*took), max(w.cfg.MaxAge, 5*time.Second))
}

// stopPatience is for how long a batch is still tried after Run was told to stop.
const stopPatience = 10 * time.Second

// graceful returns a context that outlives ctx by d.
func graceful(ctx context.Context, d time.Duration) (context.Context, context.CancelFunc) {
	out, cancel := context.WithCancel(context.WithoutCancel(ctx))
	stop := context.AfterFunc(ctx, func() {
		select {
		case <-out.Done():
		case <-time.After(d):
			cancel()
		}
	})
	return out, func() {
		stop()
		cancel()
	}
}

// parkAll stores what did not decode in the log's dead-letter stream as well,
// many at a time so that they share the log's commits. A dead letter's stream
// is named after the place it comes from, so parking it again finds it there.
//
// What the dead-letter stream refuses for good does not hold up the partition:
// the table dead_letters has it, and so has the log where it came from.
func (w *Writer) parkAll(ctx context.Context, dead []deadLetter) error {
	const together = 64
	for ; len(dead) > 0; dead = dead[min(together, len(dead)):] {
		err := w.persist(ctx, "park", func() error {
			some := dead[:min(together, len(dead))]
			errs := make([]error, len(some))
			var wg sync.WaitGroup
			for i := range some {
				wg.Go(func() { errs[i] = w.park(ctx, &some[i]) })
			}
			wg.Wait()
			return errors.Join(errs...)
		})
		if err != nil {
			return err
		}
	}
	return nil
}

func (w *Writer) park(ctx context.Context, d *deadLetter) error {
	_, err := w.cfg.Log.Append(ctx, events.Fresh, d.park())
	var there *events.ConflictError
	switch {
	case errors.As(err, &there):
		return nil
	case errors.Is(err, events.ErrFull), errors.Is(err, events.ErrTooLarge), errors.Is(err, events.ErrInvalid):
		w.cfg.Logger.Error("dead letter is in the table only", "device", d.event.Stream.ID, "position", d.event.Position.String(), "error", err)
		return nil
	}
	return err
}

// persist tries a step until it succeeds or ctx ends, with a growing pause.
func (w *Writer) persist(ctx context.Context, step string, try func() error) error {
	pause := 50 * time.Millisecond
	for failed := false; ; failed = true {
		err := w.cfg.Fault(step)
		if err == nil {
			if err = try(); err == nil {
				if failed {
					w.mended()
				}
				return w.cfg.Fault(step + " done")
			}
		}
		if ctx.Err() != nil || errors.Is(err, ErrFenced) || errors.Is(err, ErrOtherShards) {
			return fmt.Errorf("%s: %w", step, err)
		}
		w.failed(step, err)
		select {
		case <-ctx.Done():
			return fmt.Errorf("%s: %w", step, err)
		case <-time.After(pause):
		}
		pause = min(2*pause, 5*time.Second)
	}
}

// mended takes back what failed said: on a quiet partition no batch would.
func (w *Writer) mended() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.status.LastError, w.status.CaughtUp = "", true // as far as what it does next shows
}

// The steps that ClickHouse has no part in: the log cannot be read, or an event's schema is
// not known.
const (
	readStep   = "read the log"
	decodeStep = "decode"
)

func (w *Writer) failed(step string, err error) {
	w.mu.Lock()
	w.status.Errors++
	w.status.CaughtUp = false
	w.status.LastError = step + ": " + err.Error()
	w.unread = step == readStep
	n := w.status.Errors
	w.mu.Unlock()
	if step == decodeStep {
		w.cfg.Logger.Error("an event cannot be read yet; the log keeps what is to come", "step", step, "error", err)
	} else if hopeless(err) {
		w.cfg.Logger.Error("ClickHouse refuses; the log keeps what is to come", "step", step, "error", err)
	} else if n&(n-1) == 0 { // the 1st, 2nd, 4th, 8th ...
		w.cfg.Logger.Warn("ClickHouse is not available; trying again", "step", step, "error", err, "failures", n)
	}
}
