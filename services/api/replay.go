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
	q, err := parseQuery(r, "dry_run", "rate")
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
	replay, err := a.replayable(r)
	if err != nil {
		return err
	}
	if err := replay.Check(r.Context()); err != nil {
		return err
	}
	status, err := replay.Start(dry, float64(rate))
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
		return err
	}
	return writeJSON(w, http.StatusOK, replay.Status())
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
