package columnar

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"time"

	"github.com/tachograph/tachograph/events"
	"github.com/tachograph/tachograph/projections"
	"github.com/tachograph/tachograph/schemas"
)

// lostAtOnce is how many positions that the log has lost are looked up in events
// at a time.
const lostAtOnce = 2000

// registeredPatience is how long a schema that an event names may take to come.
const registeredPatience = 30 * time.Second

// A partitionAudit reads one partition up to a position and compares batch after
// batch of it.
//
// Where the log has lost an event that tacho.events has, that one stands in for
// it: it is told once, and its rows in other tables can still be judged, as can
// the messages after it that repeat it.
type partitionAudit struct {
	*auditor
	upTo    events.Position
	repeats *repeats
	batch   *batch
	done    uint64 // compared up to here
	at      uint64 // read up to here
	purged  uint64 // the log was purged up to here
	unknown bool   // what devices sent before is not known
	absent  uint64 // the last position that nobody has any more

	parked map[uint64]struct{} // events at which the writer's code broke

	claims   map[uint64]struct{} // events that are marked as repeats, up to claimsTo
	claimsTo uint64
}

// beforeTheLog deals with what was purged: events stands for it, as far as it
// goes back. What lies before that cannot be judged.
func (p *partitionAudit) beforeTheLog(ctx context.Context) error {
	if p.purged == 0 {
		return nil
	}
	p.report.Purged += p.purged
	known := p.purged + 1
	if t := p.tables["events"]; t != nil {
		rows, err := p.ask(ctx, fmt.Sprintf("SELECT min(_seq) FROM %s WHERE %s AND %s HAVING count() > 0", p.table("events"), stretch{p.upTo.Epoch, p.upTo.Partition, 0, p.purged, p.purged, 0}.where(), t.sound()), nil)
		if err = p.unlessDamaged("events", err); err != nil {
			return err
		}
		for _, row := range rows {
			if err := row.scan(&known); err != nil {
				return err
			}
		}
	}
	p.done, p.at, p.unknown = known-1, known-1, p.unknown || known > 1
	p.step(p.done)
	return p.lost(ctx, known, p.purged, "", "")
}

// beforeTheSplit reads what the log has of partitions in which the devices were
// before. Where it does not have all of it, what they sent before is not known.
func (p *partitionAudit) beforeTheSplit(ctx context.Context) func(uint16, uint64, uint64) iter.Seq2[events.Event, error] {
	return func(partition uint16, after, upTo uint64) iter.Seq2[events.Event, error] {
		return func(yield func(events.Event, error) bool) {
			next := after + 1
			for e, err := range p.log.Inspect(ctx, partition, next, upTo) {
				var bad *events.UnreadableError
				if errors.As(err, &bad) {
					continue // it is told where its own partition is audited
				}
				if err == nil {
					p.unknown = p.unknown || e.Position.Seq != next
					next = e.Position.Seq + 1
				}
				if !yield(e, err) || err != nil {
					return
				}
			}
			p.unknown = p.unknown || next <= upTo
		}
	}
}

