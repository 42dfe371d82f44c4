package api

import (
	"encoding/base64"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/tachograph/tachograph/events"
	"github.com/tachograph/tachograph/services/api/problem"
)

// A query holds the parameters of a request: each known, each at most once.
// A misspelt filter that is ignored would answer a question nobody asked.
type query struct{ values url.Values }

func parseQuery(r *http.Request, known ...string) (query, error) {
	return parseQueryWith(r, "", known...)
}

// parseQueryWith also knows every parameter that begins with prefix, unless
// that is empty.
func parseQueryWith(r *http.Request, prefix string, known ...string) (query, error) {
	values, err := url.ParseQuery(r.URL.RawQuery)
	if err != nil {
		return query{}, invalid("query: " + err.Error())
	}
	for name, all := range values {
		if !slices.Contains(known, name) && (prefix == "" || len(name) == len(prefix) || !strings.HasPrefix(name, prefix)) {
			return query{}, invalidParameter(name, "unknown parameter")
		}
		if len(all) > 1 {
			return query{}, invalidParameter(name, "stands twice")
		}
		if !utf8.ValidString(all[0]) {
			return query{}, invalidParameter(name, "is not valid UTF-8")
		}
	}
	return query{values}, nil
}

func (q query) text(name string) string { return q.values.Get(name) }

func (q query) has(name string) bool { return q.values.Has(name) }

func (q query) flag(name string) (bool, error) {
	switch q.text(name) {
	case "true", "1":
		return true, nil
	case "false", "0":
		return false, nil
	case "":
		if !q.has(name) {
			return false, nil
		}
	}
	return false, invalidParameter(name, fmt.Sprintf("is %q, want true or false", q.text(name)))
}

// number returns a whole number of at least 1 and at most limit, or preset.
func (q query) number(name string, preset, limit int) (int, error) {
	if !q.has(name) {
		return preset, nil
	}
	n, err := strconv.Atoi(q.text(name))
	if err != nil || n < 1 || n > limit {
		return 0, invalidParameter(name, fmt.Sprintf("is %q, want a number from 1 to %d", q.text(name), limit))
	}
	return n, nil
}

// moment returns a time given as RFC 3339 or as epoch milliseconds.
func (q query) moment(name string) (time.Time, error) {
	if !q.has(name) {
		return time.Time{}, nil
	}
	text := q.text(name)
	if ms, err := strconv.ParseInt(text, 10, 64); err == nil {
		return time.UnixMilli(ms).UTC(), nil
	}
	// An unescaped + of a zone's offset arrives as a space; no RFC 3339 time
	// has one there.
	at, err := time.Parse(time.RFC3339Nano, strings.Replace(text, " ", "+", 1))
	if err != nil {
		return time.Time{}, invalidParameter(name, fmt.Sprintf("is %q, want RFC 3339 or epoch milliseconds", text))
	}
	return at.UTC(), nil
}

// position returns a position as it is written in an event: epoch.partition.seq.
func (q query) position(name string) (p events.Position, err error) {
	if !q.has(name) {
		return p, nil
	}
	bad := invalidParameter(name, fmt.Sprintf("is %q, want epoch.partition.seq", q.text(name)))
	parts := strings.Split(q.text(name), ".")
	if len(parts) != 3 {
		return p, bad
	}
	epoch, err1 := strconv.ParseUint(parts[0], 10, 32)
	partition, err2 := strconv.ParseUint(parts[1], 10, 16)
	seq, err3 := strconv.ParseUint(parts[2], 10, 64)
	if err1 != nil || err2 != nil || err3 != nil {
		return p, bad
	}
	return events.Position{Epoch: uint32(epoch), Partition: uint16(partition), Seq: seq}, nil
}

// A page is how a list is cut. Cursors are opaque to clients: today they hold
// the last item's name, which stays right when items come and go.
type page struct {
	after string
	limit int
}

const (
	pagePreset = 100
	pageLimit  = 1000

	cursorVersion = "1:"
)

func (q query) page() (p page, err error) {
	if p.limit, err = q.number("limit", pagePreset, pageLimit); err != nil {
		return page{}, err
	}
	if !q.has("cursor") {
		return p, nil
	}
	raw, err := base64.RawURLEncoding.DecodeString(q.text("cursor"))
	after, ok := strings.CutPrefix(string(raw), cursorVersion)
	if err != nil || !ok {
		return page{}, invalidParameter("cursor", "is none of this list")
	}
	p.after = after
	return p, nil
}

func cursorAfter(name string) string {
	return base64.RawURLEncoding.EncodeToString([]byte(cursorVersion + name))
}

func invalid(message string) error {
	return problem.New(problem.InvalidRequest, message, nil)
}

func invalidParameter(name, what string) error {
	return problem.New(problem.InvalidRequest, fmt.Sprintf("query: %s: %s", name, what), map[string]any{"parameter": name})
}
