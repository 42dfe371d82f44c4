package api

import (
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"

	"github.com/tachograph/tachograph/projections"
	"github.com/tachograph/tachograph/services/api/problem"
	"github.com/tachograph/tachograph/services/replays"
)

func (a *api) startReplay(w http.ResponseWriter, r *http.Request) error {
	q, err := parseQuery(r, "dry_run", "rate", "on_panic")
	if err != nil {
		return err
	}
	dry, err := q.flag("dry_run")
	if err != nil {
		return err
	}
	rate, err := q.number("rate", 0, 1_000_000_000)
	if err != nil {
		return err
	}
	order := projections.Order{Dry: dry, Rate: float64(rate)}
	switch policy := r.URL.Query().Get("on_panic"); policy {
	case "", "stop":
	case "park":
		order.Park = true
	default:
		return problem.New(problem.InvalidRequest, fmt.Sprintf("on_panic %.40q: want stop or park", policy), nil)
	}
	replay, err := a.replayable(r)
	if err != nil {
		return err
	}
	if err := replay.Check(r.Context()); err != nil {
		return a.unreachable(w, r, "replay "+replay.Status().Projection, err)
	}
	status, err := replay.Start(order)
	if err != nil {
		return problem.New(problem.ReplayRunning, "replay "+replay.Status().Projection+": "+err.Error(), nil)
	}
	return writeJSON(w, http.StatusAccepted, status)
}

func (a *api) getReplay(w http.ResponseWriter, r *http.Request) error {
	if _, err := parseQuery(r); err != nil {
		return err
	}
	replay, err := a.replayable(r)
	if err != nil {
		return err
	}
	return writeJSON(w, http.StatusOK, replay.Status())
}

func (a *api) cancelReplay(w http.ResponseWriter, r *http.Request) error {
	if _, err := parseQuery(r); err != nil {
		return err
	}
	replay, err := a.replayable(r)
	if err != nil {
		return err
	}
	if err := replay.Stop(r.Context()); err != nil {
		return err
	}
	return writeJSON(w, http.StatusOK, replay.Status())
}

func (a *api) undoReplay(w http.ResponseWriter, r *http.Request) error {
	if _, err := parseQuery(r); err != nil {
		return err
	}
	replay, err := a.replayable(r)
	if err != nil {
		return err
	}
	switch err := replay.Undo(r.Context()); {
	case errors.Is(err, projections.ErrNothingToUndo):
		return problem.New(problem.NothingToUndo, "undo replay of "+replay.Status().Projection+": "+err.Error(), nil)
	case errors.Is(err, replays.ErrRunning):
		return problem.New(problem.ReplayRunning, "undo replay of "+replay.Status().Projection+": "+err.Error(), nil)
	case err != nil:
		return a.unreachable(w, r, "undo replay of "+replay.Status().Projection, err)
	}
	return writeJSON(w, http.StatusOK, replay.Status())
}

func (a *api) discardReplay(w http.ResponseWriter, r *http.Request) error {
	if _, err := parseQuery(r); err != nil {
		return err
	}
	replay, err := a.replayable(r)
	if err != nil {
		return err
	}
	what := "discard replay of " + replay.Status().Projection
	switch err := replay.Discard(r.Context()); {
	case errors.Is(err, projections.ErrNothingToDiscard):
		return problem.New(problem.NothingToDiscard, what+": "+err.Error(), nil)
	case errors.Is(err, projections.ErrSwapUnfinished):
		return problem.New(problem.SwapUnfinished, what+": "+err.Error(), nil)
	case errors.Is(err, replays.ErrRunning):
		return problem.New(problem.ReplayRunning, what+": "+err.Error(), nil)
	case err != nil:
		return a.unreachable(w, r, what, err)
	}
	return writeJSON(w, http.StatusOK, replay.Status())
}

// unreachable is the error of what a projection stands on: one whose class is not known is a
// ClickHouse, or a NATS, that cannot be asked now.
func (a *api) unreachable(w http.ResponseWriter, r *http.Request, what string, err error) error {
	if _, known := problem.Of(err); known || r.Context().Err() != nil {
		return err
	}
	a.logger.Warn("what a replay needs cannot be asked", "request", w.Header().Get("X-Request-Id"), "error", err)
	return problem.New(problem.Unavailable, what+": what it needs cannot be asked now: "+err.Error(), nil)
}

// replayable returns the replays of the projection that is named, unless it
// cannot be replayed, or not here.
func (a *api) replayable(r *http.Request) (*replays.Replays, error) {
	name := r.PathValue("projection")
	if !slices.Contains(replays.Projections, name) {
		return nil, problem.New(problem.ProjectionNotFound, fmt.Sprintf("replay %s: these can be replayed: %s", name, strings.Join(replays.Projections, ", ")), nil)
	}
	replay, ok := a.replays[name]
	if !ok {
		return nil, problem.New(problem.Unavailable, "replay "+name+": this process does not run the role project", nil)
	}
	return replay, nil
}
