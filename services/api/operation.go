package api

import (
	"net/http"
	"strings"

	"github.com/tachograph/tachograph/projections"
	"github.com/tachograph/tachograph/services/api/problem"
)

type status struct {
	Status string `json:"status"`
}

func (a *api) health(w http.ResponseWriter, _ *http.Request) error {
	return writeJSON(w, http.StatusOK, status{"ok"})
}

func (a *api) readiness(w http.ResponseWriter, _ *http.Request) error {
	if ok, why := a.ready(); !ok {
		if why == nil {
			why = []string{}
		}
		return problem.New(problem.NotReady, "not ready: "+strings.Join(why, "; "), map[string]any{"waiting_for": why})
	}
	return writeJSON(w, http.StatusOK, status{"ready"})
}

func noGateway(http.ResponseWriter, *http.Request) error {
	return problem.New(problem.Unavailable, "send telemetry: this process does not run the role gateway", nil)
}

func (a *api) describe(w http.ResponseWriter, _ *http.Request) error {
	w.Header().Set("Content-Type", "application/yaml")
	w.WriteHeader(http.StatusOK)
	_, _ = w.Write(description) // a client that went away needs no answer
	return nil
}

func (a *api) listProjections(w http.ResponseWriter, r *http.Request) error {
	if _, err := parseQuery(r); err != nil {
		return err
	}
	answer := struct {
		Projections []projections.Status `json:"projections"`
	}{make([]projections.Status, 0, len(a.runners))}
	for _, runner := range a.runners {
		answer.Projections = append(answer.Projections, runner.Status())
	}
	return writeJSON(w, http.StatusOK, answer)
}
