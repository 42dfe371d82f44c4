package api

import (
	"errors"
	"fmt"
	"net/http"

	"github.com/tachograph/tachograph/projections/columnar"
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
	if err := a.replayable(r); err != nil {
		return err
	}
	if err := a.replays.Check(r.Context()); err != nil {
		return err
	}
	status, err := a.replays.Start(dry, float64(rate))
	if err != nil {
		return problem.New(problem.ReplayRunning, "replay columnar: "+err.Error(), nil)
	}
	return writeJSON(w, http.StatusAccepted, status)
}

func (a *api) getReplay(w http.ResponseWriter, r *http.Request) error {
	if _, err := parseQuery(r); err != nil {
		return err
	}
	if err := a.replayable(r); err != nil {
		return err
	}
	return writeJSON(w, http.StatusOK, a.replays.Status())
}

func (a *api) cancelReplay(w http.ResponseWriter, r *http.Request) error {
	if _, err := parseQuery(r); err != nil {
		return err
	}
	if err := a.replayable(r); err != nil {
		return err
	}
	if err := a.replays.Stop(r.Context()); err != nil {
		return err
	}
	return writeJSON(w, http.StatusOK, a.replays.Status())
}

func (a *api) undoReplay(w http.ResponseWriter, r *http.Request) error {
	if _, err := parseQuery(r); err != nil {
		return err
	}
	if err := a.replayable(r); err != nil {
		return err
	}
	switch err := a.replays.Undo(r.Context()); {
	case errors.Is(err, columnar.ErrNothingToUndo):
		return problem.New(problem.NothingToUndo, "undo replay of columnar: "+err.Error(), nil)
	case errors.Is(err, replays.ErrRunning):
		return problem.New(problem.ReplayRunning, "undo replay of columnar: "+err.Error(), nil)
	case err != nil:
		return err
	}
	return writeJSON(w, http.StatusOK, a.replays.Status())
}

// replayable refuses what cannot be replayed, or not here.
func (a *api) replayable(r *http.Request) error {
	if name := r.PathValue("projection"); name != "columnar" {
		return problem.New(problem.ProjectionNotFound, fmt.Sprintf("replay %s: columnar is the projection that can be replayed", name), nil)
	}
	if a.replays == nil {
		return problem.New(problem.Unavailable, "replay columnar: this process does not run the role project", nil)
	}
	return nil
}
