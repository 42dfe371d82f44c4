package api

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"sync"
	"time"

	"github.com/tachograph/tachograph/projections/command"
	"github.com/tachograph/tachograph/services/api/problem"
	"github.com/tachograph/tachograph/services/commands"
)

// A commandDoc is a command as this API shows it.
type commandDoc struct {
	ID              string          `json:"id"`
	Device          string          `json:"device"`
	Name            string          `json:"name"`
	Parameters      json.RawMessage `json:"parameters,omitempty"`
	Policy          command.Policy  `json:"policy"`
	Priority        int             `json:"priority"`
	DryRun          bool            `json:"dry_run"`
	Deadline        time.Time       `json:"deadline"`
	AnswerBy        time.Time       `json:"answer_by"`
	State           command.State   `json:"state"`
	Final           bool            `json:"final"`
	Attempts        int             `json:"attempts"`
	CancelRequested bool            `json:"cancel_requested"`
	Late            bool            `json:"late"`
	Result          json.RawMessage `json:"result,omitempty"`
	Position        string          `json:"position"`
	History         []step          `json:"history,omitempty"`
}

// A step is one fact of a command's history.
type step struct {
	Type    string          `json:"type"`
	At      time.Time       `json:"at"`
	By      string          `json:"by"`
	Reason  string          `json:"reason,omitempty"`
	Code    string          `json:"code,omitempty"`
	Attempt int             `json:"attempt,omitempty"`
	Late    bool            `json:"late,omitempty"`
	Asked   command.State   `json:"asked,omitempty"`
	Result  json.RawMessage `json:"result,omitempty"`
}

func stepOf(f command.Fact) step {
	return step{f.Type, time.UnixMilli(f.At).UTC(), f.By, f.Reason, f.Code, f.Attempt, f.Late, f.Asked, f.Result}
}

func commandOf(v commands.View, history bool) commandDoc {
	o := v.Order
	d := commandDoc{
		ID: o.ID, Device: o.Device, Name: o.Name, Parameters: o.Parameters, Policy: o.Policy, Priority: o.Priority, DryRun: o.DryRun,
		Deadline: time.UnixMilli(o.Deadline).UTC(), AnswerBy: time.UnixMilli(o.AnswerBy).UTC(), State: v.State, Final: v.State.Final(),
		Attempts: v.Attempts, CancelRequested: v.CancelRequested, Late: v.Late, Result: v.Result, Position: v.Position.String(),
	}
	if history {
		for _, f := range v.History {
			d.History = append(d.History, stepOf(f))
		}
	}
	return d
}

// commandProblem gives the refusals of commands our error body.
func commandProblem(device string, err error) error {
	for _, known := range []struct {
		err  error
		code problem.Code
	}{
		{commands.ErrNoDevice, problem.DeviceNotFound}, {commands.ErrTooMany, problem.TooManyCommands},
		{command.ErrInvalid, problem.InvalidCommand}, {command.ErrPastDeadline, problem.DeadlinePassed},
		{command.ErrExists, problem.KeyReused}, {command.ErrNoCommand, problem.CommandNotFound}, {command.ErrFinal, problem.CommandFinal},
	} {
		if errors.Is(err, known.err) {
			return problem.New(known.code, err.Error(), map[string]any{"device": device})
		}
	}
	return err
}

func (a *api) addCommand(w http.ResponseWriter, r *http.Request) error {
	if _, err := parseQuery(r); err != nil {
		return err
	}
	d, err := a.device(r)
	if err != nil {
		return err
	}
	req, _, err := a.parseOrder(w, r)
	if err != nil {
		return err
	}
	req.Device = d.ID
	v, err := a.commands.Queue(r.Context(), req)
	if err != nil {
		return commandProblem(d.ID, err)
	}
	w.Header().Set("Location", "/v1/devices/"+url.PathEscape(d.ID)+"/commands/"+url.PathEscape(v.Order.ID))
	if v.Changed {
		return writeJSON(w, http.StatusCreated, commandOf(v, true))
	}
	return writeJSON(w, http.StatusOK, commandOf(v, true))
}

