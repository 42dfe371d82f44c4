package columnar

import (
	"encoding/json"

	"github.com/apache/arrow/go/v15/arrow"
	"github.com/apache/arrow/go/v15/arrow/array"
	"github.com/apache/arrow/go/v15/arrow/memory"

	"github.com/tachograph/tachograph/events"
)

// What became of dead letters is a table of facts of the log, as everything
// else is: a replay is a telemetry event that names its letter, a drop a
// control fact on it. A letter with neither is parked.
const outcomeTable = "dead_letter_outcomes"

// The outcomes. Where there are both, which two callers at the same moment can
// bring about, the letter was replayed.
const (
	OutcomeReplayed = "replayed"
	OutcomeDropped  = "dropped"
)

// A Drop is the payload of the fact that a dead letter was dropped.
type Drop struct {
	Message string `json:"message"`        // type of the letter's message
	Note    string `json:"note,omitempty"` // why
}

// An outcome is a row of the table.
type outcome struct {
	event         events.Event
	message       string
	letter        events.LetterID
	outcome, note string
}

// outcomeOf tells what an event says of a dead letter.
func outcomeOf(e *events.Event) (outcome, bool) {
	if letter, ok := e.Replayed(); ok {
		return outcome{event: *e, message: e.Type, letter: letter, outcome: OutcomeReplayed}, true
	}
	if e.Stream.Kind != events.Letter || e.Type != OutcomeDropped {
		return outcome{}, false
	}
	letter, err := events.ParseLetterID(e.Stream.Name)
	if err != nil {
		return outcome{}, false // it drops nothing
	}
	var d Drop
	_ = json.Unmarshal(e.Payload, &d) // one that says nothing drops its letter all the same
	return outcome{event: *e, message: d.Message, letter: letter, outcome: OutcomeDropped, note: d.Note}, true
}

var outcomeSchema = arrow.NewSchema([]arrow.Field{
	{Name: "device", Type: arrow.BinaryTypes.String},
	{Name: "message", Type: arrow.BinaryTypes.String},
	{Name: "letter", Type: arrow.BinaryTypes.String},
	{Name: "outcome", Type: arrow.BinaryTypes.String},
	{Name: "schema", Type: arrow.PrimitiveTypes.Uint32},
	{Name: "note", Type: arrow.BinaryTypes.String},
	{Name: "received", Type: micros},
	{Name: "_epoch", Type: arrow.PrimitiveTypes.Uint32},
	{Name: "_partition", Type: arrow.PrimitiveTypes.Uint16},
	{Name: "_seq", Type: arrow.PrimitiveTypes.Uint64},
}, nil)

func sealOutcomes(mem memory.Allocator, all []outcome) *block {
	r := array.NewRecordBuilder(mem, outcomeSchema)
	defer r.Release()
	for _, o := range all {
		for col, s := range map[int]string{0: o.event.Stream.ID, 1: o.message, 2: o.letter.String(), 3: o.outcome, 5: o.note} {
			r.Field(col).(*array.StringBuilder).Append(s)
		}
		r.Field(4).(*array.Uint32Builder).Append(o.event.Schema)
		r.Field(6).(*array.TimestampBuilder).Append(timestamp(o.event.Received))
		r.Field(7).(*array.Uint32Builder).Append(o.event.Position.Epoch)
		r.Field(8).(*array.Uint16Builder).Append(o.event.Position.Partition)
		r.Field(9).(*array.Uint64Builder).Append(o.event.Position.Seq)
	}
	record := r.NewRecord()
	return &block{table: outcomeTable, columns: outcomeColumns, record: record, seqs: record.Column(9).(*array.Uint64)}
}

// letterName makes a letter's name of its row in dead_letters.
const letterName = "concat(toString(_epoch), '.', toString(_partition), '.', toString(_seq), '-', toString(_row))"

// letterStates is every dead letter with what became of it.
const letterStates = `SELECT d.*, multiIf(o.replayed > 0, 'replayed', o.dropped > 0, 'dropped', 'parked') AS state, o.schema AS replayed_by, o.note AS note
FROM (SELECT *, ` + letterName + ` AS letter FROM {db}.dead_letters) AS d
LEFT JOIN (SELECT letter, countIf(outcome = 'replayed') AS replayed, countIf(outcome = 'dropped') AS dropped, max(schema) AS schema, max(note) AS note
	FROM {db}.dead_letter_outcomes GROUP BY letter) AS o ON d.letter = o.letter`

// LetterView is that view.
var LetterView = View{Name: "dead_letter_states", Comment: "what could not be read, and whether it is parked, was replayed or dropped", Query: letterStates}
