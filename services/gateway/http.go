package gateway

import (
	"bytes"
	"compress/gzip"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"strings"

	"github.com/tachograph/tachograph/schemas"
	"github.com/tachograph/tachograph/services/api/problem"
)

// MessageIDHeader names a message in HTTP and NATS, as the user property id does
// in MQTT 5.
const MessageIDHeader = "Message-Id"

// TelemetryHandler answers POST /v1/devices/{id}/telemetry/{message}; the paths'
// values are read as http.ServeMux sets them. It authenticates the device by its
// bearer token. The body is one message, or, as application/x-ndjson, one a
// line; it may be compressed with gzip. The answer comes when all of it is
// stored.
//
// One message: 200 {"id":"..."}; 422 with details.kept when it is stored but
// cannot be decoded. Many: see serveLines.
func (g *Gateway) TelemetryHandler() http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if p := g.serveTelemetry(w, r); p != nil {
			p.WriteTo(w)
		}
	})
}

func (g *Gateway) serveTelemetry(w http.ResponseWriter, r *http.Request) *problem.Problem {
	device, typ := r.PathValue("id"), r.PathValue("message")
	if p := g.authorize(r, device); p != nil {
		return p
	}
	if err := schemas.ValidName(typ); err != nil {
		g.metrics.refuse(HTTP, BadType)
		return problem.New(problem.InvalidMessageType, err.Error(), nil)
	}
	lines, p := bodyKind(r)
	if p != nil {
		return p
	}
	body, p := g.openBody(w, r)
	if p != nil {
		return p
	}
	m := Message{Sender: g.Sender(device), Via: HTTP, Type: typ}
	if lines {
		return g.serveLines(w, r, m, body)
	}
	m.ID = r.Header.Get(MessageIDHeader)
	return g.serveMessage(w, r, m, body)
}

// authorize lets pass only the device that the path names.
func (g *Gateway) authorize(r *http.Request, device string) *problem.Problem {
	all := r.Header.Values("Authorization")
	if len(all) != 1 {
		return problem.New(problem.Unauthenticated, "authenticate: there must be one Authorization header", nil)
	}
	scheme, token, _ := strings.Cut(all[0], " ")
	if token = strings.TrimSpace(token); !strings.EqualFold(scheme, "Bearer") || token == "" {
		return problem.New(problem.Unauthenticated, "authenticate: the Authorization header holds no bearer token", nil)
	}
	if g.auth.Authenticate(device, token) {
		return nil
	}
	if _, ok := g.auth.Owner(token); ok {
		g.metrics.refuse(HTTP, ForeignTopic)
		return problem.New(problem.Forbidden, "authenticate: the token belongs to another device than the path", nil)
	}
	return problem.New(problem.Unauthenticated, "authenticate: the token is no device's", nil)
}

// bodyKind tells whether the body is lines. What a message is, JSON or protobuf,
// its schema tells from the bytes.
func bodyKind(r *http.Request) (lines bool, p *problem.Problem) {
	header := r.Header.Get("Content-Type")
	kind, _, err := mime.ParseMediaType(header)
	switch {
	case header == "":
		return false, nil
	case err != nil:
	case kind == "application/x-ndjson", kind == "application/ndjson", kind == "application/jsonl":
		return true, nil
	case kind == "application/json", kind == "application/x-protobuf", kind == "application/protobuf", kind == "application/octet-stream":
		return false, nil
	}
	return false, problem.New(problem.UnsupportedMedia, fmt.Sprintf("content type %.100q: send application/json, application/x-protobuf or application/x-ndjson", header), nil)
}

// openBody bounds the body twice, as it comes over the wire and as it is when
// decompressed, so that a small body cannot become a large one.
func (g *Gateway) openBody(w http.ResponseWriter, r *http.Request) (io.Reader, *problem.Problem) {
	most := int64(g.limits.MaxBody)
	raw := http.MaxBytesReader(w, r.Body, most)
	switch encoding := r.Header.Get("Content-Encoding"); encoding {
	case "", "identity":
		return raw, nil
	case "gzip":
		unzipped, err := gzip.NewReader(raw)
		if err != nil {
			return nil, problem.New(problem.InvalidBody, "read body: "+err.Error(), nil)
		}
		return http.MaxBytesReader(w, unzipped, most), nil
	default:
		return nil, problem.New(problem.UnsupportedMedia, fmt.Sprintf("content encoding %.100q: only gzip is read here", encoding), nil)
	}
}

func (g *Gateway) serveMessage(w http.ResponseWriter, r *http.Request, m Message, body io.Reader) *problem.Problem {
	var buf bytes.Buffer
	if _, err := buf.ReadFrom(io.LimitReader(body, int64(g.limits.MaxPayload)+1)); err != nil {
		return bodyProblem(err)
	}
	m.Payload = buf.Bytes()
	done := make(chan error, 1)
	err := g.Accept(r.Context(), &m, func(err error) { done <- err })
	if err == nil {
		err = <-done
	}
	if err != nil {
		refusal := refusalOf(err)
		p := refusal.Problem()
		if refusal.Kept() {
			p.Details["id"] = m.ID
		}
		return p
	}
	answer(w, http.StatusOK, struct {
		ID string `json:"id"`
	}{m.ID})
	return nil
}

func bodyProblem(err error) *problem.Problem {
	var tooLarge *http.MaxBytesError
	if errors.As(err, &tooLarge) {
		return problem.New(problem.PayloadTooLarge, fmt.Sprintf("body is larger than %d bytes", tooLarge.Limit), nil)
	}
	return problem.New(problem.InvalidBody, "read body: "+err.Error(), nil)
}

func answer(w http.ResponseWriter, status int, body any) {
	b, err := json.Marshal(body)
	if err != nil {
		problem.Write(w, problem.Internal, err.Error(), nil)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	_, _ = w.Write(append(b, '\n')) // a client that went away needs no answer
}
