package archive

import (
	"context"
	"fmt"
	"iter"
	"slices"

	"github.com/tachograph/tachograph/events"
	"github.com/tachograph/tachograph/events/jetlog"
	"github.com/tachograph/tachograph/projections/forgotten"
)

// An Import refills an empty log from an archive.
type Import struct {
	Archive *Archive

	// Open opens the log with Refill and as many telemetry partitions, which the
	// log that it has given before is split into. It is called once for each number
	// that the archive's log has had, unless the log has more already.
	Open       func(ctx context.Context, partitions int) (*jetlog.Log, error)
	Partitions int // of telemetry that the log shall have

	// Obey are further archives, of which only the ledger of what was forgotten
	// counts: what was asked to be forgotten after Archive was made stands there.
	Obey []*Archive

	Sync     func() error                           // has what was stored reach the disk
	Progress func(phase string, done, total uint64) // files while "checking", positions while "importing"; may be nil
}

// A Report is what an import has done. After one that was interrupted it counts
// what was left to do.
type Report struct {
	Events    uint64 // stored
	Forgotten uint64 // left out, as the ledger wants it
	Empty     uint64 // positions at which the archive has nothing
}

// Run checks everything that can be checked before the first event is stored, and
// then stores all of them. One that was interrupted goes on where it was.
//
// Errors: jetlog.ErrNotEmpty.
func (i *Import) Run(ctx context.Context) (Report, error) {
	fail := func(err error) (Report, error) { return Report{}, fmt.Errorf("import: %w", err) }
	tell := i.Progress
	if tell == nil {
		tell = func(string, uint64, uint64) {}
	}
	if err := i.fits(); err != nil {
		return fail(err)
	}
	for _, a := range append([]*Archive{i.Archive}, i.Obey...) {
		if err := a.Verify(ctx, func(done, total uint64) { tell("checking", done, total) }); err != nil {
			return fail(err)
		}
	}
	ledgers, err := i.ledgers(ctx)
	if err != nil {
		return fail(err)
	}
	var total uint64
	for _, p := range i.Archive.Partitions {
		total += p.UpTo
	}
	r := refilling{ledgers: ledgers, gone: map[events.Position]bool{}}
	var log *jetlog.Log
	from, before := 0, uint64(0) // partitions that are done, and positions
	for _, n := range i.Archive.LogLayout().Counts() {
		if log == nil || log.Layout().Telemetry() < n { // else this was done before it was interrupted
			if log, err = i.Open(ctx, n); err != nil {
				return fail(err)
			}
			if err := i.leadsTo(log.Layout()); err != nil {
				return fail(err)
			}
			if err := log.BeginRefill(ctx, i.Archive.Name()); err != nil {
				return fail(err)
			}
		}
		for _, p := range i.Archive.Partitions { // telemetry first: dead letters hang on it
			last := n == i.Archive.Telemetry
			if int(p.Partition) < from || int(p.Partition) >= n && !(last && p.Partition >= events.ControlPartition) {
				continue
			}
			if err := r.refill(ctx, i.Archive, log, p, func(seq uint64) { tell("importing", before+seq, total) }); err != nil {
				return fail(fmt.Errorf("%w (it goes on where it was when it is started again)", err))
			}
			before += p.UpTo
		}
		from = n
	}
	if err := log.EndRefill(ctx, i.Sync); err != nil {
		return fail(err)
	}
	return r.Report, nil
}

// refill stores what is to stay of one partition.
func (r *refilling) refill(ctx context.Context, a *Archive, log *jetlog.Log, p Partition, tell func(seq uint64)) error {
	upTo := events.Position{Epoch: p.Epoch, Partition: p.Partition, Seq: p.UpTo}
	from := p.UpTo + 1
	stored := r.Events + r.Forgotten
	read := func(after uint64) iter.Seq2[events.Event, error] {
		from = after + 1
		return r.stay(a.Events(ctx, p.Epoch, p.Partition, 0), after)
	}
	if err := log.Refill(ctx, upTo, read, tell); err != nil {
		return err
	}
	if left := p.UpTo + 1 - from; left > 0 {
		r.Empty += left - (r.Events + r.Forgotten - stored)
	}
	return nil
}

