package api

import (
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"github.com/tachograph/tachograph/projections/forgotten"
	"github.com/tachograph/tachograph/services/api/problem"
)

// A forgetRequest is one as the API tells of it.
type forgetRequest struct {
	ID     string            `json:"id"`
	Device string            `json:"device"`
	From   time.Time         `json:"from,omitzero"`
	To     time.Time         `json:"to"`
	By     string            `json:"by"`
	At     time.Time         `json:"at"`
	State  string            `json:"state"`           // asked, removing, done
	Doing  string            `json:"doing,omitempty"` // for people
	Counts map[string]uint64 `json:"counts"`
	Done   time.Time         `json:"done,omitzero"`
	Note   string            `json:"note"`
}

const outOfReach = "files that were exported, backups, and messages that the device still holds are out of reach"

func (a *api) forgetOf(r forgotten.Request) forgetRequest {
	answer := forgetRequest{
		ID: r.ID, Device: r.Device, From: r.From, To: r.To, By: r.By, At: r.At, State: "asked",
		Doing: a.forgetter.Doing(r.ID), Counts: map[string]uint64{}, Note: outOfReach,
	}
	if r.Began != nil {
		answer.State, answer.Counts = "removing", r.Began.Counts
	}
	if r.Done != nil {
		answer.State, answer.Doing, answer.Done = "done", "", r.Done.At
	}
	return answer
}

// forget takes a request that what a device sent be forgotten. The device need
// not be there any more.
func (a *api) forget(w http.ResponseWriter, r *http.Request) error {
	if _, err := parseQuery(r); err != nil {
		return err
	}
	body, err := readBody(w, r, deviceBytes)
	if err != nil {
		return err
	}
	var device, from, to string
	if err := decodeObject(body, map[string]*string{"device": &device, "from": &from, "to": &to}); err != nil {
		return err
	}
	if device == "" {
		return invalidBody(`field "device" is missing`, map[string]any{"field": "device"})
	}
	if err := addressable(device); err != nil {
		return err
	}
	var begin, end time.Time
	for _, f := range []struct {
		name, text string
		at         *time.Time
	}{{"from", from, &begin}, {"to", to, &end}} {
		if f.text == "" {
			continue
		}
		if ms, err := strconv.ParseInt(f.text, 10, 64); err == nil {
			*f.at = time.UnixMilli(ms).UTC()
		} else if *f.at, err = time.Parse(time.RFC3339Nano, f.text); err != nil {
			return invalidBody(fmt.Sprintf("field %q is %q, want RFC 3339 or epoch milliseconds", f.name, f.text), map[string]any{"field": f.name})
		}
	}
	request, err := a.forgetter.Ask(r.Context(), device, begin, end, "admin")
	if err != nil {
		return err
	}
	w.Header().Set("Location", "/v1/forget/"+url.PathEscape(request.ID))
	return writeJSON(w, http.StatusAccepted, a.forgetOf(request))
}

func (a *api) listForgotten(w http.ResponseWriter, r *http.Request) error {
	q, err := parseQuery(r, "device")
	if err != nil {
		return err
	}
	answer := struct {
		Requests []forgetRequest `json:"requests"`
	}{[]forgetRequest{}}
	for _, request := range a.forgetter.Ledger().All() {
		if !q.has("device") || request.Device == q.text("device") {
			answer.Requests = append(answer.Requests, a.forgetOf(request))
		}
	}
	return writeJSON(w, http.StatusOK, answer)
}

func (a *api) getForgotten(w http.ResponseWriter, r *http.Request) error {
	if _, err := parseQuery(r); err != nil {
		return err
	}
	request, ok := a.forgetter.Ledger().Get(r.PathValue("request"))
	if !ok {
		return problem.New(problem.ForgetNotFound, fmt.Sprintf("forget request %s: there is none such", r.PathValue("request")), nil)
	}
	return writeJSON(w, http.StatusOK, a.forgetOf(request))
}
