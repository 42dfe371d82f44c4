package problem

import (
	"context"
	"errors"

	"github.com/tachograph/tachograph/events"
	"github.com/tachograph/tachograph/projections/history"
)

// Of turns an error of the log, or a *Problem, into a problem; ok is false when
// it knows the error's class no better than Internal.
func Of(err error) (p *Problem, ok bool) {
	if errors.As(err, &p) {
		return p, true
	}
	var conflict *events.ConflictError
	var truncated *events.TruncatedError
	var missing *history.MissingError
	var nowhere *events.PositionError
	switch {
	case errors.As(err, &conflict):
		details := map[string]any{"stream": conflict.Stream.String()}
		if conflict.Actual != 0 {
			details["actual"] = conflict.Actual
		}
		return New(Conflict, err.Error(), details), true
	case errors.As(err, &truncated):
		return New(HistoryTruncated, err.Error(), map[string]any{"oldest": truncated.Oldest}), true
	case errors.As(err, &missing):
		return New(HistoryTruncated, err.Error(), map[string]any{"missing": missing.First}), true
	case errors.As(err, &nowhere):
		return New(UnknownPosition, err.Error(), map[string]any{"oldest": nowhere.Oldest, "newest": nowhere.Newest}), true
	case errors.Is(err, events.ErrTooLarge):
		return New(PayloadTooLarge, err.Error(), nil), true
	case errors.Is(err, events.ErrFull):
		return New(LogFull, err.Error(), nil), true
	case errors.Is(err, events.ErrUnknown):
		return New(OutcomeUnknown, err.Error(), nil), true
	case errors.Is(err, events.ErrInvalid):
		return New(InvalidRequest, err.Error(), nil), true
	case errors.Is(err, events.ErrClosed), errors.Is(err, events.ErrDiverged), errors.Is(err, history.ErrArchive):
		return New(Unavailable, err.Error(), nil), true
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, context.Canceled):
		return New(Unavailable, err.Error(), nil), true
	}
	return New(Internal, err.Error(), nil), false
}