// fits tells whether the archive can become this log.
func (i *Import) fits() error {
	a := i.Archive
	layout := a.LogLayout()
	if a.Filter != (Filter{}) {
		return fmt.Errorf("archive %s holds only some of the events: what is folded from them would be another history (remedy: export without filters)", a.Dir)
	}
	if len(a.Partitions) == 0 {
		return fmt.Errorf("archive %s holds nothing", a.Dir)
	}
	have := map[uint16]bool{}
	for _, p := range a.Partitions {
		if have[p.Partition] {
			return fmt.Errorf("archive %s holds several epochs of partition %d, which cannot be refilled yet", a.Dir, p.Partition)
		}
		if fresh := uint32(len(layout.Way(p.Partition))); p.Epoch != fresh {
			return fmt.Errorf("archive %s is of epoch %d of partition %d; a new log is of epoch %d there, and another cannot be refilled yet", a.Dir, p.Epoch, p.Partition, fresh)
		}
		have[p.Partition] = true
	}
	if a.Telemetry != i.Partitions {
		return fmt.Errorf("archive %s is of a log of %d telemetry partitions, this one has %d (remedy: --partitions %d)", a.Dir, a.Telemetry, i.Partitions, a.Telemetry)
	}
	return nil
}

// leadsTo tells whether a log with such a layout can become that of the archive.
func (i *Import) leadsTo(has events.Layout) error {
	goal := i.Archive.LogLayout()
	counts, have := goal.Counts(), has.Counts()
	fits := len(have) <= len(counts) && slices.Equal(have, counts[:len(have)])
	for p, seam := range has.Seams() {
		there, ok := goal.Seam(p)
		fits = fits && ok && there == seam
	}
	if !fits {
		return fmt.Errorf("archive %s is of a log that was made and split into %s telemetry partitions, this one into %s, or elsewhere: %w", i.Archive.Dir, goal, has, jetlog.ErrNotEmpty)
	}
	return nil
}

// ledgers fold what was asked to be forgotten, in each of the archives.
func (i *Import) ledgers(ctx context.Context) (all []*forgotten.Ledger, err error) {
	for _, a := range append([]*Archive{i.Archive}, i.Obey...) {
		ledger := forgotten.New()
		for _, p := range a.Partitions {
			if p.Partition != events.ControlPartition {
				continue
			}
			for e, err := range a.Events(ctx, p.Epoch, p.Partition, 0) {
				if err != nil {
					return nil, err
				}
				ledger.Fold(e)
			}
		}
		all = append(all, ledger)
	}
	return all, nil
}

// A refilling knows what must not come back.
type refilling struct {
	Report
	ledgers []*forgotten.Ledger
	gone    map[events.Position]bool // telemetry that is left out
}

// stay yields what is to be stored of a partition's events after a sequence. Those
// before are read as well: dead letters and repeats of what is forgotten come
// after it.
func (r *refilling) stay(all iter.Seq2[events.Event, error], after uint64) iter.Seq2[events.Event, error] {
	return func(yield func(events.Event, error) bool) {
		ids := map[string]bool{} // of what is forgotten: the same message that came again goes with it
		for e, err := range all {
			if err != nil {
				yield(e, err)
				return
			}
			goes := r.goes(&e, ids)
			if e.Position.Seq <= after {
				continue
			}
			if goes {
				r.Forgotten++
				continue
			}
			r.Events++
			if !yield(e, nil) {
				return
			}
		}
	}
}

// goes tells whether an event was, or is to be, forgotten, and notes what hangs on it.
func (r *refilling) goes(e *events.Event, ids map[string]bool) bool {
	switch e.Stream.Kind {
	case events.DeadLetter:
		letter, err := events.ParseLetterID(e.Stream.Name)
		return err == nil && r.gone[letter.Position] || err != nil && r.covered(e)
	case events.Telemetry:
		if !r.covered(e) && !ids[e.Stream.ID+"\x00"+e.ID] {
			return false
		}
		ids[e.Stream.ID+"\x00"+e.ID] = true
		r.gone[e.Position] = true
		return true
	case events.Presence:
		return r.covered(e)
	default:
		return false
	}
}

func (r *refilling) covered(e *events.Event) bool {
	for _, l := range r.ledgers {
		if l.Covers(e.Stream.ID, e.Received) {
			return true
		}
	}
	return false
}
