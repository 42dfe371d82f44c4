package columnar

import (
	"context"
	"fmt"
	"strings"
)

// windowPositions is how many positions share a sum.
const windowPositions = 8192

// A sum stands for rows: how many, and the sum of a hash of each.
type sum struct{ Rows, Hash uint64 }

// sums are the expressions of a sum.
func (t *auditedTable) sums() string {
	_, values := t.compared()
	return "count(), sum(cityHash64(" + strings.Join(values, ", ") + "))"
}

// windowSums adds up each table's rows of a partition, window by window, in one
// pass over the table. Tables are sorted by device, so that a stretch of positions
// lies all over them: to ask for one stretch after the other would read the table
// once for each.
func (a *auditor) windowSums(ctx context.Context, upTo stretch) error {
	for _, t := range a.all() {
		windows, err := a.windowsOf(ctx, t, upTo)
		if damaged(err) { // since the parts were checked
			if err = a.checkTable(ctx, t); err != nil {
				return err
			}
			windows, err = a.windowsOf(ctx, t, upTo)
		}
		if err != nil && !damaged(err) { // else it is asked for stretch by stretch, to find where
			return err
		}
		t.windows = windows
	}
	return nil
}

func (a *auditor) windowsOf(ctx context.Context, t *auditedTable, upTo stretch) (map[uint64]sum, error) {
	rows, err := a.ask(ctx, fmt.Sprintf("SELECT intDiv(_seq - 1, %d) AS n, %s FROM %s WHERE %s AND %s GROUP BY n",
		a.window, t.sums(), a.table(t.name), upTo.where(), t.sound()), nil)
	if err != nil {
		return nil, err
	}
	windows := make(map[uint64]sum, len(rows))
	for _, row := range rows {
		var n uint64
		var s sum
		if err := row.scan(&n, &s.Rows, &s.Hash); err != nil {
			return nil, err
		}
		windows[n] = s
	}
	return windows, nil
}

// inWindows adds up a table's windows of a stretch; they are not known when the
// stretch does not consist of whole ones.
func (a *auditor) inWindows(t *auditedTable, s stretch) (all sum, known bool) {
	if t.windows == nil || s.after%a.window != 0 || s.to%a.window != 0 && s.to != s.end {
		return all, false
	}
	for n := s.after / a.window; n*a.window < s.to; n++ {
		all.Rows += t.windows[n].Rows
		all.Hash += t.windows[n].Hash
	}
	return all, true
}
