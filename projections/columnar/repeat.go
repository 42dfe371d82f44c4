package columnar

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"iter"
	"slices"
	"strings"

	"github.com/zeebo/xxh3"

	"github.com/tachograph/tachograph/events"
	"github.com/tachograph/tachograph/projections/history"
)

// How far back a message is recognised as one that the device has sent before:
// among the device's last repeatIDs telemetry events, and no further than
// repeatReach positions. Both are counted in the log, so that reading it again
// gives the same answer. Beyond, it is new.
const (
	repeatIDs   = 128
	repeatReach = 10_000_000
)

// repeats recognises messages that were sent again (DESIGN D8): a fold of the
// telemetry events' ids in the order of their positions.
type repeats struct {
	epoch   uint32
	devices map[string]*recent
	before  uint64 // positions in front of the partition's first: those of the partitions its devices were in before

	last   uint64 // sequence of the event folded last, and the answer: it may come again
	answer bool
}

// recent is what a device sent last: a ring of 64-bit hashes of ids, and where
// they stand. Ids are only compared within a device. The lowest bytes of the
// hashes stand together so that most of the others need not be read.
type recent struct {
	ids  []heard
	low  []byte
	next int
}

type heard struct{ id, seq uint64 } // seq counts along the way of a device's partitions

func newRepeats() *repeats { return &repeats{devices: map[string]*recent{}} }

// fold takes the next event and tells whether it is a repeat.
func (r *repeats) fold(e *events.Event) bool {
	if e.Position.Epoch != r.epoch {
		r.epoch, r.last = e.Position.Epoch, 0
		clear(r.devices)
	}
	if e.Position.Seq == r.last {
		return r.answer
	}
	r.last, r.answer = e.Position.Seq, r.of(e.Stream.ID).fold(xxh3.HashString(e.ID), r.before+e.Position.Seq)
	return r.answer
}

func (d *recent) fold(id, seq uint64) bool {
	repeat := d.knows(id, seq)
	if len(d.ids) < repeatIDs {
		d.ids, d.low = append(d.ids, heard{id, seq}), append(d.low, byte(id))
		return repeat
	}
	d.ids[d.next], d.low[d.next] = heard{id, seq}, byte(id)
	d.next = (d.next + 1) % repeatIDs
	return repeat
}

func (d *recent) knows(id, seq uint64) bool {
	for i := 0; ; i++ {
		j := bytes.IndexByte(d.low[i:], byte(id))
		if j < 0 {
			return false
		}
		if i += j; d.ids[i].id == id && seq-d.ids[i].seq <= repeatReach {
			return true
		}
	}
}

// begin folds what devices that have their history elsewhere, as the log was split,
// sent before a sequence of the partition comes. read yields what a partition has
// after one sequence and up to another. Positions count on over a seam, and so does
// what is recognised.
func (r *repeats) begin(ctx context.Context, log events.Log, partition uint16, at uint64, read func(partition uint16, after, upTo uint64) iter.Seq2[events.Event, error]) error {
	layout := log.Layout()
	way := layout.Way(partition)
	r.before = 0
	if len(way) == 1 {
		return nil
	}
	bounds, err := log.Bounds(ctx, partition)
	if err != nil {
		return err
	}
	r.epoch = bounds.Oldest.Epoch
	for _, s := range way[:len(way)-1] {
		r.before += s.UpTo
	}
	at += r.before
	offset := uint64(0)
	for _, s := range way[:len(way)-1] {
		if after := at - min(at, repeatReach); after < offset+s.UpTo {
			for e, err := range read(s.Partition, after-min(after, offset), s.UpTo) {
				if err != nil {
					return err
				}
				if e.Stream.Kind == events.Telemetry && layout.Passes(events.Slot(e.Stream.ID), partition) {
					r.of(e.Stream.ID).fold(xxh3.HashString(e.ID), offset+e.Position.Seq)
				}
			}
		}
		offset += s.UpTo
	}
	return nil
}

// of returns what a device sent last.
func (r *repeats) of(device string) *recent {
	d := r.devices[device]
	if d == nil {
		d = &recent{}
		r.devices[strings.Clone(device)] = d // an event points into memory of others
	}
	return d
}

