package api

import (
	"time"

	"github.com/tachograph/tachograph/events"
	"github.com/tachograph/tachograph/services/api/problem"
)

// ndjson is one line for each event; DESIGN.md, "Events as NDJSON", is its
// specification.
type ndjson struct{ eventEncoder }

func (f *ndjson) media() string { return "application/x-ndjson" }

func (f *ndjson) event(e *events.Event, at events.Cursors) ([]byte, error) {
	return f.encode(e, at), nil
}

func (f *ndjson) beat(at events.Cursors) ([]byte, error) {
	b := append(f.line[:0], `{"heartbeat":"`...)
	b = time.Now().UTC().AppendFormat(b, time.RFC3339Nano)
	b = append(b, `","token":"`...)
	b = append(at.AppendToken(b), "\"}\n"...)
	f.line = b
	return b, nil
}

func (f *ndjson) pending() ([]byte, error) { return nil, nil }

func (f *ndjson) end() ([]byte, error) { return nil, nil }

func (f *ndjson) fail(p *problem.Problem) []byte { return append(p.Body(), '\n') }
