package api

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"time"

	"github.com/tachograph/tachograph/projections/columnar"
	"github.com/tachograph/tachograph/services/api/problem"
)

// mostDifferences is how many an answer names at most.
const mostDifferences = 10_000

// A verifyLine is one line of the answer: how far it is or, last, what was found.
type verifyLine struct {
	Progress *columnar.AuditProgress `json:"progress,omitempty"`
	Report   *columnar.AuditReport   `json:"report,omitempty"`
}

// verify audits the tables of ClickHouse while the client listens: progress line
// by line, then the report. Who goes away ends it.
func (a *api) verify(w http.ResponseWriter, r *http.Request) error {
	q, err := parseQuery(r, "limit")
	if err != nil {
		return err
	}
	limit, err := q.number("limit", 0, mostDifferences)
	if err != nil {
		return err
	}
	if a.audit == nil {
		return problem.New(problem.Unavailable, "verify: this process does not run the role project", nil)
	}
	select {
	case a.audits <- struct{}{}:
		defer func() { <-a.audits }()
	default:
		return problem.New(problem.TooManyRequests, "verify: one is at work already", map[string]any{"limit": 1})
	}
	ctx, cancel := context.WithCancel(r.Context())
	defer cancel()
	audit, told, ended := *a.audit, make(chan columnar.AuditProgress, 1), make(chan error, 1)
	audit.Most = limit
	audit.Progress = func(p columnar.AuditProgress) {
		select {
		case <-told: // only the newest counts
		default:
		}
		told <- p
	}
	var report *columnar.AuditReport
	go func() {
		var err error
		report, err = audit.Run(ctx)
		ended <- err
	}()
	w.Header().Set("Content-Type", "application/x-ndjson")
	w.WriteHeader(http.StatusOK)
	s := stream{w: w, control: http.NewResponseController(w)}
	var p columnar.AuditProgress
	again := time.NewTicker(beat) // a long step shall not look like a dead one
	defer again.Stop()
	for {
		select {
		case p = <-told:
			err = s.json(verifyLine{Progress: &p})
		case <-again.C:
			err = s.json(verifyLine{Progress: &p})
		case err := <-ended:
			if err != nil {
				return a.verifyFailed(ctx, s, err)
			}
			if err := s.json(verifyLine{Report: report}); err != nil {
				return gone(err)
			}
			return nil
		}
		if err != nil {
			cancel()
			<-ended
			return gone(err)
		}
	}
}

// verifyFailed ends an answer that has begun with the error body.
func (a *api) verifyFailed(ctx context.Context, s stream, err error) error {
	if ctx.Err() != nil {
		return gone(err)
	}
	p, known := problem.Of(err)
	switch {
	case errors.Is(err, columnar.ErrTablesChanged):
		p = problem.New(problem.Conflict, err.Error(), nil)
	case !known:
		// It concerns the operator's own log and tables, whom nobody else can ask.
		a.logger.Error("verify failed", "error", err)
		p = problem.New(problem.Unavailable, err.Error(), nil)
	}
	if _, err := s.w.Write(append(p.Body(), '\n')); err != nil {
		return gone(err)
	}
	return s.flush()
}

// json sends a document as a line.
func (s stream) json(document any) error {
	line, err := json.Marshal(document)
	if err != nil {
		return err
	}
	if _, err := s.w.Write(append(line, '\n')); err != nil {
		return err
	}
	return s.flush()
}
