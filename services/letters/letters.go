// Package letters deals with dead letters, which are messages and samples that
// their schema could not read: it reads them again by the present schema and
// brings back those that can be read now, or drops them.
//
// A replay is a telemetry event with the letter's bytes, stored once for each
// letter whoever asks how often: every projection folds it as it does the
// others, so the message tables, the roll-ups, the latest state and a rebuild
// from nothing all have it, and no projection's checkpoint is touched. A drop is
// a control fact on the letter. See DESIGN.md.
package letters

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/apache/arrow/go/v15/arrow/memory"

	"github.com/tachograph/tachograph/events"
	"github.com/tachograph/tachograph/projections/catalog"
	"github.com/tachograph/tachograph/projections/columnar"
)

// ErrTables means that the tables could not be asked; nothing was done with the
// letters that are not among the results. Try again.
var ErrTables = errors.New("ClickHouse cannot be asked for dead letters")

// A Code is what became of one letter.
type Code string

// The codes. The first two are of a dry run.
const (
	Replayable  Code = "replayable"
	Droppable   Code = "droppable"
	Replayed    Code = "replayed"    // now
	Dropped     Code = "dropped"     // now
	Undecodable Code = "undecodable" // by the present schema too
	WasReplayed Code = "was_replayed"
	WasDropped  Code = "was_dropped"
	NoTelemetry Code = "no_telemetry" // a control fact that a table could not hold
)

// A Result is what became, or would become, of one letter.
type Result struct {
	Letter  string `json:"letter"`
	Device  string `json:"device"`
	Type    string `json:"type"`
	Outcome Code   `json:"outcome"`
	Schema  uint32 `json:"schema,omitempty"` // version by which it was read, or could not be
	Rows    int    `json:"rows,omitempty"`   // samples that can be read
	Bad     int    `json:"bad,omitempty"`    // and that cannot; each is parked as a letter of its own
	Detail  string `json:"detail,omitempty"` // why not
}

// Letters is safe for all goroutines.
type Letters struct {
	log     events.Log
	catalog *catalog.Catalog
	store   *columnar.Letters
}

// New returns the letters of a log, found in the tables that a writer made of it.
func New(log events.Log, c *catalog.Catalog, store *columnar.Letters) *Letters {
	return &Letters{log: log, catalog: c, store: store}
}

// List returns letters in the order of their positions. Errors: ErrTables.
func (l *Letters) List(ctx context.Context, f columnar.LetterFilter) ([]columnar.Letter, error) {
	all, err := l.store.List(ctx, f)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrTables, err)
	}
	return all, nil
}

// Payload returns a letter's bytes. Errors: ErrTables.
func (l *Letters) Payload(ctx context.Context, d columnar.Letter) ([]byte, error) {
	payload, err := l.store.Payload(ctx, d)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrTables, err)
	}
	return payload, nil
}

// Replay brings back those of the selected letters that the present schema of
// their type can read, or with dry tells which. Results come in the order of
// the letters; with an error, those of the letters before it.
//
// It may be repeated, at the same time or after a crash: a letter comes back
// once. Errors are ErrTables and those of the log; events.ErrUnknown means
// that a letter may have come back.
func (l *Letters) Replay(ctx context.Context, f columnar.LetterFilter, dry bool) ([]Result, error) {
	return l.each(ctx, f, func(d columnar.Letter) (Result, error) { return l.replay(ctx, d, dry) })
}

// Drop marks the selected letters as not worth a further look, or with dry tells
// which it would. Their bytes stay in the log and in the table for as long as
// others do. It may be repeated as Replay may.
func (l *Letters) Drop(ctx context.Context, f columnar.LetterFilter, note string, dry bool) ([]Result, error) {
	return l.each(ctx, f, func(d columnar.Letter) (Result, error) { return l.drop(ctx, d, note, dry) })
}

func (l *Letters) each(ctx context.Context, f columnar.LetterFilter, do func(columnar.Letter) (Result, error)) ([]Result, error) {
	all, err := l.List(ctx, f)
	if err != nil {
		return nil, err
	}
	results := make([]Result, 0, len(all))
	for _, d := range all {
		r, err := do(d)
		if err != nil {
			return results, fmt.Errorf("dead letter %s: %w", d.ID, err)
		}
		r.Letter, r.Device, r.Type = d.ID.String(), d.Device, d.Message
		results = append(results, r)
	}
	return results, nil
}

