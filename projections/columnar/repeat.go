package columnar

import (
	"bytes"
	"cmp"
	"context"
	"fmt"
	"slices"

	"github.com/zeebo/xxh3"

	"github.com/tachograph/tachograph/events"
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

	last   uint64 // sequence of the event folded last, and the answer: it may come again
	answer bool
}

// recent is what a device sent last: a ring of 64-bit hashes of ids, and where
// they stand. Ids are only compared within a device. The lowest bytes of the
// hashes stand together so that most of the others need not be read.
type recent struct {
	ids, seqs []uint64
	low       []byte
	next      int
}

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
	d := r.devices[e.Stream.ID]
	if d == nil {
		d = &recent{}
		r.devices[e.Stream.ID] = d
	}
	r.last, r.answer = e.Position.Seq, d.fold(xxh3.HashString(e.ID), e.Position.Seq)
	return r.answer
}

func (d *recent) fold(id, seq uint64) bool {
	repeat := d.knows(id, seq)
	if len(d.ids) < repeatIDs {
		d.ids, d.seqs, d.low = append(d.ids, id), append(d.seqs, seq), append(d.low, byte(id))
		return repeat
	}
	d.ids[d.next], d.seqs[d.next], d.low[d.next] = id, seq, byte(id)
	d.next = (d.next + 1) % repeatIDs
	return repeat
}

func (d *recent) knows(id, seq uint64) bool {
	for i := 0; ; i++ {
		j := bytes.IndexByte(d.low[i:], byte(id))
		if j < 0 {
			return false
		}
		if i += j; d.ids[i] == id && seq-d.seqs[i] <= repeatReach {
			return true
		}
	}
}

// restoreRepeats folds what lies before the checkpoint, as tacho.events has it.
func (w *Writer) restoreRepeats(ctx context.Context) error {
	w.repeats = newRepeats()
	at := w.checkpoint.Position
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
		d := &recent{}
		for _, i := range order {
			d.fold(ids[i], seqs[i])
		}
		w.repeats.devices[device] = d
	}
	if err := rows.Err(); err != nil {
		return fmt.Errorf("restore what devices sent last: %w", err)
	}
	return nil
}
