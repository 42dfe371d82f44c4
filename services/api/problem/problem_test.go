package problem

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"regexp"
	"testing"

	"github.com/tachograph/tachograph/events"
)

func TestTable(t *testing.T) {
	name := regexp.MustCompile(`^[a-z]+(_[a-z]+)*$`)
	n := 0
	for code := range Codes() {
		n++
		if !name.MatchString(string(code)) {
			t.Errorf("%s: not lower_case", code)
		}
		if code.Hint() == "" {
			t.Errorf("%s: no hint", code)
		}
		if http.StatusText(code.Status()) == "" || code.Status() < 400 {
			t.Errorf("%s: status %d", code, code.Status())
		}
		if code.Status() == 503 && code.RetryAfter() == 0 {
			t.Errorf("%s: 503 without Retry-After", code)
		}
	}
	if n < 20 {
		t.Errorf("table has %d codes", n)
	}
	if got := Code("nobody_knows").Status(); got != 500 {
		t.Errorf("unknown code: status %d, want 500", got)
	}
}

func TestWrite(t *testing.T) {
	w := httptest.NewRecorder()
	w.Header().Set("Content-Length", "7")
	w.Header().Set("ETag", `"x"`)
	Write(w, LogFull, "append telemetry/car-1: log is full", map[string]any{"kept": false})
	want := `{"error":{"code":"log_full","message":"append telemetry/car-1: log is full",` +
		`"hint":"free disk space or raise the log's limit; keep the message and send it again","details":{"kept":false}}}` + "\n"
	if got := w.Body.String(); got != want {
		t.Errorf("body\n%s\nwant\n%s", got, want)
	}
	if w.Code != 503 || w.Header().Get("Retry-After") != "30" || w.Header().Get("ETag") != "" || w.Header().Get("Content-Length") != "" {
		t.Errorf("status %d, header %v", w.Code, w.Header())
	}

	w = httptest.NewRecorder()
	Write(w, Unauthenticated, "no token", nil)
	if w.Code != 401 || w.Header().Get("WWW-Authenticate") == "" {
		t.Errorf("status %d, header %v", w.Code, w.Header())
	}
}

func TestBodySurvivesUnmarshalableDetails(t *testing.T) {
	var got struct{ Error Problem }
	body := New(Internal, "x", map[string]any{"f": func() {}}).Body()
	if err := json.Unmarshal(body, &got); err != nil || got.Error.Code != Internal {
		t.Errorf("body %s: %v", body, err)
	}
}

func TestOf(t *testing.T) {
	for _, c := range []struct {
		err  error
		code Code
		ok   bool
	}{
		{fmt.Errorf("add: %w", &events.ConflictError{Actual: 9}), Conflict, true},
		{&events.TruncatedError{}, HistoryTruncated, true},
		{&events.PositionError{}, UnknownPosition, true},
		{fmt.Errorf("x: %w", events.ErrTooLarge), PayloadTooLarge, true},
		{events.ErrFull, LogFull, true},
		{events.ErrUnknown, OutcomeUnknown, true},
		{events.ErrInvalid, InvalidRequest, true},
		{events.ErrClosed, Unavailable, true},
		{events.ErrDiverged, Unavailable, true},
		{context.DeadlineExceeded, Unavailable, true},
		{fmt.Errorf("x: %w", New(DeviceExists, "taken", nil)), DeviceExists, true},
		{errors.New("boom"), Internal, false},
	} {
		p, ok := Of(c.err)
		if p.Code != c.code || ok != c.ok {
			t.Errorf("Of(%v) = %s, %v; want %s, %v", c.err, p.Code, ok, c.code, c.ok)
		}
	}
}
