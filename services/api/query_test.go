package api

import (
	"net/http/httptest"
	"slices"
	"testing"
	"time"

	"github.com/tachograph/tachograph/events"
)

func TestMoment(t *testing.T) {
	at := time.Date(2026, 11, 23, 10, 0, 0, 0, time.UTC)
	for text, want := range map[string]time.Time{
		"2026-11-23T10:00:00Z":             at,
		"2026-11-23T11:00:00%2B01:00":      at,
		"2026-11-23T11:00:00+01:00":        at, // unescaped, as people type it
		"1795428000000":                    at,
		"2026-11-23T10:00:00.000000001Z":   at.Add(1),
		"-1":                               time.UnixMilli(-1).UTC(),
		"":                                 {},
		"yesterday":                        {},
		"2026-11-23":                       {},
		"2026-11-23T10:00:00":              {},
		"99999999999999999999999999999999": {},
	} {
		q, err := parseQuery(httptest.NewRequest("GET", "/?from="+text, nil), "from")
		if err != nil {
			t.Errorf("%s: %v", text, err)
			continue
		}
		got, err := q.moment("from")
		if want.IsZero() != (err != nil) || err == nil && !got.Equal(want) {
			t.Errorf("%s: %v, %v; want %v", text, got, err, want)
		}
	}
}

func TestPosition(t *testing.T) {
	want := events.Position{Epoch: 1, Partition: 2, Seq: 42}
	q, err := parseQuery(httptest.NewRequest("GET", "/?after="+want.String(), nil), "after")
	if err != nil {
		t.Fatal(err)
	}
	if got, err := q.position("after"); err != nil || got != want {
		t.Errorf("got %v, %v", got, err)
	}
	for _, bad := range []string{"", "1", "1.2", "1.2.3.4", "1.2.-3", "1.70000.3", "x.y.z"} {
		q, err := parseQuery(httptest.NewRequest("GET", "/?after="+bad, nil), "after")
		if err != nil {
			t.Fatal(err)
		}
		if got, err := q.position("after"); err == nil {
			t.Errorf("%q: got %v", bad, got)
		}
	}
}

func TestCursor(t *testing.T) {
	for _, name := range []string{"", "car-1", "a b", "\x00\xff", "ä🚗"} {
		q, err := parseQuery(httptest.NewRequest("GET", "/?cursor="+cursorAfter(name), nil), "limit", "cursor")
		if err != nil {
			t.Fatal(err)
		}
		p, err := q.page()
		if err != nil || p.after != name || p.limit != pagePreset {
			t.Errorf("%q: page %+v, %v", name, p, err)
		}
	}
}

// FuzzSelection: no query string gets past parsing with a filter that it does
// not name, and none makes it panic.
func FuzzSelection(f *testing.F) {
	for _, seed := range []string{"device=car-1&from=2026-11-23T10:00:00Z&to=1795428000000&limit=5", "kind=credential", "kind=dead&after=1.512.7",
		"data=base64&message=position", "device=%ff", "from=1&from=2", "limit=-1", "%zz", "a=b;c=d"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, raw string) {
		r := httptest.NewRequest("GET", "/v1/events", nil)
		r.URL.RawQuery = raw
		s, err := parseSelection(r)
		if err != nil {
			return
		}
		if slices.Contains(s.Kinds, events.Credential) || s.limit < 0 {
			t.Fatalf("selection %+v", s)
		}
		if has := r.URL.Query().Has("device"); has != (s.ID != "") {
			t.Fatalf("selection %+v, device given %v", s, has)
		}
	})
}
