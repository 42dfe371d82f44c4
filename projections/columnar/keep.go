package columnar

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/tachograph/tachograph/schemas"
)

// Keep says for how long rows are kept from their arrival (a device's clock must
// not decide what is kept), roll-ups from the arrival of their bucket's newest
// sample. Samples are kept for as long from their insertion as well: those of a
// backlog or a replay must not expire before they are rolled up. 0 is for ever.
type Keep struct {
	Samples, Events, Minutes, Hours time.Duration
}

// ensureKept gives a table its time to live since a DateTime, or takes it away; rows that are over
// it go with the next merges.
func (w *Writer) ensureKept(ctx context.Context, table, since string, keep time.Duration) error {
	change := func(engine string) string {
		want := fmt.Sprintf("%s + toIntervalSecond(%d)", since, int64(keep.Seconds()))
		switch has := strings.Contains(engine, " TTL "); {
		case keep == 0 && has:
			return "REMOVE TTL"
		case keep > 0 && !strings.Contains(engine, want):
			return "MODIFY TTL " + want + " SETTINGS materialize_ttl_after_modify = 0"
		}
		return ""
	}
	if engine := w.tables.stock.engine(table); engine != "" && change(engine) == "" {
		return nil
	}
	var engine string
	if err := w.conn.QueryRow(ctx, "SELECT engine_full FROM system.tables WHERE database = ? AND name = ?", w.cfg.Server.Name(), table).Scan(&engine); err != nil {
		return fmt.Errorf("time to live of %s: %w", table, err)
	}
	if change(engine) == "" {
		return nil
	}
	if err := w.conn.Exec(ctx, "ALTER TABLE "+w.table(table)+" "+change(engine)); err != nil {
		return fmt.Errorf("time to live of %s: %w", table, err)
	}
	return nil
}

// ensureAllKept does so for the tables of a message type.
func (w *Writer) ensureAllKept(ctx context.Context, s *schemas.Schema) error {
	if schemas.ValidName(s.Name()) != nil {
		return nil // facts are kept
	}
	if err := w.ensureKept(ctx, s.Name(), "greatest(toDateTime(received), _stored)", w.cfg.Keep.Samples); err != nil || !rolledUp(s) {
		return err
	}
	for i, keep := range []time.Duration{w.cfg.Keep.Minutes, w.cfg.Keep.Hours} {
		if err := w.ensureKept(ctx, resolutions[i].table(s), "_received", keep); err != nil {
			return err
		}
	}
	return nil
}
