package command

import (
	"encoding/json"
	"fmt"
)

// The types of a command's events. A transition is named like the state it
// leads to; the others leave the state as it is.
const (
	TypeCancelRequested = "cancel_requested" // the device was or is to be asked to stop
	TypeProgress        = "progress"         // news of a running command
	TypeUnsent          = "unsent"           // an attempt that was announced was not written after all
	TypeRefused         = "refused"          // a transition that is not allowed was asked for
)

// Who makes a command's facts happen, apart from API users, who go by name.
const (
	ByDevice   = "device"
	ByGateway  = "gateway"
	ByDeadline = "deadline"
)

// A Fact is one step of a command's life; its JSON is the event's payload.
type Fact struct {
	Type   string `json:"type"`
	At     int64  `json:"at"` // epoch milliseconds, by the clock of who decided
	By     string `json:"by"`
	Reason string `json:"reason,omitempty"` // why, for people
	Code   string `json:"code,omitempty"`   // why, for programs

	Order   *Order          `json:"order,omitempty"`   // queued
	Attempt int             `json:"attempt,omitempty"` // sent, delivered, unsent
	Late    bool            `json:"late,omitempty"`    // an answer after the server's time-out
	Result  json.RawMessage `json:"result,omitempty"`  // what the device answered, unchanged
	Asked   State           `json:"asked,omitempty"`   // refused: the state that was asked for
}

// An Order is what a command says; it never changes.
type Order struct {
	ID         string          `json:"id"`
	Device     string          `json:"device"`
	Name       string          `json:"name"`
	Parameters json.RawMessage `json:"parameters,omitempty"`
	Policy     Policy          `json:"policy"`
	Priority   int             `json:"priority,omitempty"` // higher goes first
	DryRun     bool            `json:"dry_run,omitempty"`  // the device answers what it would have done
	Deadline   int64           `json:"deadline"`           // epoch milliseconds; nothing is written after it
	AnswerBy   int64           `json:"answer_by"`          // epoch milliseconds; without a final answer by then: timed_out
	Key        string          `json:"key,omitempty"`      // the caller's idempotency key
	Digest     string          `json:"digest,omitempty"`   // of the request as the caller sent it
}

// A Policy says how often a command may be written to a device.
type Policy string

// The delivery policies (DESIGN.md, D17).
const (
	NowOrNever    Policy = "now_or_never"   // at most once; a device that is not there never gets it
	UntilDeadline Policy = "until_deadline" // again until acknowledged; the device drops repeats by the command's id
)

// Payload renders the fact as an event's payload.
func (f Fact) Payload() ([]byte, error) {
	b, err := json.Marshal(f)
	if err != nil {
		return nil, fmt.Errorf("render command fact %s: %w", f.Type, err)
	}
	return b, nil
}

// ParseFact reads an event's payload.
func ParseFact(payload []byte) (Fact, error) {
	var f Fact
	if err := json.Unmarshal(payload, &f); err != nil {
		return f, fmt.Errorf("parse command fact: %w", err)
	}
	if f.Type == "" || f.Type == string(Queued) && f.Order == nil {
		return f, fmt.Errorf("parse command fact: incomplete %q", f.Type)
	}
	return f, nil
}
