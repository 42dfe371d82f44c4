package api

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"strconv"
	"time"

	"github.com/tachograph/tachograph/services/api/problem"
	"github.com/tachograph/tachograph/services/commands"
)

// getCommand answers with the command as it is, or with wait once it has its
// final state, at the latest when the time is up; or as it was at a moment.
func (a *api) getCommand(w http.ResponseWriter, r *http.Request) error {
	q, err := parseQuery(r, "wait", "at")
	if err != nil {
		return err
	}
	if q.has("at") {
		return a.getPastCommand(w, r, q)
	}
	wait := time.Duration(0)
	if q.has("wait") {
		if wait, err = time.ParseDuration(q.text("wait")); err != nil || wait < 0 || wait > longestWait {
			return invalidParameter("wait", fmt.Sprintf("is %q, want a duration of at most %s, such as 30s", q.text("wait"), longestWait))
		}
	}
	d, err := a.device(r)
	if err != nil {
		return err
	}
	id := r.PathValue("command")
	if wait > 0 {
		leave, err := a.watcher()
		if err != nil {
			return err
		}
		defer leave()
	}
	v, err := a.commands.Get(r.Context(), d.ID, id)
	if err != nil {
		return commandProblem(d.ID, err)
	}
	if wait > 0 && !v.State.Final() {
		ctx, cancel := context.WithTimeout(r.Context(), wait)
		defer cancel()
		for next, err := range a.commands.Watch(ctx, d.ID, id) {
			if err != nil {
				return commandProblem(d.ID, err)
			}
			v = next
		}
		if err := r.Context().Err(); err != nil {
			return err
		}
	}
	return writeCommand(w, v)
}

// getPastCommand answers with the command as the log knew it at a moment.
func (a *api) getPastCommand(w http.ResponseWriter, r *http.Request, q query) error {
	at, err := q.moment("at")
	if err != nil {
		return err
	}
	if q.has("wait") {
		return invalidParameter("wait", "does not go with at: what was is known")
	}
	d, err := a.device(r)
	if err != nil {
		return err
	}
	v, err := a.commands.At(r.Context(), d.ID, r.PathValue("command"), at)
	if err != nil {
		return commandProblem(d.ID, err)
	}
	return writeCommand(w, v)
}

// pastCommands are a device's commands as the log knew them at a moment; the
// answer's header says for which position that is true. They are read from the log,
// which takes a place among its readers.
func (a *api) pastCommands(w http.ResponseWriter, r *http.Request, device string, at time.Time, limit int) ([]commands.View, error) {
	leave, err := take(a.readers, "read commands", "readers are at work")
	if err != nil {
		return nil, err
	}
	defer leave()
	all, position, err := a.commands.ListAt(r.Context(), device, at, limit)
	if err != nil {
		return nil, commandProblem(device, err)
	}
	if position.Seq > 0 {
		w.Header().Set(positionHeader, position.String())
	}
	return all, nil
}

// writeCommand answers with one command and the position that is true for.
func writeCommand(w http.ResponseWriter, v commands.View) error {
	w.Header().Set(positionHeader, v.Position.String())
	return writeJSON(w, http.StatusOK, commandOf(v, true))
}

// watcher takes a place among those who wait for commands.
func (a *api) watcher() (leave func(), err error) {
	return take(a.watchers, "watch command", "are watched")
}

// take takes one of so many places, which the caller leaves again.
func take(places chan struct{}, op, what string) (leave func(), err error) {
	select {
	case places <- struct{}{}:
		return func() { <-places }, nil
	default:
		return nil, problem.New(problem.TooManyRequests,
			fmt.Sprintf("%s: %d %s already", op, cap(places), what), map[string]any{"limit": cap(places)})
	}
}

// watchCommand streams a command's steps as server-sent events: the event's
// name is the step's type, its id the step's number, so that a browser that
// comes back with Last-Event-ID misses nothing. The stream ends with the final
// state.
func (a *api) watchCommand(w http.ResponseWriter, r *http.Request) error {
	if _, err := parseQuery(r); err != nil {
		return err
	}
	d, err := a.device(r)
	if err != nil {
		return err
	}
	from := 0
	if last := r.Header.Get("Last-Event-ID"); last != "" {
		if from, err = strconv.Atoi(last); err != nil || from < 0 {
			return invalid("header Last-Event-ID: want the number of a step")
		}
	}
	leave, err := a.watcher()
	if err != nil {
		return err
	}
	defer leave()
	id := r.PathValue("command")
	if _, err := a.commands.Get(r.Context(), d.ID, id); err != nil {
		return commandProblem(d.ID, err)
	}
	w.Header().Set("Content-Type", "text/event-stream")
	w.WriteHeader(http.StatusOK)
	s := stream{w: w, control: http.NewResponseController(w)}
	if r.Method == http.MethodHead {
		return nil
	}
	if err := s.flush(); err != nil {
		return gone(err)
	}
	for {
		ctx, cancel := context.WithTimeout(r.Context(), beat)
		final := false
		for v, err := range a.commands.Watch(ctx, d.ID, id) {
			if err == nil {
				from, err = s.steps(v, from)
			}
			if err != nil {
				cancel()
				return gone(err)
			}
			final = v.State.Final()
		}
		ended := ctx.Err() == nil // by itself: final, or the process stops
		cancel()
		if final || ended || r.Context().Err() != nil {
			return nil
		}
		if _, err := s.w.Write([]byte(": still there\n\n")); err != nil || s.flush() != nil {
			return gone(err)
		}
	}
}

// A stream is an answer of server-sent events.
type stream struct {
	w       http.ResponseWriter
	control *http.ResponseController
}

// steps sends those after from and returns how many there are.
func (s stream) steps(v commands.View, from int) (int, error) {
	if from >= len(v.History) {
		return from, nil
	}
	for i, f := range v.History[from:] {
		data, err := json.Marshal(stepOf(f))
		if err != nil {
			return from, err
		}
		if _, err := fmt.Fprintf(s.w, "id: %d\nevent: %s\ndata: %s\n\n", from+i+1, f.Type, data); err != nil {
			return from, err
		}
	}
	return len(v.History), s.flush()
}

func (s stream) flush() error {
	_ = s.control.SetWriteDeadline(time.Now().Add(answerTime)) // a recorder has none
	return s.control.Flush()
}
