package api

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net/http"
	"strconv"
	"time"

	"github.com/tachograph/tachograph/projections/command"
	"github.com/tachograph/tachograph/services/api/problem"
	"github.com/tachograph/tachograph/services/commands"
)

// What a request for a command says when it says nothing.
const (
	deadlinePreset = 30 * time.Second // from now
	answerPreset   = time.Minute      // after the deadline
)

// parseOrder reads a request for a command: the body's fields and the header
// Idempotency-Key. more are fields that the caller takes itself.
func (a *api) parseOrder(w http.ResponseWriter, r *http.Request, more ...string) (commands.Request, map[string]json.RawMessage, error) {
	req := commands.Request{Policy: command.NowOrNever, By: a.caller(r)}
	fail := func(err error) (commands.Request, map[string]json.RawMessage, error) { return req, nil, err }
	body, err := readBody(w, r, commandBytes)
	if err != nil {
		return fail(err)
	}
	fields, err := decodeFields(body, append(more, "name", "parameters", "deadline", "answer_by", "policy", "priority", "dry_run")...)
	if err != nil {
		return fail(err)
	}
	for _, f := range []struct {
		name, want string
		into       any
	}{
		{"name", "a string", &req.Name}, {"policy", "now_or_never or until_deadline", &req.Policy},
		{"priority", "a whole number", &req.Priority}, {"dry_run", "true or false", &req.DryRun},
	} {
		if err := field(fields, f.name, f.into, f.want); err != nil {
			return fail(err)
		}
	}
	if raw := fields["parameters"]; raw != nil {
		var compact bytes.Buffer
		if err := json.Compact(&compact, raw); err != nil {
			return fail(err)
		}
		req.Parameters = compact.Bytes()
	}
	now := a.commands.Now()
	if req.Deadline, err = when(fields, "deadline", now, now.Add(deadlinePreset)); err != nil {
		return fail(err)
	}
	if req.AnswerBy, err = when(fields, "answer_by", now, req.Deadline.Add(answerPreset)); err != nil {
		return fail(err)
	}
	if err := a.checkParameters(req); err != nil {
		return fail(err)
	}
	keys := r.Header.Values("Idempotency-Key")
	if len(keys) > 1 || len(keys) == 1 && keys[0] == "" {
		return fail(invalid("header Idempotency-Key: is empty or stands twice"))
	}
	if len(keys) == 1 {
		var compact bytes.Buffer
		if err := json.Compact(&compact, body); err != nil {
			return fail(err)
		}
		sum := sha256.Sum256(compact.Bytes())
		req.Key, req.Digest = keys[0], hex.EncodeToString(sum[:16])
	}
	return req, fields, nil
}

// when reads a time: a duration from now ("30s"), RFC 3339, or epoch
// milliseconds.
func when(fields map[string]json.RawMessage, name string, now, preset time.Time) (time.Time, error) {
	raw, ok := fields[name]
	if !ok {
		return preset, nil
	}
	if ms, err := strconv.ParseInt(string(raw), 10, 64); err == nil {
		return time.UnixMilli(ms), nil
	}
	var text string
	if json.Unmarshal(raw, &text) == nil {
		if d, err := time.ParseDuration(text); err == nil {
			return now.Add(d), nil
		}
		if at, err := time.Parse(time.RFC3339Nano, text); err == nil {
			return at, nil
		}
	}
	return time.Time{}, invalidBody(fmt.Sprintf("field %q: want a duration such as \"30s\", RFC 3339 or epoch milliseconds", name), map[string]any{"field": name})
}

// checkParameters holds the parameters against the schema command_{name}, where
// one is registered.
func (a *api) checkParameters(req commands.Request) error {
	s, ok := a.catalog.Schemas().Current("command_" + req.Name)
	if !ok {
		return nil
	}
	parameters := req.Parameters
	if parameters == nil {
		parameters = json.RawMessage("{}")
	}
	if _, err := s.NewChecker().Check(parameters); err != nil {
		return problem.New(problem.InvalidCommand, fmt.Sprintf("queue command %s: parameters do not fit schema %s: %v", req.Name, s.Name(), err),
			map[string]any{"schema": s.Name()})
	}
	return nil
}
