package api

import (
	"cmp"
	"errors"
	"net/http"
	"time"

	"github.com/tachograph/tachograph/projections/shadow"
	"github.com/tachograph/tachograph/services/api/problem"
	"github.com/tachograph/tachograph/services/shadows"
)

// The data plane of AWS IoT Device Shadow: its paths, bodies, status codes and
// error types (AWS IoT Developer Guide, "Device Shadow REST API"), so that its
// SDKs find what they know. Who calls is told by a bearer token, not by SigV4.

// awsTypes are what AWS's SDKs branch on, in the header X-Amzn-ErrorType.
var awsTypes = map[int]string{
	400: "InvalidRequestException", 401: "UnauthorizedException", 403: "ForbiddenException", 404: "ResourceNotFoundException",
	409: "ConflictException", 413: "RequestEntityTooLargeException", 415: "UnsupportedDocumentEncodingException",
	429: "ThrottlingException", 500: "InternalFailureException", 503: "ServiceUnavailableException",
}

// aws makes AWS's error body of whatever a handler refuses.
func (a *api) aws(h handler) handler {
	return func(w http.ResponseWriter, r *http.Request) error {
		err := h(w, r)
		if err == nil {
			return nil
		}
		var refused *shadow.Error
		if !errors.As(err, &refused) {
			p, known := problem.Of(err)
			if !known {
				return err // a defect of ours: logged, and told as such
			}
			refused = &shadow.Error{Code: p.Code.Status(), Message: p.Message}
			switch p.Code {
			case problem.DeviceNotFound, problem.InvalidDeviceID:
				refused = &shadow.Error{Code: 404, Message: "Thing not found"}
			case problem.Unauthenticated:
				refused = &shadow.Error{Code: 401, Message: "Unauthorized"}
				w.Header().Set("WWW-Authenticate", `Bearer realm="tachograph"`)
			case problem.Forbidden:
				refused = &shadow.Error{Code: 403, Message: "Forbidden"}
			case problem.PayloadTooLarge:
				refused = shadow.ErrTooLarge
			}
		}
		w.Header().Set("X-Amzn-ErrorType", awsTypes[refused.Code])
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(refused.Code)
		token := ""
		var t *tokened
		if errors.As(err, &t) {
			token = t.token
		}
		_, _ = w.Write(append(refused.Render(time.Now().Unix(), token), '\n')) // a client that went away needs no answer
		return nil
	}
}

// A tokened refusal echoes the client's token.
type tokened struct {
	error
	token string
}

func (t *tokened) Unwrap() error { return t.error }

func (a *api) awsGet(w http.ResponseWriter, r *http.Request) error {
	_, d, name, err := a.shadowOf(r)
	if err != nil {
		return err
	}
	doc, _ := a.shadows.Get(d, name)
	if !doc.Exists {
		return shadow.ErrNoShadow(cmp.Or(name, d))
	}
	return writeDocument(w, doc.Get(time.Now().Unix(), ""))
}

func (a *api) awsUpdate(w http.ResponseWriter, r *http.Request) error {
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
		return &tokened{refused, req.ClientToken}
	}
	o, err := a.shadows.Do(r.Context(), shadows.Wish{Device: d, Name: name, Request: req, By: a.caller(r)})
	if err != nil {
		return &tokened{err, req.ClientToken}
	}
	return writeDocument(w, o.Fact.Accepted())
}

func (a *api) awsDelete(w http.ResponseWriter, r *http.Request) error {
	_, d, name, err := a.shadowOf(r)
	if err != nil {
		return err
	}
	o, err := a.shadows.Do(r.Context(), shadows.Wish{Device: d, Name: name, By: a.caller(r)})
	if err != nil {
		return err
	}
	return writeDocument(w, o.Fact.Deleted())
}

// awsNames lists named shadows; of an unknown thing there are none.
func (a *api) awsNames(w http.ResponseWriter, r *http.Request) error {
	q, err := parseQuery(r, "nextToken", "pageSize")
	if err != nil {
		return err
	}
	size, err := q.number("pageSize", awsPage, awsPageLimit)
	if err != nil {
		return err
	}
	after := query{map[string][]string{}}
	if q.has("nextToken") {
		after.values.Set("cursor", q.text("nextToken"))
	}
	p, err := after.page()
	if err != nil {
		return &shadow.Error{Code: 400, Message: "Invalid nextToken"}
	}
	names := a.shadows.Names(r.PathValue("id"), p.after, size+1)
	answer := struct {
		Results   []string `json:"results"`
		NextToken string   `json:"nextToken,omitempty"`
		Timestamp int64    `json:"timestamp"`
	}{Results: append([]string{}, names[:min(size, len(names))]...), Timestamp: time.Now().Unix()}
	if len(names) > size {
		answer.NextToken = cursorAfter(names[size-1])
	}
	return writeJSON(w, http.StatusOK, answer)
}

// Page sizes of AWS's list of named shadows.
const (
	awsPage      = 10
	awsPageLimit = 100
)
