package columnar

import (
	"context"
	"fmt"

	"github.com/ClickHouse/clickhouse-go/v2"
)

// A replayed is a server whose tables are built anew.
type replayed struct {
	Server
	conn clickhouse.Conn
}

// other is the database beside the serving one.
func (s replayed) other() string { return s.aside().Name() }

// having is the server that has a partition.
func having(servers []replayed, partition uint16) replayed {
	return servers[int(partition)%len(servers)]
}

// built tells whether there is a database beside the serving one.
func (s replayed) built(ctx context.Context) (bool, error) {
	var n uint64
	if err := s.conn.QueryRow(ctx, "SELECT count() FROM system.databases WHERE name = ?", s.other()).Scan(&n); err != nil {
		return false, fmt.Errorf("look for an earlier replay: %w", err)
	}
	return n > 0, nil
}

// phase is "" when there is no database beside the serving one.
func (s replayed) phase(ctx context.Context) (phase string, err error) {
	var n uint64
	err = s.conn.QueryRow(ctx, "SELECT count() FROM system.tables WHERE database = ? AND name = ?", s.other(), phaseTable).Scan(&n)
	if err == nil && n > 0 {
		err = s.conn.QueryRow(ctx, fmt.Sprintf("SELECT argMax(phase, at) FROM %s.%s", quote(s.other()), quote(phaseTable))).Scan(&phase)
	}
	if err != nil {
		return "", fmt.Errorf("look for an earlier replay: %w", err)
	}
	return phase, nil
}

func (s replayed) setPhase(ctx context.Context, phase string) error {
	table := quote(s.other()) + "." + quote(phaseTable)
	for _, sql := range []string{
		"CREATE TABLE IF NOT EXISTS " + table + " (at DateTime64(9), phase String) ENGINE = MergeTree ORDER BY at",
		fmt.Sprintf("INSERT INTO %s VALUES (now64(9), %s)", table, text(phase)),
	} {
		if err := s.conn.Exec(ctx, sql); err != nil {
			return fmt.Errorf("note phase %s of the replay: %w", phase, err)
		}
	}
	return nil
}
