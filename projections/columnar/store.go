package columnar

import (
	"context"
	"fmt"
	"net/url"
	"strings"
	"time"

	"github.com/tachograph/tachograph/schemas"
)

// insertBlock brings a block into its table: what is known to be there is left
// out, and after any failure the tables are asked again.
func (w *Writer) insertBlock(ctx context.Context, b *batch, blk *block) error {
	if err := w.ensure(ctx, blk.schema); err != nil {
		return err
	}
	attempt := 0
	return w.persist(ctx, "insert "+blk.table, func() error {
		if attempt++; attempt > 1 {
			if err := w.doubt(ctx); err != nil {
				return err
			}
			if blk.schema != nil { // somebody may have dropped it
				if err := messageTable(blk.schema).ensure(ctx, w.conn, w.cfg.Server.Name(), nil); err != nil {
					return err
				}
			}
		}
		var present map[rowKey]struct{}
		if w.beyond[blk.table] >= b.first.Position.Seq {
			var err error
			if present, err = w.readPresent(ctx, blk, b.first.Position, b.last.Position); err != nil {
				return err
			}
		}
		records := blk.missing(present)
		if len(records) == 0 {
			return nil
		}
		defer func() {
			for _, r := range records {
				r.Release()
			}
		}()
		if err := w.cfg.Fault("send " + blk.table); err != nil {
			return err
		}
		id := w.queryID(fmt.Sprintf("%s-%d-%d-%d-%d", blk.table,
			b.first.Position.Epoch, b.first.Position.Seq, b.last.Position.Seq, w.nextAttempt()))
		if err := w.insert(ctx, id, blk, records); err != nil {
			return err
		}
		return w.cfg.Fault("sent " + blk.table)
	})
}

// ensure makes a message type's table fit a schema that it has not seen yet.
func (w *Writer) ensure(ctx context.Context, s *schemas.Schema) error {
	if s == nil || w.ensured[s.Name()] >= s.Version() {
		return nil
	}
	err := w.persist(ctx, "ensure "+s.Name(), func() error {
		w.tables.mu.Lock()
		defer w.tables.mu.Unlock()
		return w.ensureTables(ctx, s)
	})
	if err == nil {
		w.ensured[s.Name()] = s.Version()
	}
	return err
}

// ensureTables makes the tables of a message type, and what rests on them; w.tables.mu
// is held.
func (w *Writer) ensureTables(ctx context.Context, s *schemas.Schema) error {
	if err := messageTable(s).ensure(ctx, w.conn, w.cfg.Server.Name(), w.tables.stock); err != nil {
		return err
	}
	if rolledUp(s) {
		if err := w.ensureRollUps(ctx, s); err != nil {
			return err
		}
	}
	return w.ensureAllKept(ctx, s)
}

// registrationPatience is how long the catalog may take to fold a registration
// that this writer has read already.
const registrationPatience = 5 * time.Second

// ensureRegistered gives each schema that was registered in the batch its
// table, so that it can be queried before its first message. One that this
// binary cannot use gets its table from one that can.
func (w *Writer) ensureRegistered(ctx context.Context, b *batch) error {
	for _, r := range b.registered {
		waiting, cancel := context.WithTimeout(ctx, registrationPatience)
		s, err := w.cfg.Catalog.Await(waiting, r.name, r.version)
		cancel()
		if err != nil {
			w.cfg.Logger.Warn("no table yet for a schema that is not usable here", "schema", r.name, "error", err)
			continue
		}
		if err := w.ensure(ctx, s); err != nil {
			return err
		}
	}
	if len(b.registered) > 0 {
		return w.renewCoverage(ctx)
	}
	return nil
}

// nextAttempt keeps query ids apart: the server refuses one that still runs.
func (w *Writer) nextAttempt() uint64 {
	w.attempts++
	return w.attempts
}

// saveCheckpoint records, in one insert, that every table has everything up to
// the batch's end. Saying it twice does no harm.
func (w *Writer) saveCheckpoint(ctx context.Context, b *batch, blocks []*block) error {
	var values []string
	for _, blk := range blocks {
		values = append(values, fmt.Sprintf("(%d,%s,%d,%d,%s,%d)", w.cfg.Partition, text(blk.table),
			b.last.Position.Epoch, b.last.Position.Seq, text(b.last.ID), b.first.Position.Seq))
	}
	sql := fmt.Sprintf("INSERT INTO %s.checkpoints (partition, table, epoch, seq, id, first) VALUES %s",
		quote(w.cfg.Server.Name()), strings.Join(values, ","))
	return w.persist(ctx, "checkpoint", func() error {
		return w.post(ctx, url.Values{"async_insert": {"0"}, "wait_end_of_query": {"1"}}, strings.NewReader(sql))
	})
}
