package columnar

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/ClickHouse/clickhouse-go/v2"
)

// databaseNotEmpty is ClickHouse's code for "New table appeared in database
// being dropped or detached".
const databaseNotEmpty = 219

// dropPatience is how long statements of somebody who has gone may go on making
// tables in a database that is being dropped.
const dropPatience = 30 * time.Second

// dropDatabase drops a database and waits until its tables are gone from the disk.
// A statement whose client hung up, of a replay that was called off, may still be
// making a table there: ClickHouse then asks to be asked again.
func dropDatabase(ctx context.Context, conn clickhouse.Conn, name string) error {
	for end := time.Now().Add(dropPatience); ; {
		err := conn.Exec(ctx, "DROP DATABASE IF EXISTS "+quote(name)+" SYNC")
		var refused *clickhouse.Exception
		if err == nil || !errors.As(err, &refused) || refused.Code != databaseNotEmpty || time.Now().After(end) {
			return err
		}
		select {
		case <-time.After(50 * time.Millisecond):
		case <-ctx.Done():
			return fmt.Errorf("drop database %s: %w", name, ctx.Err())
		}
	}
}
