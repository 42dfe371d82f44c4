package columnar

import (
	"errors"
	"time"

	"github.com/apache/arrow/go/v15/arrow"
	"github.com/apache/arrow/go/v15/arrow/array"
	"github.com/apache/arrow/go/v15/arrow/memory"

	"github.com/tachograph/tachograph/events"
	"github.com/tachograph/tachograph/projections"
	"github.com/tachograph/tachograph/schemas"
)

// A batch is a stretch of one partition on its way into ClickHouse.
type batch struct {
	mem         memory.Allocator
	first, last events.Cursor
	newest      time.Time // arrival of the last event
	began       time.Time // when it got its first event, by this process's clock
	events      int
	rows        int // over all tables
	repeats     int
	bytes       int64

	log      *eventRows
	tables   map[*schemas.Schema]*messageRows
	dead     []deadLetter
	outcomes []outcome

	registered []registered
	absent     []span // positions in front of, and between, the events, where the log has none
}

// registered names a version of a schema.
type registered struct {
	name    string
	version uint32
}

// A deadLetter is a message or a sample that its schema could not read.
type deadLetter struct {
	event          events.Event
	sample         uint32
	reason, detail string
	bytes          []byte
}

func newBatch(mem memory.Allocator) *batch {
	return &batch{mem: mem, log: newEventRows(mem), tables: map[*schemas.Schema]*messageRows{}}
}

// add decodes one event into its rows. schema is nil for control facts and for
// messages that were accepted without one, fact for what has no table of facts; a repeat gets its row in events and
// no other. ok is false when the batch has to be inserted first; nothing was
// added then.
func (b *batch) add(e *events.Event, schema *schemas.Schema, fact *FactTable, repeat bool) (ok bool) {
	sent, known := e.Received, false // when the device says that it sent it: the time of its first sample
	payload := e.Payload
	if fact != nil {
		var err error
		if payload, err = fact.Rows(*e); err != nil {
			b.dead = append(b.dead, deadWhole(e, err))
		} else {
			schema = fact.Schema
		}
	}
	switch {
	case schema != nil && !repeat:
		t := b.messageRows(schema)
		before := t.samples.Rows()
		rows, bad, err := t.samples.Append(payload, e.Received)
		switch {
		case errors.Is(err, schemas.ErrBatchFull):
			return false
		case err != nil:
			b.dead = append(b.dead, deadWhole(e, err))
		}
		for _, s := range bad {
			b.dead = append(b.dead, deadLetter{*e, uint32(s.Index), s.Reason, s.Detail, s.Bytes})
		}
		t.meta.append(e, rows)
		b.rows += rows
		b.bytes += int64(rows)*t.width + int64(len(payload))
		if rows > 0 {
			sent, known = t.samples.Time(before), true
		}
	case schema != nil:
		if info, err := schema.NewChecker().Check(e.Payload); err == nil && !info.Time.IsZero() {
			sent = info.Time
		}
	}
	if !known && (schema == nil || !repeat) && e.Stream.Kind == events.Telemetry {
		if t, ok := schemas.PeekTime(e.Payload); ok {
			sent = t
		}
	}
	if e.Stream.Kind == events.SchemaKind {
		b.registered = append(b.registered, registered{e.Stream.ID, e.Schema})
	}
	if o, ok := outcomeOf(e); ok {
		b.outcomes = append(b.outcomes, o)
		b.rows++
	}
	b.log.append(e, repeat, sent.UnixMicro())
	b.took(e, repeat)
	return true
}

// tryAdd is add with a panic of the code as an error; the batch is of no use then,
// what is in it may be half an event.
func (b *batch) tryAdd(e *events.Event, schema *schemas.Schema, fact *FactTable, repeat bool) (ok bool, err error) {
	defer projections.Catch(e, &err)
	return b.add(e, schema, fact, repeat), nil
}