func (a *auditor) partition(ctx context.Context, upTo events.Cursor) error {
	first, last, err := a.log.Extent(ctx, upTo.Position.Partition)
	if err != nil {
		return err
	}
	at := upTo.Position
	if last.Epoch != at.Epoch {
		a.found(Difference{Kind: OtherEpoch, Epoch: at.Epoch, Partition: at.Partition, Seq: 1, Last: at.Seq, Count: at.Seq,
			Detail: fmt.Sprintf("the log is of epoch %d", last.Epoch)})
		return nil
	}
	p := &partitionAudit{auditor: a, upTo: at, repeats: newRepeats(), batch: newBatch(a.mem), purged: min(max(first.Seq, 1)-1, at.Seq)}
	if err := a.windowSums(ctx, stretch{at.Epoch, at.Partition, 0, at.Seq, at.Seq, 0}); err != nil {
		return err
	}
	if p.parked, err = p.sequences(ctx, "dead_letters", stretch{at.Epoch, at.Partition, 0, at.Seq, at.Seq, 0}, "reason = 'panic'"); err != nil {
		return err
	}
	if err := p.repeats.begin(ctx, a.log, at.Partition, 0, p.beforeTheSplit(ctx)); err != nil {
		return err
	}
	if err := p.beforeTheLog(ctx); err != nil {
		return err
	}
	for e, err := range a.log.Inspect(ctx, at.Partition, first.Seq, at.Seq) {
		var bad *events.UnreadableError
		switch {
		case errors.As(err, &bad):
			if err := p.gap(ctx, p.at+1, bad.Position.Seq-1); err != nil {
				return err
			}
			err = p.lost(ctx, bad.Position.Seq, bad.Position.Seq, UnreadableInLog, bad.Cause)
		case err == nil:
			if err = p.gap(ctx, p.at+1, e.Position.Seq-1); err == nil {
				a.report.Events++
				err = p.add(ctx, e)
			}
		}
		if err != nil {
			return err
		}
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	// A server that meets a damaged block may cut the stream off there and then.
	if _, last, err = a.log.Extent(ctx, at.Partition); err != nil {
		return err
	}
	if err := p.gap(ctx, p.at+1, min(last.Seq, at.Seq)); err != nil {
		return err
	}
	if end := max(at.Seq, a.behind[at.Partition]); last.Seq < end {
		a.found(Difference{Kind: LogShorter, Epoch: at.Epoch, Partition: at.Partition, Seq: last.Seq + 1, Last: end, Count: end - last.Seq,
			Detail: fmt.Sprintf("the log ends at %s, the tables at %d", last, end)})
		err = p.lost(ctx, max(p.at, last.Seq)+1, at.Seq, LogShorter, "")
	}
	if err != nil {
		return err
	}
	return p.flush(ctx, at.Seq)
}

// add takes an event as the writer does.
func (p *partitionAudit) add(ctx context.Context, e events.Event) error {
	var schema *schemas.Schema
	if e.Stream.Kind == events.Telemetry && e.Schema != 0 {
		var ok bool
		if schema, ok = p.cfg.Catalog.Schemas().Version(e.Type, e.Schema); !ok {
			waiting, cancel := context.WithTimeout(ctx, registeredPatience)
			defer cancel()
			var err error
			if schema, err = p.cfg.Catalog.Await(waiting, e.Type, e.Schema); err != nil {
				return fmt.Errorf("decode the event at %s: schema %s version %d: %w", e.Position, e.Type, e.Schema, err)
			}
		}
	}
	repeat := e.Stream.Kind == events.Telemetry && p.repeats.fold(&e)
	if e.Stream.Kind == events.Telemetry && !repeat && p.doubtful(&e) {
		var err error
		if repeat, err = p.claimed(ctx, e.Position.Seq); err != nil {
			return err
		}
	}
	// Between windows as soon as it is half full: their sums are known.
	if edge := (e.Position.Seq - 1) / p.window * p.window; edge > p.done && edge >= p.batch.last.Position.Seq &&
		(p.batch.rows >= p.cfg.MaxRows/2 || p.batch.bytes >= p.cfg.MaxBytes/2) {
		if err := p.flush(ctx, edge); err != nil {
			return err
		}
	}
	fact := p.facts[e.Stream.Kind]
	if _, parked := p.parked[e.Position.Seq]; parked { // in a batch of its own, of which no more than half may be there after a panic
		_, err := p.decode(newBatch(p.mem), &e, schema, fact, repeat)
		if broken, ok := projections.Broken(err); ok {
			p.batch.addBroken(&e, broken, repeat)
			p.at = e.Position.Seq
			return nil
		}
	}
	for tries := 0; ; tries++ {
		ok, err := p.decode(p.batch, &e, schema, fact, repeat)
		if err != nil {
			return fmt.Errorf("decode the event at %s: %w", e.Position, err)
		}
		if ok {
			break
		}
		if tries > 0 {
			return fmt.Errorf("decode the event at %s: it does not fit an empty batch", e.Position)
		}
		if err := p.flush(ctx, p.at); err != nil {
			return err
		}
	}
	p.at = e.Position.Seq
	if p.batch.rows >= p.cfg.MaxRows || p.batch.bytes >= p.cfg.MaxBytes {
		return p.flush(ctx, p.at)
	}
	return nil
}

// doubtful tells of an event that may repeat one which nobody has any more.
func (p *partitionAudit) doubtful(e *events.Event) bool {
	if p.absent > 0 && e.Position.Seq-p.absent <= repeatReach {
		return true
	}
	return p.unknown && len(p.repeats.devices[e.Stream.ID].ids) < repeatIDs
}

// claimed tells whether events marks an event as a repeat.
func (p *partitionAudit) claimed(ctx context.Context, seq uint64) (bool, error) {
	const ahead = 1_000_000
	if p.tables["events"] != nil && seq > p.claimsTo {
		p.claimsTo = min(seq+ahead, p.upTo.Seq)
		var err error
		if p.claims, err = p.sequences(ctx, "events", stretch{p.upTo.Epoch, p.upTo.Partition, seq - 1, p.claimsTo, p.claimsTo, 0}, "repeat"); err != nil {
			return false, err
		}
	}
	_, ok := p.claims[seq]
	return ok, nil
}

// sequences returns those of a stretch whose rows in a table are so.
func (p *partitionAudit) sequences(ctx context.Context, table string, s stretch, so string) (map[uint64]struct{}, error) {
	t, all := p.tables[table], map[uint64]struct{}{}
	if t == nil {
		return all, nil
	}
	rows, err := p.ask(ctx, fmt.Sprintf("SELECT _seq FROM %s WHERE %s AND %s AND %s", p.table(table), s.where(), t.sound(), so), nil)
	if err = p.unlessDamaged(table, err); err != nil {
		return nil, err
	}
	for _, row := range rows {
		var seq uint64
		if err := row.scan(&seq); err != nil {
			return nil, err
		}
		all[seq] = struct{}{}
	}
	return all, nil
}

// flush compares what was read, up to a sequence, with the tables.
func (p *partitionAudit) flush(ctx context.Context, to uint64) error {
	b := p.batch
	p.batch = newBatch(p.mem)
	blocks := b.seal()
	defer func() {
		for _, blk := range blocks {
			blk.release()
		}
	}()
	if to > p.done {
		if err := p.compareRange(ctx, stretch{p.upTo.Epoch, p.upTo.Partition, p.done, to, p.upTo.Seq, p.purged}, blocks); err != nil {
			return err
		}
		p.step(to - p.done)
	}
	p.done, p.at = to, max(p.at, to)
	return nil
}

// gap deals with positions that did not come: lost, unless they were purged meanwhile.
func (p *partitionAudit) gap(ctx context.Context, from, to uint64) error {
	if from > to {
		return nil
	}
	first, _, err := p.log.Extent(ctx, p.upTo.Partition)
	if err != nil {
		return err
	}
	if first.Seq > from {
		end := min(to, first.Seq-1)
		p.report.Purged += end - from + 1
		p.purged = max(p.purged, end)
		if err := p.lost(ctx, from, end, "", ""); err != nil {
			return err
		}
		from = end + 1
	}
	return p.lost(ctx, from, to, MissingInLog, "")
}

// lost deals with positions that the log does not have: each that events has is a
// difference and stands in for the event.
func (p *partitionAudit) lost(ctx context.Context, from, to uint64, kind DifferenceKind, cause string) error {
	to = min(to, p.upTo.Seq)
	for ; from <= to; from = min(from+lostAtOnce, to+1) {
		end := min(from+lostAtOnce-1, to)
		have, err := p.lookUp(ctx, from, end)
		if err != nil {
			return err
		}
		switch kind {
		case UnreadableInLog:
			p.found(p.lostAt(kind, have, from, end, cause))
		case MissingInLog:
			for i := 0; i < len(have); {
				n := i + 1
				for n < len(have) && have[n].Position.Seq == have[n-1].Position.Seq+1 {
					n++
				}
				p.found(p.lostAt(kind, have[i:n], have[i].Position.Seq, have[n-1].Position.Seq, "events has what the log has lost"))
				i = n
			}
			if n := end - from + 1 - uint64(len(have)); n > 0 {
				p.report.Absent += n
				p.absent = end
			}
		}
		if n := uint64(len(have)); kind != MissingInLog && n < end-from+1 {
			p.absent = end
		}
		for _, e := range have {
			if err := p.add(ctx, e); err != nil {
				return err
			}
		}
		p.at = max(p.at, end)
	}
	return nil
}

func (p *partitionAudit) lostAt(kind DifferenceKind, have []events.Event, from, to uint64, cause string) Difference {
	d := Difference{Kind: kind, Epoch: p.upTo.Epoch, Partition: p.upTo.Partition, Seq: from, Count: to - from + 1, Detail: cause}
	if to > from {
		d.Last = to
	}
	if len(have) > 0 {
		d.Device = have[0].Stream.ID
	}
	return d
}

// lookUp reads events back from the table.
func (p *partitionAudit) lookUp(ctx context.Context, from, to uint64) (found []events.Event, err error) {
	t := p.tables["events"]
	if t == nil {
		return nil, nil
	}
	rows, err := p.conn.Query(ctx, fmt.Sprintf(`SELECT message, subject, id, schema, received, payload, _seq FROM %s WHERE %s AND %s ORDER BY _seq LIMIT 1 BY _seq`,
		p.table("events"), stretch{p.upTo.Epoch, p.upTo.Partition, from - 1, to, to, 0}.where(), t.sound()))
	if err != nil {
		return nil, p.unlessDamaged("events", err)
	}
	defer rows.Close()
	for rows.Next() {
		var e events.Event
		var subject, payload string
		if err := rows.Scan(&e.Type, &subject, &e.ID, &e.Schema, &e.Received, &payload, &e.Position.Seq); err != nil {
			return nil, fmt.Errorf("look up lost events: %w", err)
		}
		if e.Stream, _, _, err = events.ParseSubject(subject); err != nil {
			continue // altered as well: it is told where the row is compared
		}
		e.Payload, e.Position.Epoch, e.Position.Partition = []byte(payload), p.upTo.Epoch, p.upTo.Partition
		found = append(found, e)
	}
	return found, p.unlessDamaged("events", rows.Err())
}

// deadLetters reads the log's own copies of what was parked.
func (a *auditor) deadLetters(ctx context.Context) error {
	for _, err := range a.log.Inspect(ctx, events.DeadLetterPartition, 1, 1<<62) {
		var bad *events.UnreadableError
		switch {
		case errors.As(err, &bad):
			p := bad.Position
			a.found(Difference{Kind: UnreadableInLog, Epoch: p.Epoch, Partition: p.Partition, Seq: p.Seq, Detail: bad.Cause})
		case err != nil:
			return err
		}
	}
	return ctx.Err()
}
