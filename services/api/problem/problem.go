// Package problem is the one shape in which Tachograph's HTTP interfaces refuse
// something, and the one table from a code to its status and its remedy.
//
//	{"error":{"code":"device_exists","message":"add device car-1: device exists",
//	          "hint":"choose another id, or …","details":{"device":"car-1"}}}
//
// Clients branch on the code: it never changes its meaning. The message is for
// people and may change; the hint says what to do about it.
package problem

import (
	"encoding/json"
	"net/http"
	"strconv"
)

// A Problem is one refusal. It is an error, so that handlers can return it.
type Problem struct {
	Code    Code           `json:"code"`
	Message string         `json:"message"`
	Hint    string         `json:"hint,omitempty"`
	Details map[string]any `json:"details,omitempty"`
}

// New makes a problem with the table's hint. Details may be nil; their values
// must be JSON-able.
func New(code Code, message string, details map[string]any) *Problem {
	return &Problem{Code: code, Message: message, Hint: code.Hint(), Details: details}
}

func (p *Problem) Error() string { return p.Message }

// Body returns the error body as it goes over the wire, without a line feed.
func (p *Problem) Body() []byte {
	body, err := json.Marshal(struct {
		Error *Problem `json:"error"`
	}{p})
	if err != nil { // a detail that is not JSON-able: the code and message still go out
		body, _ = json.Marshal(struct {
			Error *Problem `json:"error"`
		}{New(p.Code, p.Message, nil)})
	}
	return body
}

// WriteTo answers a request with the problem: status and Retry-After from the
// table, the error body as JSON. Nothing may have been written before.
func (p *Problem) WriteTo(w http.ResponseWriter) {
	h := w.Header()
	h.Set("Content-Type", "application/json")
	h.Set("Cache-Control", "no-store")
	h.Set("X-Content-Type-Options", "nosniff")
	h.Del("Content-Length")
	h.Del("Content-Encoding")
	h.Del("ETag")
	status := p.Code.Status()
	if status == http.StatusUnauthorized {
		h.Set("WWW-Authenticate", `Bearer realm="tachograph"`)
	}
	if after := p.Code.RetryAfter(); after > 0 {
		h.Set("Retry-After", strconv.Itoa(after))
	}
	w.WriteHeader(status)
	_, _ = w.Write(append(p.Body(), '\n')) // a client that went away needs no answer
}

// Write answers a request with a new problem; see Problem.WriteTo.
func Write(w http.ResponseWriter, code Code, message string, details map[string]any) {
	New(code, message, details).WriteTo(w)
}