// A bulkResult is what became of the request for one device.
type bulkResult struct {
	Device  string           `json:"device"`
	Command *commandDoc      `json:"command,omitempty"`
	Error   *problem.Problem `json:"error,omitempty"`
}

// addCommands queues one command for each of many devices. Each succeeds or
// fails for itself.
func (a *api) addCommands(w http.ResponseWriter, r *http.Request) error {
	if _, err := parseQuery(r); err != nil {
		return err
	}
	req, fields, err := a.parseOrder(w, r, "devices")
	if err != nil {
		return err
	}
	var devices []string
	if err := field(fields, "devices", &devices, "an array of device ids"); err != nil {
		return err
	}
	if len(devices) == 0 || len(devices) > commandDevices {
		return invalidBody(fmt.Sprintf("field \"devices\": want 1 to %d ids", commandDevices), map[string]any{"field": "devices"})
	}
	seen := map[string]bool{}
	for _, d := range devices {
		if seen[d] {
			return invalidBody(fmt.Sprintf("field \"devices\": %.140q stands twice", d), map[string]any{"field": "devices"})
		}
		seen[d] = true
	}
	answer := struct {
		Results []bulkResult `json:"results"`
	}{make([]bulkResult, len(devices))}
	var work sync.WaitGroup
	places := make(chan struct{}, commandsAtOnce)
	for i, device := range devices {
		places <- struct{}{}
		work.Go(func() {
			defer func() { <-places }()
			req := req
			req.Device = device
			answer.Results[i] = a.bulk(r, req)
		})
	}
	work.Wait()
	return writeJSON(w, http.StatusOK, answer)
}

func (a *api) bulk(r *http.Request, req commands.Request) bulkResult {
	res := bulkResult{Device: req.Device}
	v, err := a.commands.Queue(r.Context(), req)
	if err == nil {
		doc := commandOf(v, false)
		res.Command = &doc
		return res
	}
	p, known := problem.Of(commandProblem(req.Device, err))
	if !known {
		a.logger.Error("command was not queued", "device", req.Device, "error", err)
		p = problem.New(problem.Internal, "queue command: internal error", nil)
	}
	res.Error = p
	return res
}

func (a *api) listCommands(w http.ResponseWriter, r *http.Request) error {
	q, err := parseQuery(r, "limit", "at")
	if err != nil {
		return err
	}
	limit, err := q.number("limit", pagePreset, pageLimit)
	if err != nil {
		return err
	}
	at, err := q.moment("at")
	if err != nil {
		return err
	}
	d, err := a.device(r)
	if err != nil {
		return err
	}
	var all []commands.View
	if q.has("at") {
		if all, err = a.pastCommands(w, r, d.ID, at, limit); err != nil {
			return err
		}
	} else {
		all = a.commands.List(d.ID, limit)
	}
	answer := struct {
		Commands []commandDoc `json:"commands"`
	}{[]commandDoc{}}
	for _, v := range all {
		answer.Commands = append(answer.Commands, commandOf(v, false))
	}
	return writeJSON(w, http.StatusOK, answer)
}

// cancelCommand ends what was not sent; of what was it is a request to the
// device, and the status tells them apart.
func (a *api) cancelCommand(w http.ResponseWriter, r *http.Request) error {
	q, err := parseQuery(r, "reason")
	if err != nil {
		return err
	}
	if len(q.text("reason")) > reasonBytes {
		return invalidParameter("reason", fmt.Sprintf("is longer than %d bytes", reasonBytes))
	}
	d, err := a.device(r)
	if err != nil {
		return err
	}
	v, err := a.commands.Cancel(r.Context(), d.ID, r.PathValue("command"), a.caller(r), q.text("reason"))
	if err != nil {
		return commandProblem(d.ID, err)
	}
	status := http.StatusAccepted
	if v.State == command.Cancelled {
		status = http.StatusOK
	}
	return writeJSON(w, status, commandOf(v, true))
}
