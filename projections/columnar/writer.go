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
	tables *knownTables

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
		cfg: cfg, conn: conn, tables: cfg.Tables.at(cfg.Server), mem: schemas.NewRecycler(memory.NewGoAllocator(), int(2*cfg.MaxBytes)),
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
	err := w.persist(ctx, "keep events", func() error {
		w.tables.mu.Lock()
		defer w.tables.mu.Unlock()
		if err := w.tables.look(ctx, w.conn, w.cfg.Server.Name()); err != nil {
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

// insertBatch brings a batch into every table and saves the checkpoint,
// however long it takes. It gives up only when stopping takes too long.
func (w *Writer) insertBatch(ctx context.Context, b *batch) error {
	ctx, cancel := projections.Graceful(ctx, stopPatience)
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

// stopPatience is for how long a batch is still tried after Run was told to stop.
const stopPatience = 10 * time.Second
