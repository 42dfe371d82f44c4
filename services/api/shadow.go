package api

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/tachograph/tachograph/events"
	"github.com/tachograph/tachograph/projections/shadow"
	"github.com/tachograph/tachograph/services/api/problem"
	"github.com/tachograph/tachograph/services/shadows"
)

// Headers of a shadow's answers, whose bodies are AWS IoT's; a command's has the
// position as well.
const (
	positionHeader = "Tacho-Position" // of the newest fact, epoch.partition.seq
	changedHeader  = "Tacho-Changed"  // false: the update would have changed nothing and was not stored
)

func (a *api) getShadow(w http.ResponseWriter, r *http.Request) error {
	q, d, name, err := a.shadowOf(r, "at")
	if err != nil {
		return err
	}
	at, err := q.moment("at")
	if err != nil {
		return err
	}
	doc, position := a.shadows.Get(d, name)
	if q.has("at") {
		if doc, position, err = a.shadows.At(r.Context(), d, name, at); err != nil {
			return err
		}
	} else {
		at = time.Now()
	}
	if !doc.Exists {
		return shadowProblem(d, name, shadow.ErrNoShadow(cmp.Or(name, d)))
	}
	w.Header().Set(positionHeader, position.String())
	return writeDocument(w, doc.Get(at.Unix(), ""))
}

func (a *api) updateShadow(w http.ResponseWriter, r *http.Request) error {
	_, d, name, err := a.shadowOf(r)
	if err != nil {
		return err
	}
	body, err := readBody(w, r, shadowBytes)
	if err != nil {
		return err
	}
	req, refused := shadow.ParseRequest(body, a.shadows.Limits())
	if refused != nil {
		return shadowProblem(d, name, refused)
	}
	o, err := a.shadows.Do(r.Context(), shadows.Wish{Device: d, Name: name, Request: req, By: a.caller(r), OnlyChanges: true})
	if err != nil {
		return versionProblem(o, shadowProblem(d, name, err))
	}
	w.Header().Set(positionHeader, o.Position.String())
	w.Header().Set(changedHeader, strconv.FormatBool(o.Changed))
	if !o.Changed {
		return writeDocument(w, o.Document.Get(time.Now().Unix(), req.ClientToken))
	}
	return writeDocument(w, o.Fact.Accepted())
}

func (a *api) deleteShadow(w http.ResponseWriter, r *http.Request) error {
	_, d, name, err := a.shadowOf(r)
	if err != nil {
		return err
	}
	o, err := a.shadows.Do(r.Context(), shadows.Wish{Device: d, Name: name, By: a.caller(r)})
	if err != nil {
		return shadowProblem(d, name, err)
	}
	w.Header().Set(positionHeader, o.Position.String())
	return writeDocument(w, o.Fact.Deleted())
}

// A shadowChange is one line of a shadow's history.
type shadowChange struct {
	Type     string          `json:"type"`
	Received time.Time       `json:"received"`
	Position events.Position `json:"position"`
	Fact     json.RawMessage `json:"fact"`
}

func (a *api) listShadowHistory(w http.ResponseWriter, r *http.Request) error {
	q, d, name, err := a.shadowOf(r, "limit", "after")
	if err != nil {
		return err
	}
	limit, err := q.number("limit", pagePreset, pageLimit)
	if err != nil {
		return err
	}
	after, err := q.position("after")
	if err != nil {
		return err
	}
	answer := struct {
		Changes []shadowChange `json:"changes"`
		More    bool           `json:"more"`
	}{Changes: []shadowChange{}}
	for c, err := range a.shadows.History(r.Context(), d, name, after) {
		if err != nil {
			return err
		}
		if answer.More = len(answer.Changes) == limit; answer.More {
			break
		}
		answer.Changes = append(answer.Changes, shadowChange{c.Fact.Type, c.Received, c.Position, c.Fact.Payload()})
	}
	if len(answer.Changes) == 0 && !q.has("after") {
		return shadowProblem(d, name, shadow.ErrNoShadow(cmp.Or(name, d)))
	}
	return writeJSON(w, http.StatusOK, answer)
}

func (a *api) listShadows(w http.ResponseWriter, r *http.Request) error {
	if _, err := parseQuery(r); err != nil {
		return err
	}
	d, err := a.device(r)
	if err != nil {
		return err
	}
	answer := struct {
		Classic bool     `json:"classic"`
		Named   []string `json:"named"`
	}{Named: []string{}}
	doc, _ := a.shadows.Get(d.ID, "")
	answer.Classic = doc.Exists
	answer.Named = append(answer.Named, a.shadows.Names(d.ID, "", pageLimit)...)
	return writeJSON(w, http.StatusOK, answer)
}

func (a *api) listPending(w http.ResponseWriter, r *http.Request) error {
	q, err := parseQuery(r, "limit", "cursor")
	if err != nil {
		return err
	}
	p, err := q.page()
	if err != nil {
		return err
	}
	device, name, _ := strings.Cut(p.after, "/") // an id holds no slash
	all := a.shadows.Pending(device, name, p.limit+1)
	answer := struct {
		Pending []shadows.Pending `json:"pending"`
		Next    string            `json:"next,omitempty"`
	}{Pending: []shadows.Pending{}}
	for i, one := range all {
		if i == p.limit {
			answer.Next = cursorAfter(all[i-1].Device + "/" + all[i-1].Name)
			break
		}
		answer.Pending = append(answer.Pending, one)
	}
	return writeJSON(w, http.StatusOK, answer)
}

// shadowOf reads what all calls of a shadow have: the device of the path, the
// name of a named shadow.
func (a *api) shadowOf(r *http.Request, known ...string) (q query, device, name string, err error) {
	if q, err = parseQuery(r, append(known, "name")...); err != nil {
		return q, "", "", err
	}
	d, err := a.device(r)
	if err != nil {
		return q, "", "", err
	}
	if q.has("name") && q.text("name") == "" {
		return q, "", "", invalidParameter("name", "is empty; leave it out for the classic shadow")
	}
	return q, d.ID, q.text("name"), nil
}

// caller is who asks, as it will stand in the log.
func (a *api) caller(r *http.Request) string {
	if token, err := bearer(r); err == nil && !a.keys.Check(token) {
		return shadows.ByDevice
	}
	return "admin"
}

// shadowProblem gives AWS's refusals our error body.
func shadowProblem(device, name string, err error) error {
	var refused *shadow.Error
	if !errors.As(err, &refused) {
		return err
	}
	code, ok := map[int]problem.Code{
		404: problem.ShadowNotFound, 409: problem.VersionConflict, 413: problem.PayloadTooLarge, 415: problem.UnsupportedMedia, 429: problem.TooManyRequests,
	}[refused.Code]
	if !ok {
		code = problem.InvalidShadow
	}
	details := map[string]any{"device": device}
	if name != "" {
		details["name"] = name
	}
	return problem.New(code, fmt.Sprintf("shadow of device %s: %s", device, refused.Message), details)
}

// versionProblem adds to a conflict which version there is.
func versionProblem(o shadows.Outcome, err error) error {
	if p, ok := problem.Of(err); ok && p.Code == problem.VersionConflict {
		p.Message += fmt.Sprintf(": it has version %d", o.Document.Version)
		p.Details["version"] = o.Document.Version
	}
	return err
}

func writeDocument(w http.ResponseWriter, document []byte) error {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(http.StatusOK)
	_, _ = w.Write(append(document, '\n')) // a client that went away needs no answer
	return nil
}
