package jetlog

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"strconv"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/nats-io/nuid"

	"github.com/tachograph/tachograph/events"
)

// ErrNotEmpty is what BeginRefill answers of a log that holds something.
var ErrNotEmpty = errors.New("the log is not empty")

// BeginRefill lets an empty log be refilled from an archive, which name tells
// apart from others. Until EndRefill nobody else can open the log: half a history
// must not be taken for one. A refill that was interrupted goes on with the same
// name.
//
// Errors: ErrNotEmpty, also for a refill from another archive.
func (l *Log) BeginRefill(ctx context.Context, name string) error {
	fail := func(err error) error { return fmt.Errorf("begin to refill the log: %w", err) }
	control, err := l.js.Stream(ctx, controlStream)
	if err != nil {
		return fail(err)
	}
	switch begun := control.CachedInfo().Config.Metadata[metaRefill]; begun {
	case name:
		return nil
	case "":
	default:
		return fail(fmt.Errorf("%w: it is being refilled from the archive %s", ErrNotEmpty, begun))
	}
	switch base, err := l.present(ctx, true); {
	case err != nil:
		return fail(err)
	case base.seq > 0:
		return fail(fmt.Errorf("%w: a base of another log is there (remedy: remove its streams BASE and BASE_*)", ErrNotEmpty))
	}
	for _, p := range l.Partitions() {
		tail, err := l.Tail(ctx, p)
		if err != nil {
			return fail(err)
		}
		if tail.Seq > 0 {
			return fail(fmt.Errorf("%w: partition %d has had %d events", ErrNotEmpty, p, tail.Seq))
		}
	}
	if err := l.setRefill(ctx, control, name); err != nil {
		return fail(err)
	}
	return nil
}

// setRefill writes down, or with "" removes, that the log is being refilled.
func (l *Log) setRefill(ctx context.Context, control jetstream.Stream, name string) error {
	info, err := control.Info(ctx)
	if err != nil {
		return err
	}
	cfg := info.Config
	if cfg.Metadata[metaRefill] = name; name == "" {
		delete(cfg.Metadata, metaRefill)
	}
	_, err = l.js.UpdateStream(ctx, cfg)
	return err
}

// Refill stores a partition's events at the positions that they bear, with their
// ids and arrival times, and leaves every position up to upTo that no event has
// empty: as if the event there had been erased. read yields the events after a
// sequence, oldest first; it is asked to go on where an interrupted refill was.
// tell hears how far it is.
func (l *Log) Refill(ctx context.Context, upTo events.Position, read func(after uint64) iter.Seq2[events.Event, error], tell func(seq uint64)) error {
	fail := func(err error) error { return fmt.Errorf("refill partition %d: %w", upTo.Partition, err) }
	if epoch := l.epochs[upTo.Partition]; epoch != upTo.Epoch {
		return fail(fmt.Errorf("the log is of epoch %d, the archive of %d: %w", epoch, upTo.Epoch, events.ErrInvalid))
	}
	s, err := l.js.Stream(ctx, streamName(upTo.Partition))
	if err != nil {
		return fail(err)
	}
	c, err := startCommitter(l, upTo.Partition)
	if err != nil {
		return fail(err)
	}
	r := refill{committer: c, at: s.CachedInfo().State.LastSeq, tell: tell, filler: fillerSubject(upTo.Partition, l.layout)}
	err = r.run(ctx, s, upTo, read)
	if stopped := c.stop(); err == nil {
		err = stopped
	}
	if err != nil {
		return fail(err)
	}
	return nil
}

// A refill sends one batch after the other, each once all of the last one is
// stored: so nothing can come to stand at another place than its own.
type refill struct {
	*committer
	at     uint64 // the stream's last sequence, with what waits
	items  []item
	bytes  int
	filler string
	tell   func(uint64)
}

func (r *refill) run(ctx context.Context, s jetstream.Stream, upTo events.Position, read func(uint64) iter.Seq2[events.Event, error]) error {
	for e, err := range read(r.at) {
		if err == nil {
			err = ctx.Err()
		}
		if err == nil {
			err = r.event(ctx, s, e, upTo)
		}
		if err != nil {
			return errors.Join(err, r.flush()) // the next refill goes on after it
		}
	}
	if err := r.gap(ctx, s, upTo.Seq+1); err != nil {
		return err
	}
	if err := r.flush(); err != nil {
		return err
	}
	return s.Purge(ctx, jetstream.WithPurgeSubject(r.filler))
}