// addBroken adds an event at which the code broke down: its row in events and a
// dead letter.
func (b *batch) addBroken(e *events.Event, broken *projections.BreakdownError, repeat bool) {
	b.dead = append(b.dead, deadLetter{event: *e, reason: "panic", detail: "the code of the projection broke: " + broken.Panic, bytes: e.Payload})
	if e.Stream.Kind == events.SchemaKind {
		b.registered = append(b.registered, registered{e.Stream.ID, e.Schema})
	}
	b.log.append(e, repeat, e.Received.UnixMicro())
	b.took(e, repeat)
}

// took counts an event that was added.
func (b *batch) took(e *events.Event, repeat bool) {
	if repeat {
		b.repeats++
	}
	if b.events == 0 {
		b.first, b.began = cursorOf(e), time.Now()
	}
	b.last, b.newest = cursorOf(e), e.Received
	b.events++
	b.rows++
	b.bytes += int64(2*len(e.Payload)) + 256
}

func (b *batch) messageRows(schema *schemas.Schema) *messageRows {
	t := b.tables[schema]
	if t == nil {
		t = &messageRows{schema: schema, samples: schema.NewBatch(b.mem), meta: newMetaRows(b.mem), width: 96 + 9*int64(len(schema.Columns()))}
		b.tables[schema] = t
	}
	return t
}

func deadWhole(e *events.Event, err error) deadLetter {
	d := deadLetter{event: *e, reason: "undecodable", detail: err.Error(), bytes: e.Payload}
	var decode *schemas.DecodeError
	if errors.As(err, &decode) {
		d.reason, d.sample = string(decode.Reason), uint32(max(decode.Sample, 0))
	}
	return d
}

func cursorOf(e *events.Event) events.Cursor {
	return events.Cursor{Position: e.Position, ID: e.ID}
}

// A block is what one insert writes into one table.
type block struct {
	table   string
	schema  *schemas.Schema  // nil for the fixed tables
	columns []schemas.Column // of the record, in its order
	record  arrow.Record
	seqs    *array.Uint64
	rows    *array.Uint32 // nil where an event is one row
}

func (b *block) release() { b.record.Release() }

// seal turns the batch into blocks: messages first, events last, so that what
// is in events has its rows in the other tables as well.
func (b *batch) seal() []*block {
	var blocks []*block
	for _, t := range b.tables {
		if t.samples.Rows() == 0 {
			t.release()
			continue
		}
		blocks = append(blocks, t.seal())
	}
	if len(b.dead) > 0 {
		blocks = append(blocks, sealDead(b.mem, b.dead))
	}
	if len(b.outcomes) > 0 {
		blocks = append(blocks, sealOutcomes(b.mem, b.outcomes))
	}
	return append(blocks, b.log.seal())
}

// A messageRows collects the rows of one message table.
type messageRows struct {
	schema  *schemas.Schema
	samples *schemas.Batch
	meta    *metaRows
	width   int64 // bytes of a row, about: Arrow keeps a slot for a null too
}

func (t *messageRows) release() {
	t.samples.Release()
	t.meta.release()
}

// seal joins the decoded columns and where they come from, in the order of
// tableColumns.
func (t *messageRows) seal() *block {
	samples := t.samples.Record()
	defer samples.Release()
	defer t.release()
	device, rest := t.meta.columns()
	n := int(samples.NumCols())
	row := samples.Column(n - 1)
	fields := []arrow.Field{{Name: "device", Type: arrow.BinaryTypes.String}}
	columns := []arrow.Array{device}
	for i := range n - 1 {
		fields = append(fields, samples.Schema().Field(i))
		columns = append(columns, samples.Column(i))
	}
	seqs := rest[3].(*array.Uint64)
	fields = append(fields, metaFields[:4]...)
	columns = append(columns, rest[:4]...)
	fields = append(fields, arrow.Field{Name: schemas.RowColumn, Type: arrow.PrimitiveTypes.Uint32}, metaFields[4])
	columns = append(columns, row, rest[4])
	record := array.NewRecord(arrow.NewSchema(fields, nil), columns, samples.NumRows())
	device.Release()
	for _, c := range rest {
		c.Release()
	}
	return &block{
		table: t.schema.Name(), schema: t.schema, columns: tableColumns(t.schema),
		record: record, seqs: seqs, rows: row.(*array.Uint32),
	}
}