func (l *Letters) replay(ctx context.Context, d columnar.Letter, dry bool) (Result, error) {
	if settled, err := l.settled(ctx, d); err != nil || settled != "" {
		return Result{Outcome: settled}, err
	}
	schema, ok := l.catalog.Schemas().Current(d.Message)
	if !ok {
		return Result{Outcome: Undecodable, Detail: "its type has no schema that is usable here"}, nil
	}
	payload, err := l.Payload(ctx, d)
	if err != nil {
		return Result{}, err
	}
	batch := schema.NewBatch(memory.DefaultAllocator)
	defer batch.Release()
	rows, bad, err := batch.Append(payload, d.Received)
	r := Result{Outcome: Replayable, Schema: schema.Version(), Rows: rows, Bad: len(bad)}
	switch {
	case err != nil:
		r.Outcome, r.Detail = Undecodable, err.Error()
		return r, nil
	case rows == 0:
		r.Outcome, r.Detail = Undecodable, bad[0].Detail
		return r, nil
	case dry:
		return r, nil
	}
	letter := events.Event{
		Stream: events.Stream{Kind: events.Telemetry, ID: d.Device}, Type: d.Message, ID: d.Event, Payload: payload, Received: d.Received,
	}
	r.Outcome = Replayed
	_, err = l.log.Append(ctx, events.Fresh, d.ID.Replay(letter, schema.Version()))
	var there *events.ConflictError
	if errors.As(err, &there) {
		return Result{Outcome: WasReplayed}, nil
	}
	return r, err
}

func (l *Letters) drop(ctx context.Context, d columnar.Letter, note string, dry bool) (Result, error) {
	switch settled, err := l.settled(ctx, d); {
	case err != nil:
		return Result{}, err
	case settled == WasReplayed, settled == WasDropped:
		return Result{Outcome: settled}, nil
	case dry:
		return Result{Outcome: Droppable}, nil
	}
	payload, err := json.Marshal(columnar.Drop{Message: d.Message, Note: note})
	if err != nil {
		return Result{}, err
	}
	_, err = l.log.Append(ctx, events.Fresh, events.Event{
		Stream: dropStream(d), Type: columnar.OutcomeDropped, ID: events.UniqueID(), Payload: payload,
	})
	var there *events.ConflictError
	if errors.As(err, &there) {
		return Result{Outcome: WasDropped}, nil
	}
	return Result{Outcome: Dropped}, err
}

func dropStream(d columnar.Letter) events.Stream {
	return events.Stream{Kind: events.Letter, ID: d.Device, Name: d.ID.String()}
}

// settled tells what has become of a letter already; "" when nothing has. The
// log knows more than the tables, which lag; the tables know what the log has
// been purged of, as it is not purged of what they lack.
func (l *Letters) settled(ctx context.Context, d columnar.Letter) (Code, error) {
	switch {
	case d.ID.Position.Partition >= events.ControlPartition:
		return NoTelemetry, nil
	case d.State == columnar.OutcomeReplayed:
		return WasReplayed, nil
	case d.State == columnar.OutcomeDropped:
		return WasDropped, nil
	}
	replay := events.Stream{Kind: events.Telemetry, ID: d.Device, Name: d.ID.String()}
	if there, err := l.has(ctx, replay); err != nil || there {
		return WasReplayed, err
	}
	if there, err := l.has(ctx, dropStream(d)); err != nil || there {
		return WasDropped, err
	}
	return "", nil
}

// has tells whether what is left of a stream holds an event.
func (l *Letters) has(ctx context.Context, s events.Stream) (bool, error) {
	layout := l.log.Layout()
	for _, stretch := range layout.Way(layout.Of(s)) {
		start, err := l.log.Locate(ctx, stretch.Partition, events.Beginning)
		if err != nil {
			return false, err
		}
		for _, err := range l.log.ReadAfter(ctx, s, start.Position, events.EndOf(stretch.Partition)) {
			return err == nil, err
		}
	}
	return false, nil
}
