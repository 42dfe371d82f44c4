package api

import (
	"errors"
	"io"
	"net/http"
	"strings"
	"time"

	"github.com/tachograph/tachograph/services/api/problem"
	asking "github.com/tachograph/tachograph/services/query"
)

// parameterPrefix begins the names of a statement's parameters, as it does in
// ClickHouse's own interface.
const parameterPrefix = "param_"

// askByURL answers the statement in ?sql=.
func (a *api) askByURL(w http.ResponseWriter, r *http.Request) error {
	q, err := parseQueryWith(r, parameterPrefix, "sql", "format")
	if err != nil {
		return err
	}
	return a.ask(w, r, q, q.text("sql"))
}

// askByBody answers the statement that is the body.
func (a *api) askByBody(w http.ResponseWriter, r *http.Request) error {
	q, err := parseQueryWith(r, parameterPrefix, "format")
	if err != nil {
		return err
	}
	if a.asks == nil {
		return noQueries()
	}
	text, err := readBody(w, r, int64(a.asks.Limits().Length))
	if err != nil {
		return err
	}
	return a.ask(w, r, q, string(text))
}

// ask streams the answer of a statement. What goes wrong before its first byte
// is a refusal; after it the connection is cut, so that half an answer does not
// look like a whole one, and the log has the reason under the request's id.
func (a *api) ask(w http.ResponseWriter, r *http.Request, q query, text string) error {
	if a.asks == nil {
		return noQueries()
	}
	if !r.ProtoAtLeast(1, 1) {
		return invalid("query: it was asked over HTTP/1.0, where half an answer cannot be told from a whole one; use HTTP/1.1")
	}
	s := asking.Statement{Text: text, Parameters: map[string]string{}}
	for name := range q.values {
		if bare, ok := strings.CutPrefix(name, parameterPrefix); ok {
			s.Parameters[bare] = q.text(name)
		}
	}
	var err error
	if s.Format, err = answerFormat(r, q); err != nil {
		return err
	}
	if strings.TrimSpace(text) == "" {
		return invalid("query: there is no statement; send one in ?sql= or, with POST, as the body")
	}
	w.Header().Set("Vary", "Accept")
	if r.Method == http.MethodHead {
		w.Header().Set("Content-Type", s.Format.ContentType)
		w.WriteHeader(http.StatusOK)
		return nil
	}
	answer, err := a.asks.Ask(r.Context(), s)
	if err != nil {
		return err
	}
	defer answer.Close()
	w.Header().Set("X-Query-Id", answer.ID)
	w.Header().Set("Content-Type", s.Format.ContentType)
	w.WriteHeader(http.StatusOK)
	control := http.NewResponseController(w)
	for {
		piece, err := answer.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err == nil {
			_ = control.SetWriteDeadline(time.Now().Add(answerTime))
			if _, err = w.Write(piece); err == nil {
				err = control.Flush()
			}
		}
		if err != nil {
			if r.Context().Err() == nil {
				a.logger.Warn("an answer was cut off", "request", w.Header().Get("X-Request-Id"), "query", answer.ID, "error", err)
			}
			answer.Close()
			panic(http.ErrAbortHandler)
		}
	}
}

// getOutcome tells what came of a statement that began to answer.
func (a *api) getOutcome(w http.ResponseWriter, r *http.Request) error {
	if _, err := parseQuery(r); err != nil {
		return err
	}
	if a.asks == nil {
		return noQueries()
	}
	outcome, ok := a.asks.Outcome(r.PathValue("id"))
	if !ok {
		return problem.New(problem.QueryNotFound, "query: no statement of that id is known here", map[string]any{"query": r.PathValue("id")})
	}
	return writeJSON(w, http.StatusOK, outcome)
}

// answerFormat is the format that a request asks for: by ?format=, else by Accept,
// else JSON.
func answerFormat(r *http.Request, q query) (asking.Format, error) {
	var names []string
	for _, f := range asking.Formats {
		names = append(names, f.Name)
	}
	if q.has("format") {
		f, ok := asking.FormatOf(q.text("format"))
		if !ok {
			return f, invalidParameter("format", "is none of "+strings.Join(names, ", "))
		}
		return f, nil
	}
	accept := strings.Join(r.Header.Values("Accept"), ",")
	f, ok := asking.Accepted(accept)
	if !ok {
		return f, problem.New(problem.NotAcceptable, "query: Accept has no format that there is", map[string]any{"formats": names})
	}
	return f, nil
}

func noQueries() error {
	return problem.New(problem.Unavailable, "query: this process knows no ClickHouse to ask; see --clickhouse-query", nil)
}
