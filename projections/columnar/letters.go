package columnar

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/ClickHouse/clickhouse-go/v2"

	"github.com/tachograph/tachograph/events"
)

// A Letter is a dead letter as the tables have it.
type Letter struct {
	ID             events.LetterID
	Device         string
	Message        string // type of the message
	Event          string // id of the event
	Schema         uint32 // version that could not read it
	Reason, Detail string
	Size           uint64 // bytes of the payload
	Received       time.Time
	State          string // parked, replayed or dropped
	ReplayedBy     uint32 // version that could; 0 where none has
	Note           string // why it was dropped
}

// Parked is the state of a letter with which nothing was done.
const Parked = "parked"

// A LetterFilter selects dead letters; its zero value selects all.
type LetterFilter struct {
	Device, Message, Reason, State string          // "" is any
	From, To                       time.Time       // arrival: at or after, before; zero is no bound
	ID                             events.LetterID // that one; zero is any
	After                          events.LetterID // in the order of the positions
	Limit                          int             // 0 is no limit
}

// Letters reads the dead letters of a database.
type Letters struct {
	conn clickhouse.Conn
	db   string
}

// NewLetters returns a reader; nothing is asked before the first call.
func NewLetters(s Server) (*Letters, error) {
	conn, err := s.Open()
	if err != nil {
		return nil, err
	}
	return &Letters{conn, quote(s.Name())}, nil
}

// Close ends the connections.
func (l *Letters) Close() error { return l.conn.Close() }

// List returns the selected letters in the order of their positions.
func (l *Letters) List(ctx context.Context, f LetterFilter) (all []Letter, err error) {
	where, args := []string{"1"}, []any{}
	add := func(condition string, values ...any) {
		where, args = append(where, condition), append(args, values...)
	}
	for column, want := range map[string]string{"device": f.Device, "message": f.Message, "reason": f.Reason, "state": f.State} {
		if want != "" {
			add(column+" = ?", want)
		}
	}
	if !f.From.IsZero() {
		add("received >= fromUnixTimestamp64Micro(?)", ceilMicro(f.From))
	}
	if !f.To.IsZero() {
		add("received < fromUnixTimestamp64Micro(?)", ceilMicro(f.To))
	}
	place := func(id events.LetterID) []any {
		return []any{id.Position.Partition, id.Position.Epoch, id.Position.Seq, id.Sample}
	}
	if f.ID != (events.LetterID{}) {
		add("(_partition, _epoch, _seq, _row) = (?, ?, ?, ?)", place(f.ID)...)
	}
	if f.After != (events.LetterID{}) {
		add("(_partition, _epoch, _seq, _row) > (?, ?, ?, ?)", place(f.After)...)
	}
	limit := ""
	if f.Limit > 0 {
		limit = fmt.Sprintf(" LIMIT %d", f.Limit)
	}
	rows, err := l.conn.Query(ctx, `SELECT _epoch, _partition, _seq, _row, device, message, id, schema, reason, detail, length(payload), received, state, replayed_by, note
		FROM (`+strings.ReplaceAll(letterStates, "{db}", l.db)+`) WHERE `+strings.Join(where, " AND ")+
		` ORDER BY _partition, _epoch, _seq, _row`+limit, args...)
	if err != nil {
		return nil, fmt.Errorf("list dead letters: %w", err)
	}
	defer rows.Close()
	for rows.Next() {
		var d Letter
		p := &d.ID.Position
		if err := rows.Scan(&p.Epoch, &p.Partition, &p.Seq, &d.ID.Sample, &d.Device, &d.Message, &d.Event, &d.Schema,
			&d.Reason, &d.Detail, &d.Size, &d.Received, &d.State, &d.ReplayedBy, &d.Note); err != nil {
			return nil, fmt.Errorf("list dead letters: %w", err)
		}
		all = append(all, d)
	}
	if err := rows.Err(); err != nil {
		return nil, fmt.Errorf("list dead letters: %w", err)
	}
	return all, nil
}

// Payload returns the bytes of a letter that List has shown.
func (l *Letters) Payload(ctx context.Context, d Letter) ([]byte, error) {
	var payload string
	row := l.conn.QueryRow(ctx, "SELECT any(payload) FROM "+l.db+".dead_letters WHERE device = ? AND received = fromUnixTimestamp64Micro(?) AND _epoch = ? AND _partition = ? AND _seq = ? AND _row = ? HAVING count() > 0",
		d.Device, d.Received.UnixMicro(), d.ID.Position.Epoch, d.ID.Position.Partition, d.ID.Position.Seq, d.ID.Sample)
	if err := row.Scan(&payload); err != nil {
		return nil, fmt.Errorf("read dead letter %s: %w", d.ID, err)
	}
	return []byte(payload), nil
}

// ceilMicro keeps a bound between two microseconds between them.
func ceilMicro(t time.Time) int64 { return t.Add(999 * time.Nanosecond).UnixMicro() }
