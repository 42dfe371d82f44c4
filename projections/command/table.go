package command

import (
	"encoding/json"
	"fmt"
)

// TableName is the ClickHouse table of steps, TableSchema its columns beside
// those that every table has (device, received, where the row comes from).
const (
	TableName   = "command_steps"
	TableSchema = `syntax = "proto3";
import "google/protobuf/timestamp.proto";

// One row for each step of a command's life. What a command says stands in its
// first step, queued.
message CommandStep {
  google.protobuf.Timestamp time = 1;   // by the clock of who decided
  string command = 2;                   // the command's id
  string step = 3;                      // a state, or cancel_requested, progress, unsent, refused
  string by = 4;                        // device, gateway, deadline, or who asked
  optional string code = 5;             // why, for programs
  optional string reason = 6;           // why, for people
  optional int32 attempt = 7;           // of sent, delivered and unsent
  bool late = 8;                        // an answer after the server's time-out
  optional string result = 9;           // JSON, as the device answered
  optional string asked = 10;           // of refused: the state that was asked for
  optional string name = 11;            // of queued, and the rest as well: what to do
  optional string parameters = 12;      // JSON
  optional string policy = 13;          // now_or_never, until_deadline
  optional int32 priority = 14;
  optional bool dry_run = 15;
  optional google.protobuf.Timestamp deadline = 16;
  optional google.protobuf.Timestamp answer_by = 17;
}
`
)

// TableRows renders a fact as a batch of samples of TableSchema, in JSON.
func TableRows(id string, payload []byte) ([]byte, error) {
	f, err := ParseFact(payload)
	if err != nil {
		return nil, err
	}
	type row struct {
		Time       int64  `json:"time"`
		Command    string `json:"command"`
		Step       string `json:"step"`
		By         string `json:"by"`
		Code       string `json:"code,omitempty"`
		Reason     string `json:"reason,omitempty"`
		Attempt    int    `json:"attempt,omitempty"`
		Late       bool   `json:"late"`
		Result     string `json:"result,omitempty"`
		Asked      State  `json:"asked,omitempty"`
		Name       string `json:"name,omitempty"`
		Parameters string `json:"parameters,omitempty"`
		Policy     Policy `json:"policy,omitempty"`
		Priority   *int   `json:"priority,omitempty"`
		DryRun     *bool  `json:"dry_run,omitempty"`
		Deadline   int64  `json:"deadline,omitempty"`
		AnswerBy   int64  `json:"answer_by,omitempty"`
	}
	r := row{
		Time: f.At, Command: id, Step: f.Type, By: f.By, Code: f.Code, Reason: f.Reason, Attempt: f.Attempt, Late: f.Late,
		Result: string(f.Result), Asked: f.Asked,
	}
	if o := f.Order; o != nil {
		r.Name, r.Parameters, r.Policy, r.Priority, r.DryRun = o.Name, string(o.Parameters), o.Policy, &o.Priority, &o.DryRun
		r.Deadline, r.AnswerBy = o.Deadline, o.AnswerBy
	}
	b, err := json.Marshal([]row{r})
	if err != nil {
		return nil, fmt.Errorf("render row of command step %s: %w", f.Type, err)
	}
	return b, nil
}

// Views are read over the table, each a name, what it is, and its query; {db}
// stands for the database.
var Views = [][3]string{
	{"commands", "each command with its state and the time of each step", `
SELECT device, command AS id, anyIf(name, step = 'queued') AS name, anyIf(dry_run, step = 'queued') AS dry_run,
    anyIf(policy, step = 'queued') AS policy, anyIf(priority, step = 'queued') AS priority, anyIf(parameters, step = 'queued') AS parameters,
    anyIf(deadline, step = 'queued') AS deadline, anyIf(answer_by, step = 'queued') AS answer_by,
    argMaxIf(step, (_epoch, _seq), step NOT IN ('cancel_requested', 'progress', 'refused', 'unsent')) AS last_state,
    countIf(step = 'sent') AS attempts, countIf(step = 'unsent') AS unsent,
    if(last_state = 'sent' AND attempts = unsent, 'queued', last_state) AS state,
    state IN ('succeeded', 'failed', 'rejected', 'cancelled', 'expired', 'timed_out') AS final,
    argMaxIf(late, (_epoch, _seq), step NOT IN ('cancel_requested', 'progress', 'refused', 'unsent')) AS late,
    countIf(step = 'cancel_requested') > 0 AS cancel_requested,
    argMaxIf(result, (_epoch, _seq), result IS NOT NULL) AS result, argMax(reason, (_epoch, _seq)) AS reason,
    minOrNullIf(time, step = 'queued') AS queued, minOrNullIf(time, step = 'sent') AS sent, minOrNullIf(time, step = 'delivered') AS delivered,
    minOrNullIf(time, step = 'accepted') AS accepted, minOrNullIf(time, step = 'running') AS running,
    maxOrNullIf(time, step IN ('succeeded', 'failed', 'rejected', 'cancelled', 'expired', 'timed_out')) AS ended
FROM {db}.command_steps GROUP BY device, command`},
	{"commands_1h", "success rate and latencies by command name and hour; dry runs apart", `
SELECT toStartOfHour(queued) AS hour, name, dry_run, count() AS commands, countIf(final) AS ended,
    countIf(state = 'succeeded') AS succeeded, countIf(state = 'failed') AS failed, countIf(state = 'rejected') AS rejected,
    countIf(state = 'cancelled') AS cancelled, countIf(state = 'expired') AS expired, countIf(state = 'timed_out') AS timed_out,
    countIf(late) AS late, if(ended = 0, NULL, succeeded / ended) AS success_rate,
    quantiles(0.5, 0.9, 0.99)(if(delivered IS NULL, NULL, date_diff('millisecond', queued, delivered))) AS delivered_ms,
    quantiles(0.5, 0.9, 0.99)(if(state = 'succeeded', date_diff('millisecond', queued, c.ended), NULL)) AS succeeded_ms
FROM {db}.commands AS c GROUP BY hour, name, dry_run`},
}