// restoreRepeats folds what lies before the checkpoint: as tacho.events has it, and,
// of partitions in which the devices were before, the log.
func (w *Writer) restoreRepeats(ctx context.Context) error {
	w.repeats = newRepeats()
	at := w.checkpoint.Position
	if err := w.repeats.begin(ctx, w.cfg.Log, w.cfg.Partition, at.Seq, w.scan(ctx)); err != nil {
		return fmt.Errorf("restore what devices sent before the log was split: %w", err)
	}
	if at.Seq == 0 {
		return nil
	}
	w.repeats.epoch = at.Epoch
	rows, err := w.conn.Query(ctx, fmt.Sprintf(`SELECT device, groupArray(_seq), groupArray(hash) FROM (
			SELECT device, _seq, xxh3(id) AS hash FROM %s
			WHERE _epoch = ? AND _partition = ? AND _seq <= ? AND _seq + ? > ? AND kind = 'telemetry'
			ORDER BY device, _seq DESC LIMIT ? BY device) GROUP BY device`, w.table("events")),
		at.Epoch, at.Partition, at.Seq, uint64(repeatReach), at.Seq, repeatIDs)
	if err != nil {
		return fmt.Errorf("restore what devices sent last: %w", err)
	}
	defer rows.Close()
	for rows.Next() {
		var device string
		var seqs, ids []uint64
		if err := rows.Scan(&device, &seqs, &ids); err != nil {
			return fmt.Errorf("restore what devices sent last: %w", err)
		}
		order := make([]int, len(seqs))
		for i := range order {
			order[i] = i
		}
		slices.SortFunc(order, func(a, b int) int { return cmp.Compare(seqs[a], seqs[b]) })
		d := w.repeats.of(device)
		for _, i := range order {
			d.fold(ids[i], w.repeats.before+seqs[i])
		}
	}
	if err := rows.Err(); err != nil {
		return fmt.Errorf("restore what devices sent last: %w", err)
	}
	return nil
}

// scan reads stretches of partitions in which devices were before: from the tables
// where these have them whole, else from the log and its archive. What neither has
// any more is not recognised when it comes again.
func (w *Writer) scan(ctx context.Context) func(partition uint16, after, upTo uint64) iter.Seq2[events.Event, error] {
	return func(partition uint16, after, upTo uint64) iter.Seq2[events.Event, error] {
		return func(yield func(events.Event, error) bool) {
			bounds, err := w.cfg.Log.Bounds(ctx, partition)
			if err != nil {
				yield(events.Event{}, err)
				return
			}
			at, err := readCheckpoint(ctx, w.conn, w.cfg.Server.Name(), partition)
			if err != nil {
				yield(events.Event{}, err)
				return
			}
			read := w.scanLog
			if at.Position.Epoch == bounds.Oldest.Epoch && at.Position.Seq >= upTo {
				read = w.scanTable
			}
			from := bounds.Oldest
			from.Seq = after
			read(ctx, from, upTo, yield)
		}
	}
}

// scanTable yields what devices sent last, of each in its order: no more is kept.
func (w *Writer) scanTable(ctx context.Context, after events.Position, upTo uint64, yield func(events.Event, error) bool) {
	rows, err := w.conn.Query(ctx, fmt.Sprintf(`SELECT device, id, _seq FROM (
			SELECT device, id, _seq FROM %s WHERE _epoch = ? AND _partition = ? AND _seq > ? AND _seq <= ? AND kind = 'telemetry'
			ORDER BY device, _seq DESC LIMIT ? BY device) ORDER BY device, _seq`, w.table("events")),
		after.Epoch, after.Partition, after.Seq, upTo, repeatIDs)
	if err != nil {
		yield(events.Event{}, err)
		return
	}
	defer rows.Close()
	for rows.Next() {
		e := events.Event{Stream: events.Stream{Kind: events.Telemetry}, Position: after}
		if err := rows.Scan(&e.Stream.ID, &e.ID, &e.Position.Seq); err != nil {
			yield(events.Event{}, err)
			return
		}
		if !yield(e, nil) {
			return
		}
	}
	if err := rows.Err(); err != nil {
		yield(events.Event{}, err)
	}
}

func (w *Writer) scanLog(ctx context.Context, after events.Position, upTo uint64, yield func(events.Event, error) bool) {
	from, only := events.Cursor{Position: after}, events.Filter{Kinds: []events.Kind{events.Telemetry}}
	for again := true; again; {
		again = false
		for e, err := range w.cfg.Log.Scan(ctx, after.Partition, from, upTo, only) {
			gone := from.Position.Seq
			var truncated *events.TruncatedError
			var missing *history.MissingError
			if errors.As(err, &truncated) {
				gone = truncated.Oldest.Seq - 1
			} else if errors.As(err, &missing) {
				gone = missing.Last
			}
			if again = gone > from.Position.Seq; again {
				from.Position.Seq, from.ID = gone, ""
				break
			}
			if !yield(e, err) || err != nil {
				return
			}
			from = e.Cursor()
		}
	}
}