func (r *refill) event(ctx context.Context, s jetstream.Stream, e events.Event, upTo events.Position) error {
	if err := e.Validate(); err != nil {
		return fmt.Errorf("event at %s: %w", e.Position, err)
	}
	if p := r.l.layout.Of(e.Stream); p != upTo.Partition || e.Position.Epoch != upTo.Epoch || e.Position.Partition != p {
		return fmt.Errorf("event at %s of %s belongs to partition %d of epoch %d: %w", e.Position, e.Stream, p, upTo.Epoch, events.ErrInvalid)
	}
	if limit := r.l.maxPayload(); len(e.Payload) > limit {
		return fmt.Errorf("event at %s: %d bytes, at most %d (remedy: a larger --max-payload): %w", e.Position, len(e.Payload), limit, events.ErrTooLarge)
	}
	if e.Position.Seq <= r.at || e.Position.Seq > upTo.Seq {
		return fmt.Errorf("event at %s: not between %d and %d: %w", e.Position, r.at, upTo.Seq, events.ErrInvalid)
	}
	if err := r.gap(ctx, s, e.Position.Seq); err != nil {
		return err
	}
	return r.add(item{event: e, imported: true}, len(e.Payload))
}

// gap leaves what is before a sequence empty.
func (r *refill) gap(ctx context.Context, s jetstream.Stream, next uint64) error {
	if r.at == 0 && next > 1 {
		// Readers from the beginning must not take it for purged.
		if err := r.l.noteForgotten(ctx, s, next); err != nil {
			return err
		}
		if err := s.Purge(ctx, jetstream.WithPurgeSequence(next)); err != nil {
			return err
		}
		r.at = next - 1
	}
	for r.at+1 < next {
		if err := r.add(item{filler: r.filler}, 0); err != nil {
			return err
		}
	}
	return ctx.Err()
}

func (l *Log) noteForgotten(ctx context.Context, s jetstream.Stream, first uint64) error {
	l.beginnings.Lock()
	defer l.beginnings.Unlock()
	return l.note(ctx, s, metaForgotten, first)
}

func (r *refill) add(it item, bytes int) error {
	r.items, r.bytes, r.at = append(r.items, it), r.bytes+bytes+64, r.at+1
	if len(r.items) < batchEvents && r.bytes < batchBytes {
		return nil
	}
	return r.flush()
}

func (r *refill) flush() error {
	if len(r.items) == 0 {
		return nil
	}
	b := &batch{id: nuid.Next(), items: r.items, answered: make(chan struct{})}
	r.register(b)
	defer r.forget(b)
	if err := r.send(b); err != nil {
		b.fail(err)
	}
	b.wait()
	switch {
	case b.err != nil:
		return fmt.Errorf("store what comes before %d: %w", r.at+1, b.err)
	case b.seq != r.at:
		return fmt.Errorf("the stream is at %d instead of %d: somebody else writes to it (remedy: stop that, and refill an empty log): %w", b.seq, r.at, ErrNotEmpty)
	}
	r.items, r.bytes = r.items[:0], 0
	r.tell(r.at)
	return nil
}

// fillerSubject is a subject of a partition that no event has. What is stored
// under it only counts the sequence up, and goes when the partition is full.
func fillerSubject(partition uint16, layout events.Layout) string {
	switch partition {
	case events.ControlPartition:
		return "fact.0.gap.="
	case events.DeadLetterPartition:
		return "dead.0.=.=.="
	}
	return "in." + strconv.Itoa(int(layout.SlotsOf(partition)[0])) + ".=.=.gap"
}

// EndRefill opens the log to everybody. sync is called before: what was refilled
// must be on the disk by then.
func (l *Log) EndRefill(ctx context.Context, sync func() error) error {
	fail := func(err error) error { return fmt.Errorf("end refilling the log: %w", err) }
	if err := sync(); err != nil {
		return fail(err)
	}
	control, err := l.js.Stream(ctx, controlStream)
	if err != nil {
		return fail(err)
	}
	if err := l.setRefill(ctx, control, ""); err != nil {
		return fail(err)
	}
	return nil
}
