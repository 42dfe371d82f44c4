package columnar

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/ClickHouse/clickhouse-go/v2"

	"github.com/tachograph/tachograph/events"
	"github.com/tachograph/tachograph/projections/history"
)

// missing makes an error of holes: the oldest events may have expired.
func (a *Archive) missing(ctx context.Context, conn clickhouse.Conn, dbs []string, after events.Position, holes []span) error {
	last := holes[len(holes)-1]
	var before uint64
	var newest time.Time
	err := conn.QueryRow(ctx, "SELECT count(), max(received) FROM "+from(dbs, "received", fmt.Sprintf("_epoch = %d AND _partition = %d AND _seq < %d", after.Epoch, after.Partition, last.first))).Scan(&before, &newest)
	if err != nil {
		return fmt.Errorf("look since when events are kept: %w", err)
	}
	at := after
	if before == 0 || a.Keep > 0 && time.Since(newest) > a.Keep {
		at.Seq = last.last + 1
		return &events.TruncatedError{Asked: after, Oldest: at}
	}
	missing := &history.MissingError{First: after, Last: holes[0].last, Where: "ClickHouse's table " + dbs[0] + ".events"}
	missing.First.Seq = holes[0].first
	for _, h := range holes {
		missing.Count += h.last - h.first + 1
	}
	return missing
}

// Positions are counted by windows of this size; a run of empty ones that is as
// large is not expanded.
const archiveWindow = 65536

// holesShown is how many windows with something missing are looked at one by one.
const holesShown = 16

// holes returns what is neither in events nor known to be empty. Of very many it
// finds the first and the last.
func (a *Archive) holes(ctx context.Context, conn clickhouse.Conn, v archiveView, after events.Position, upTo uint64) ([]span, error) {
	where := fmt.Sprintf("_epoch = %d AND _partition = %d AND _seq > %d AND _seq <= %d", after.Epoch, after.Partition, after.Seq, upTo)
	sources := []string{"SELECT _seq AS s FROM " + from(v.dbs, "_seq", where)}
	var wide []span
	for _, s := range v.absent {
		if s.last-s.first >= archiveWindow {
			wide = append(wide, s)
		}
	}
	for _, db := range v.dbs {
		sources = append(sources, fmt.Sprintf("SELECT arrayJoin(range(greatest(first, %d), least(last, %d) + 1)) AS s FROM %s.%s WHERE epoch = %d AND partition = %d AND last > %d AND first <= %d AND last - first < %d",
			after.Seq+1, upTo, quote(db), quote(absentTable), after.Epoch, after.Partition, after.Seq, upTo, archiveWindow))
	}
	rows, err := conn.Query(ctx, fmt.Sprintf("SELECT intDiv(toUInt64(s - 1), %d) AS w, groupBitmap(toUInt64(s)) FROM (%s) GROUP BY w", archiveWindow, strings.Join(sources, " UNION ALL ")))
	if err != nil {
		return nil, fmt.Errorf("count archived events: %w", err)
	}
	defer rows.Close()
	counts := map[uint64]uint64{}
	for rows.Next() {
		var w, n uint64
		if err := rows.Scan(&w, &n); err != nil {
			return nil, fmt.Errorf("count archived events: %w", err)
		}
		counts[w] = n
	}
	if err := rows.Err(); err != nil {
		return nil, fmt.Errorf("count archived events: %w", err)
	}
	var suspect []span
	for w := after.Seq / archiveWindow; w <= (upTo-1)/archiveWindow; w++ {
		s := span{max(w*archiveWindow, after.Seq) + 1, min((w+1)*archiveWindow, upTo)}
		if counts[w] < s.last-s.first+1 && len(s.without(wide)) > 0 {
			suspect = append(suspect, s)
		}
	}
	if n := len(suspect); n > 2*holesShown {
		suspect = append(suspect[:holesShown:holesShown], suspect[n-holesShown:]...)
	}
	var holes []span
	for _, s := range suspect {
		if counts[(s.first-1)/archiveWindow] == 0 {
			holes = append(holes, s.without(v.absent)...)
			continue
		}
		some, err := a.holesIn(ctx, conn, v, after, s)
		if err != nil {
			return nil, err
		}
		holes = append(holes, some...)
	}
	return joined(holes), nil
}

func (a *Archive) holesIn(ctx context.Context, conn clickhouse.Conn, v archiveView, of events.Position, s span) (holes []span, err error) {
	where := fmt.Sprintf("_epoch = %d AND _partition = %d AND _seq >= %d AND _seq <= %d", of.Epoch, of.Partition, s.first, s.last)
	rows, err := conn.Query(ctx, "SELECT DISTINCT _seq FROM "+from(v.dbs, "_seq", where)+" ORDER BY _seq")
	if err != nil {
		return nil, fmt.Errorf("look for archived events: %w", err)
	}
	defer rows.Close()
	for rows.Next() {
		var seq uint64
		if err := rows.Scan(&seq); err != nil {
			return nil, fmt.Errorf("look for archived events: %w", err)
		}
		if seq > s.first {
			holes = append(holes, span{s.first, seq - 1}.without(v.absent)...)
		}
		s.first = seq + 1
	}
	if s.first <= s.last {
		holes = append(holes, s.without(v.absent)...)
	}
	return holes, rows.Err()
}
