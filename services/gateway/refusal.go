package gateway

import (
	"errors"
	"fmt"

	"github.com/tachograph/tachograph/events"
	"github.com/tachograph/tachograph/services/api/problem"
	"github.com/tachograph/tachograph/services/gateway/packet"
)

// A Reason says why a message was refused. It labels metrics and never changes
// its meaning.
type Reason string

// The reasons. An undecodable message is kept all the same.
const (
	Undecodable  Reason = "undecodable"   // its schema cannot decode it; stored, to be parked
	ForeignTopic Reason = "foreign_topic" // of another device, or the broker's own
	UnknownTopic Reason = "unknown_topic" // the dialect gives it no meaning
	BadType      Reason = "bad_type"      // no message type can be called so
	TooLarge     Reason = "too_large"
	RateLimited  Reason = "rate_limited"
	LogFull      Reason = "log_full"
	LogUnknown   Reason = "outcome_unknown" // may or may not be stored
	Unavailable  Reason = "unavailable"     // stopping, or the log is closed
	Internal     Reason = "internal"        // a defect of ours
	BadAnswer    Reason = "bad_answer"      // an answer to a command that cannot be read; not to be sent again
	Unasked      Reason = "unasked"         // an answer to what the device was not asked, or no longer; not to be sent again
)

// In every protocol, a reason's answer.
var answers = map[Reason]struct {
	code packet.Code
	http problem.Code
}{
	Undecodable:  {packet.PayloadFormatInvalid, problem.UndecodablePayload},
	ForeignTopic: {packet.NotAuthorized, problem.Forbidden},
	UnknownTopic: {packet.TopicNameInvalid, problem.InvalidRequest},
	BadType:      {packet.TopicNameInvalid, problem.InvalidMessageType},
	TooLarge:     {packet.PacketTooLarge, problem.PayloadTooLarge},
	RateLimited:  {packet.QuotaExceeded, problem.TooManyRequests},
	LogFull:      {packet.QuotaExceeded, problem.LogFull},
	LogUnknown:   {packet.ImplementationError, problem.OutcomeUnknown},
	Unavailable:  {packet.ServerBusy, problem.Unavailable},
	Internal:     {packet.ImplementationError, problem.Internal},
	BadAnswer:    {packet.PayloadFormatInvalid, problem.InvalidBody},
	Unasked:      {packet.NotAuthorized, problem.Forbidden},
}

// A Refusal is why a message did not get the acknowledgement it asked for.
type Refusal struct {
	Reason Reason
	Err    error
}

func (r *Refusal) Error() string { return r.Err.Error() }

// Unwrap returns the cause: a *schemas.DecodeError, an error of events.Log.
func (r *Refusal) Unwrap() error { return r.Err }

// Kept tells that the message is in the log nevertheless, and must not be sent
// again unchanged.
func (r *Refusal) Kept() bool { return r.Reason == Undecodable }

// Code is the reason code of MQTT 5.
func (r *Refusal) Code() packet.Code { return answers[r.Reason].code }

// Problem is the error body of HTTP and NATS.
func (r *Refusal) Problem() *problem.Problem {
	return problem.New(answers[r.Reason].http, r.Error(), map[string]any{"kept": r.Kept()})
}

func refuse(reason Reason, format string, args ...any) *Refusal {
	return &Refusal{reason, fmt.Errorf(format, args...)}
}

// refusalOf classes an error of the log.
func refusalOf(err error) *Refusal {
	var r *Refusal
	switch {
	case errors.As(err, &r):
		return r
	case errors.Is(err, events.ErrFull):
		return &Refusal{LogFull, err}
	case errors.Is(err, events.ErrTooLarge):
		return &Refusal{TooLarge, err}
	case errors.Is(err, events.ErrUnknown):
		return &Refusal{LogUnknown, err}
	case errors.Is(err, events.ErrInvalid):
		return &Refusal{Internal, err}
	}
	return &Refusal{Unavailable, err}
}
