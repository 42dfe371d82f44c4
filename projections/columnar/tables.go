package columnar

import (
	"context"
	"sync"

	"github.com/ClickHouse/clickhouse-go/v2"
)

// Tables is what the writers of one process know of the tables at their servers, so
// that no writer makes again what another one has made. The zero value knows nothing.
type Tables struct {
	mu sync.Mutex
	of map[string]*knownTables // by server and database
}

// knownTables are those of one database.
type knownTables struct {
	mu    sync.Mutex // held while something is made
	stock *stock     // what was there at the last look, and was made since
}

func (t *Tables) at(s Server) *knownTables {
	t.mu.Lock()
	defer t.mu.Unlock()
	key := s.URL + " " + s.Name()
	if t.of == nil {
		t.of = map[string]*knownTables{}
	}
	if t.of[key] == nil {
		t.of[key] = &knownTables{}
	}
	return t.of[key]
}

// look finds out what is there; mu is held.
func (k *knownTables) look(ctx context.Context, conn clickhouse.Conn, db string) (err error) {
	k.stock, err = takeStock(ctx, conn, db)
	return err
}
