package api

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/tachograph/tachograph/events"
	"github.com/tachograph/tachograph/projections/latest"
	"github.com/tachograph/tachograph/services/api/problem"
)

// getState answers with the view's own document, byte for byte: what services
// watch in the bucket and what is asked for here is one thing.
func (a *api) getState(w http.ResponseWriter, r *http.Request) error {
	q, err := parseQuery(r, "at", "by")
	if err != nil {
		return err
	}
	d, err := a.device(r)
	if err != nil {
		return err
	}
	if q.has("at") || q.has("by") {
		return a.getPastState(w, r, q, d.ID)
	}
	ctx, cancel := context.WithTimeout(r.Context(), stateTime)
	defer cancel()
	entry, err := a.latest.Get(ctx, events.Escape(d.ID))
	if errors.Is(err, jetstream.ErrKeyNotFound) || errors.Is(err, jetstream.ErrKeyDeleted) {
		return problem.New(problem.StateNotFound, fmt.Sprintf("state of device %s: nothing has arrived yet", d.ID),
			map[string]any{"device": d.ID})
	}
	if err != nil {
		if r.Context().Err() != nil {
			return r.Context().Err()
		}
		a.logger.Warn("read state failed", "device", d.ID, "error", err)
		return problem.New(problem.Unavailable, fmt.Sprintf("state of device %s: the view cannot be read now", d.ID), nil)
	}
	etag := `"` + strconv.FormatUint(entry.Revision(), 36) + `"`
	h := w.Header()
	h.Set("ETag", etag)
	h.Set("Cache-Control", "no-cache")
	if unchanged(r, etag) {
		w.WriteHeader(http.StatusNotModified)
		return nil
	}
	h.Set("Content-Type", "application/json")
	h.Set("Content-Length", strconv.Itoa(len(entry.Value())+1))
	w.WriteHeader(http.StatusOK)
	_, _ = w.Write(append(entry.Value(), '\n')) // a client that went away needs no answer
	return nil
}

// getPastState folds the device's history up to a moment: as the log knew it
// then, or, by=device, what the device had measured by then.
func (a *api) getPastState(w http.ResponseWriter, r *http.Request, q query, device string) error {
	at, err := q.moment("at")
	if err != nil {
		return err
	}
	if !q.has("at") {
		return invalidParameter("by", "goes with at")
	}
	var state latest.State
	switch by := q.text("by"); by {
	case "", "arrival":
		state, err = a.past.At(r.Context(), device, at)
	case "device":
		state, err = a.past.ByDevice(r.Context(), device, at)
	default:
		return invalidParameter("by", fmt.Sprintf("is %q, want arrival or device", by))
	}
	if err != nil {
		return err
	}
	if state.Events == 0 {
		return problem.New(problem.StateNotFound, fmt.Sprintf("state of device %s at %s: nothing had arrived yet", device, at.Format(time.RFC3339Nano)),
			map[string]any{"device": device})
	}
	w.Header().Set("ETag", `"`+state.Position.String()+`"`)
	return writeDocument(w, state.AppendJSON(nil))
}

func unchanged(r *http.Request, etag string) bool {
	for _, list := range r.Header.Values("If-None-Match") {
		for known := range strings.SplitSeq(list, ",") {
			if known = strings.TrimPrefix(strings.TrimSpace(known), "W/"); known == etag || known == "*" {
				return true
			}
		}
	}
	return false
}
