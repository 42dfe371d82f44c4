package api

import (
	"crypto/rand"
	"errors"
	"log/slog"
	"net/http"
	"path"
	"runtime/debug"
	"time"

	"github.com/tachograph/tachograph/services/api/problem"
)

// A handler answers a request or returns why not, before it has written
// anything. What is not a *problem.Problem and nothing the table knows is a
// defect of ours: logged in full, answered as internal.
type handler func(w http.ResponseWriter, r *http.Request) error

// ServeHTTP is the outermost shell: request id, headers, panics, measuring, and
// the error body for what no route answers.
func (a *api) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	began := time.Now()
	answer := &answer{ResponseWriter: w}
	id := requestID(r)
	head := answer.Header()
	head.Set("X-Request-Id", id)
	head.Set("X-Content-Type-Options", "nosniff")
	head.Set("Content-Security-Policy", "default-src 'none'; frame-ancestors 'none'")
	head.Set("Referrer-Policy", "no-referrer")
	head.Set("Cache-Control", "no-store")
	// Fails only where the writer has no deadline to set (a test's recorder).
	_ = http.NewResponseController(w).SetWriteDeadline(began.Add(answerTime))

	route, pattern := a.mux.Handler(r)
	a.metrics.begin()
	defer func() {
		if caught := recover(); caught != nil {
			if caught == http.ErrAbortHandler { //nolint:errorlint // net/http compares it so
				a.metrics.end(r.Method, pattern, answer.code(), time.Since(began))
				panic(caught)
			}
			a.logger.Error("request failed", "request", id, "route", pattern, "panic", caught, "stack", string(debug.Stack()))
			if answer.status != 0 { // half an answer must not look like a whole one
				a.metrics.end(r.Method, pattern, http.StatusInternalServerError, time.Since(began))
				panic(http.ErrAbortHandler)
			}
			problem.Write(answer, problem.Internal, "answer request: internal error", map[string]any{"request": id})
		}
		a.metrics.end(r.Method, pattern, answer.code(), time.Since(began))
	}()

	if p := r.URL.EscapedPath(); pattern == "" || path.Clean("/"+p) != p {
		unrouted(answer, r, route)
		return
	}
	a.mux.ServeHTTP(answer, r)
}

// unrouted answers what no pattern matches. The mux's own refusal tells which
// it is, and which methods there are; its text and its redirects to a cleaned
// path are not ours.
func unrouted(w http.ResponseWriter, r *http.Request, refusal http.Handler) {
	probe := &refused{header: http.Header{}}
	refusal.ServeHTTP(probe, r)
	if probe.status == http.StatusMethodNotAllowed {
		w.Header().Set("Allow", probe.header.Get("Allow"))
		problem.Write(w, problem.MethodNotAllowed, r.Method+" "+r.URL.EscapedPath()+": method is not allowed",
			map[string]any{"allow": probe.header.Get("Allow")})
		return
	}
	problem.Write(w, problem.NotFound, r.Method+" "+r.URL.EscapedPath()+": no such path", nil)
}

// handle makes an http.Handler of a handler.
func (a *api) handle(h handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		err := h(w, r)
		if err == nil {
			return
		}
		if errors.Is(err, r.Context().Err()) && r.Context().Err() != nil {
			panic(http.ErrAbortHandler) // the client is gone
		}
		p, known := problem.Of(err)
		if !known {
			a.logger.Error("request failed", "request", w.Header().Get("X-Request-Id"), "route", r.Pattern, "error", err)
			p = problem.New(problem.Internal, "answer request: internal error",
				map[string]any{"request": w.Header().Get("X-Request-Id")})
		}
		p.WriteTo(w)
	})
}

// requestID takes over a client's id, so that logs can be joined, when it is a
// short plain word; else it makes one.
func requestID(r *http.Request) string {
	id := r.Header.Get("X-Request-Id")
	if id == "" || len(id) > 64 {
		return rand.Text()
	}
	for i := 0; i < len(id); i++ {
		switch c := id[i]; {
		case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c >= '0' && c <= '9', c == '-', c == '_', c == '.':
		default:
			return rand.Text()
		}
	}
	return id
}

// An answer remembers the status for metrics, and whether there is one yet.
type answer struct {
	http.ResponseWriter
	status int
}

func (a *answer) WriteHeader(status int) {
	if a.status == 0 && status >= 200 {
		a.status = status
	}
	a.ResponseWriter.WriteHeader(status)
}

func (a *answer) Write(b []byte) (int, error) {
	if a.status == 0 {
		a.status = http.StatusOK
	}
	return a.ResponseWriter.Write(b)
}

// Unwrap lets http.ResponseController reach the connection's writer.
func (a *answer) Unwrap() http.ResponseWriter { return a.ResponseWriter }

func (a *answer) code() int {
	if a.status == 0 {
		return http.StatusOK
	}
	return a.status
}

// refused takes the mux's refusal and keeps only status and header.
type refused struct {
	header http.Header
	status int
}

func (r *refused) Header() http.Header         { return r.header }
func (r *refused) Write(b []byte) (int, error) { return len(b), nil }
func (r *refused) WriteHeader(status int)      { r.status = status }

var _ http.Handler = (*api)(nil)

// serverLog drops net/http's own complaints (bad TLS hellos, slow clients) to debug.
type serverLog struct{ logger *slog.Logger }

func (l serverLog) Write(line []byte) (int, error) {
	l.logger.Debug("http server", "message", string(line))
	return len(line), nil
}
