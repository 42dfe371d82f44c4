package api

import (
	"context"
	"errors"
	"fmt"
	"mime"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/tachograph/tachograph/events"
	"github.com/tachograph/tachograph/services/api/problem"
)

// openKinds are the kinds that can be read here. Credentials hold hashes of
// tokens and leave the log for nobody.
var openKinds = []events.Kind{
	events.Telemetry, events.Registry, events.SchemaKind, events.Presence,
	events.Shadow, events.Command, events.Job, events.Forgotten, events.DeadLetter, events.Letter,
}

// allKinds, as kind, is every one of them.
const allKinds = "all"

// A selection is what a client asks of the log. Times are arrival times: a
// device's clock decides nothing about what is found.
type selection struct {
	events.Subscription           // kinds, device, type, and where to begin
	from, to            time.Time // arrival
	after               events.Position
	follow              bool
	limit               int // 0 is no limit
	data                payloads
	arrow               bool
}

// kind is the one kind asked for; "" when it is every one.
func (s selection) kind() events.Kind {
	if len(s.Kinds) == 1 {
		return s.Kinds[0]
	}
	return ""
}

// payloads is in which form payloads are wanted.
type payloads string

const (
	asJSON64   payloads = "json"   // JSON as it is, protobuf decoded, else base64
	asBase64   payloads = "base64" // the bytes
	asBothWays payloads = "both"
)

func parseSelection(r *http.Request) (s selection, err error) {
	q, err := parseQuery(r, "device", "kind", "message", "type", "from", "to", "after", "follow", "limit", "data", "format")
	if err != nil {
		return s, err
	}
	if s.Kinds, err = parseKind(q); err != nil {
		return s, err
	}
	if q.has("message") && q.has("type") {
		return s, invalidParameter("type", "and message are the same; give one")
	}
	s.ID, s.Type = q.text("device"), q.text("message")+q.text("type")
	for _, name := range []string{"device", "message", "type"} {
		if q.has(name) && q.text(name) == "" {
			return s, invalidParameter(name, "is empty; leave it out to read all")
		}
	}
	if err := s.parsePlace(q); err != nil {
		return s, err
	}
	if s.limit, err = q.number("limit", 0, 1<<31-1); err != nil {
		return s, err
	}
	switch s.data = payloads(q.text("data")); s.data {
	case "":
		s.data = asJSON64
	case asJSON64, asBase64, asBothWays:
	default:
		return s, invalidParameter("data", fmt.Sprintf("is %q, want json, base64 or both", q.text("data")))
	}
	switch q.text("format") {
	case "":
		s.arrow = acceptsArrow(r)
	case "ndjson":
	case "arrow":
		s.arrow = true
	default:
		return s, invalidParameter("format", fmt.Sprintf("is %q, want ndjson or arrow", q.text("format")))
	}
	return s, nil
}

func parseKind(q query) ([]events.Kind, error) {
	if !q.has("kind") {
		return []events.Kind{events.Telemetry}, nil
	}
	switch kind := events.Kind(q.text("kind")); {
	case kind == allKinds:
		return openKinds, nil
	case kind == events.Credential:
		return nil, problem.New(problem.Forbidden, "read events: credentials can be read by nobody", map[string]any{"kind": kind})
	case !slices.Contains(openKinds, kind):
		return nil, invalidParameter("kind", fmt.Sprintf("is %q, want %s or one of %q", kind, allKinds, openKinds))
	default:
		return []events.Kind{kind}, nil
	}
}

// parsePlace reads where to begin and where to end.
func (s *selection) parsePlace(q query) (err error) {
	if s.follow, err = q.flag("follow"); err != nil {
		return err
	}
	switch text := q.text("from"); {
	case !q.has("from"), text == "beginning":
	case text == "now":
		s.From = events.Now
	default:
		if s.After, err = events.ParseCursors(text); err == nil {
			break
		}
		s.After = nil
		if s.from, err = q.moment("from"); err != nil {
			return invalidParameter("from", fmt.Sprintf("is %q, want beginning, now, an event's token, RFC 3339 or epoch milliseconds", text))
		}
		s.From = events.Since(s.from)
	}
	if s.to, err = q.moment("to"); err != nil {
		return err
	}
	if !s.from.IsZero() && !s.to.IsZero() && s.to.Before(s.from) {
		return invalidParameter("to", "is before from")
	}
	if s.after, err = q.position("after"); err != nil {
		return err
	}
	for _, name := range []string{"to", "after"} {
		if s.follow && q.has(name) {
			return invalidParameter(name, "cannot be followed; begin with from=TOKEN, end with limit or by closing the connection")
		}
	}
	return nil
}

// acceptsArrow tells whether the client names Arrow's stream and not NDJSON.
func acceptsArrow(r *http.Request) bool {
	for part := range strings.SplitSeq(strings.Join(r.Header.Values("Accept"), ","), ",") {
		media, params, err := mime.ParseMediaType(part)
		if err == nil && media == arrowMedia && params["q"] != "0" {
			return true
		}
	}
	return false
}

// start finds where each partition is begun with. What is wrong with it is
// told before the answer begins.
func (s selection) start(ctx context.Context, l events.Log) (events.Cursors, error) {
	at, err := s.Start(ctx, l)
	if errors.Is(err, events.ErrInvalid) {
		return nil, invalidParameter("from", err.Error())
	}
	if err != nil {
		return nil, err
	}
	if err := s.behind(ctx, l, at); err != nil {
		return nil, err
	}
	for p := range at {
		if _, ok := s.After[p]; len(s.After) > 0 && !ok && !s.Follows(l.Layout(), p) {
			return nil, invalidParameter("from", fmt.Sprintf("says nothing of partition %d, which holds some of what is asked for; give the token of the same selection", p))
		}
	}
	return at, nil
}

// behind has a reader that goes on after a position, and names no other place, begin
// there, if the log may have been purged of what comes after it.
func (s selection) behind(ctx context.Context, l events.Log, at events.Cursors) error {
	begin, ok := at[s.after.Partition]
	if s.after.Seq == 0 || !ok {
		return nil
	}
	bounds, err := l.Bounds(ctx, s.after.Partition)
	if err != nil || s.after.Epoch != bounds.Oldest.Epoch || s.after.Seq+1 >= bounds.Oldest.Seq {
		return nil // what is wrong with the log shows when it is read
	}
	c, err := l.Locate(ctx, s.after.Partition, events.After(events.Cursor{Position: s.after}))
	if err == nil && c.Position.Seq > begin.Position.Seq {
		at[s.after.Partition] = c
	}
	return err
}

// matches tells whether an event is asked for. It never ends a read early by
// time: an import's arrival times lie in the past of its neighbours'.
func (s selection) matches(e *events.Event) bool {
	return s.Filter.Matches(e) &&
		(s.from.IsZero() || !e.Received.Before(s.from)) &&
		(s.to.IsZero() || e.Received.Before(s.to)) &&
		newer(e.Position, s.after)
}

func newer(p, than events.Position) bool {
	if p.Partition != than.Partition {
		return p.Partition > than.Partition
	}
	if p.Epoch != than.Epoch {
		return p.Epoch > than.Epoch
	}
	return p.Seq > than.Seq
}
