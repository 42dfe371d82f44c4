package api

import (
	"errors"
	"net/http"
	"slices"
	"time"
	"unicode/utf8"

	"github.com/tachograph/tachograph/events"
	"github.com/tachograph/tachograph/projections/columnar"
	"github.com/tachograph/tachograph/services/api/problem"
	"github.com/tachograph/tachograph/services/letters"
)

// Bounds of one call that does something with dead letters. Each costs a few
// round trips; who has more comes back with next.
const (
	letterPreset = 100
	letterLimit  = 500
	letterTime   = 5 * time.Minute
	noteBytes    = 1024
)

// A letterDoc is a dead letter as this API shows it.
type letterDoc struct {
	Letter     string          `json:"letter"`
	Device     string          `json:"device"`
	Type       string          `json:"type"`
	Event      string          `json:"event"`
	Position   events.Position `json:"position"`
	Sample     uint32          `json:"sample"`
	Schema     uint32          `json:"schema"`
	Reason     string          `json:"reason"`
	Detail     string          `json:"detail"`
	Size       uint64          `json:"size"`
	Received   time.Time       `json:"received"`
	State      string          `json:"state"`
	ReplayedBy uint32          `json:"replayed_by,omitempty"`
	Note       string          `json:"note,omitempty"`
	Text       *string         `json:"text,omitempty"`
	DataBase64 []byte          `json:"data_base64,omitempty"`
}

func letterOf(d columnar.Letter) letterDoc {
	return letterDoc{
		Letter: d.ID.String(), Device: d.Device, Type: d.Message, Event: d.Event, Position: d.ID.Position, Sample: d.ID.Sample, Schema: d.Schema,
		Reason: d.Reason, Detail: d.Detail, Size: d.Size, Received: d.Received.UTC(), State: d.State, ReplayedBy: d.ReplayedBy, Note: d.Note,
	}
}

func (a *api) listLetters(w http.ResponseWriter, r *http.Request) error {
	q, err := parseQuery(r, "device", "type", "reason", "from", "to", "state", "limit", "cursor")
	if err != nil {
		return err
	}
	f, err := letterFilter(q)
	if err != nil {
		return err
	}
	states := []string{columnar.Parked, columnar.OutcomeReplayed, columnar.OutcomeDropped, "all"}
	if f.State = columnar.Parked; q.has("state") {
		if f.State = q.text("state"); !slices.Contains(states, f.State) {
			return invalidParameter("state", "is none of parked, replayed, dropped, all")
		}
	}
	if f.State == "all" {
		f.State = ""
	}
	if f.Limit, err = q.number("limit", pagePreset, pageLimit); err != nil {
		return err
	}
	if err := a.lettersHere(); err != nil {
		return err
	}
	limit := f.Limit
	f.Limit++ // one more tells whether there is a next page
	all, err := a.letters.List(r.Context(), f)
	if err != nil {
		return a.letterProblem(w, r, err)
	}
	answer := struct {
		Letters []letterDoc `json:"dead_letters"`
		Next    string      `json:"next,omitempty"`
	}{Letters: []letterDoc{}}
	for i, d := range all {
		if i == limit {
			answer.Next = cursorAfter(answer.Letters[i-1].Letter)
			break
		}
		answer.Letters = append(answer.Letters, letterOf(d))
	}
	return writeJSON(w, http.StatusOK, answer)
}

// letterFilter reads what selects letters.
func letterFilter(q query) (f columnar.LetterFilter, err error) {
	f.Device, f.Message, f.Reason = q.text("device"), q.text("type"), q.text("reason")
	for _, name := range []string{"device", "type", "reason"} {
		if q.has(name) && q.text(name) == "" {
			return f, invalidParameter(name, "is empty; leave it out to select all")
		}
	}
	if f.From, err = q.moment("from"); err != nil {
		return f, err
	}
	if f.To, err = q.moment("to"); err != nil {
		return f, err
	}
	for name, at := range map[string]time.Time{"from": f.From, "to": f.To} {
		if q.has(name) && (at.Year() < 1970 || at.Year() > 2261) {
			return f, invalidParameter(name, "is a time at which no message can have arrived")
		}
	}
	if !f.From.IsZero() && !f.To.IsZero() && f.To.Before(f.From) {
		return f, invalidParameter("to", "is before from")
	}
	page, err := query{map[string][]string{"cursor": q.values["cursor"]}}.page()
	if q.has("cursor") && err == nil {
		f.After, err = events.ParseLetterID(page.after)
	}
	if q.has("cursor") && err != nil {
		return f, invalidParameter("cursor", "is none of this list")
	}
	return f, nil
}

// getLetter shows one letter with its bytes.
func (a *api) getLetter(w http.ResponseWriter, r *http.Request) error {
	if _, err := parseQuery(r); err != nil {
		return err
	}
	id, err := events.ParseLetterID(r.PathValue("letter"))
	if err != nil {
		return invalid(err.Error())
	}
	if err := a.lettersHere(); err != nil {
		return err
	}
	all, err := a.letters.List(r.Context(), columnar.LetterFilter{ID: id})
	if err != nil {
		return a.letterProblem(w, r, err)
	}
	if len(all) == 0 {
		return noLetter(id)
	}
	doc := letterOf(all[0])
	payload, err := a.letters.Payload(r.Context(), all[0])
	if err != nil {
		return a.letterProblem(w, r, err)
	}
	if utf8.Valid(payload) {
		text := string(payload)
		doc.Text = &text
	} else {
		doc.DataBase64 = payload
	}
	return writeJSON(w, http.StatusOK, doc)
}

// A letterWork is a call that does something with letters.
type letterWork struct {
	filter columnar.LetterFilter
	dry    bool
	note   string
}

func (a *api) replayLetters(w http.ResponseWriter, r *http.Request) error {
	work, err := parseLetterWork(r)
	if err != nil {
		return err
	}
	return a.workOnLetters(w, r, work, func() ([]letters.Result, error) {
		return a.letters.Replay(r.Context(), work.filter, work.dry)
	})
}

func (a *api) dropLetters(w http.ResponseWriter, r *http.Request) error {
	work, err := parseLetterWork(r, "note", "all")
	if err != nil {
		return err
	}
	return a.workOnLetters(w, r, work, func() ([]letters.Result, error) {
		return a.letters.Drop(r.Context(), work.filter, work.note, work.dry)
	})
}

func parseLetterWork(r *http.Request, more ...string) (work letterWork, err error) {
	q, err := parseQuery(r, append(more, "letter", "device", "type", "reason", "from", "to", "limit", "cursor", "dry_run")...)
	if err != nil {
		return work, err
	}
	if work.filter, err = letterFilter(q); err != nil {
		return work, err
	}
	if work.dry, err = q.flag("dry_run"); err != nil {
		return work, err
	}
	if work.filter.Limit, err = q.number("limit", letterPreset, letterLimit); err != nil {
		return work, err
	}
	if work.note = q.text("note"); len(work.note) > noteBytes {
		return work, invalidParameter("note", "is longer than 1024 bytes")
	}
	if q.has("letter") {
		if work.filter.ID, err = events.ParseLetterID(q.text("letter")); err != nil {
			return work, invalidParameter("letter", err.Error())
		}
		return work, nil // whatever its state, which the result tells
	}
	work.filter.State = columnar.Parked
	all, err := q.flag("all")
	if err != nil {
		return work, err
	}
	f := work.filter
	if slices.Contains(more, "all") && !all && f.Device+f.Message+f.Reason == "" && f.From.IsZero() && f.To.IsZero() {
		return work, invalidParameter("all", "is needed to drop every letter there is; or select some by letter, device, type, reason, from or to")
	}
	return work, nil
}

func (a *api) workOnLetters(w http.ResponseWriter, r *http.Request, work letterWork, do func() ([]letters.Result, error)) error {
	if err := a.lettersHere(); err != nil {
		return err
	}
	_ = http.NewResponseController(w).SetWriteDeadline(time.Now().Add(letterTime)) // a recorder has none
	results, err := do()
	if err != nil {
		return a.letterProblem(w, r, err)
	}
	if len(results) == 0 && work.filter.ID != (events.LetterID{}) {
		return noLetter(work.filter.ID)
	}
	answer := struct {
		DryRun  bool                 `json:"dry_run"`
		Counts  map[letters.Code]int `json:"counts"`
		Results []letters.Result     `json:"results"`
		Next    string               `json:"next,omitempty"`
	}{DryRun: work.dry, Counts: map[letters.Code]int{}, Results: results}
	for _, result := range results {
		answer.Counts[result.Outcome]++
	}
	if len(results) == work.filter.Limit {
		answer.Next = cursorAfter(results[len(results)-1].Letter)
	}
	return writeJSON(w, http.StatusOK, answer)
}

func noLetter(id events.LetterID) error {
	return problem.New(problem.LetterNotFound, "dead letter "+id.String()+": no such dead letter", map[string]any{"letter": id.String()})
}

// lettersHere refuses where no tables are.
func (a *api) lettersHere() error {
	if a.letters == nil {
		return problem.New(problem.Unavailable, "dead letters: this process does not run the role project", nil)
	}
	return nil
}

// letterProblem is a ClickHouse that cannot be asked, or the log's refusal.
func (a *api) letterProblem(w http.ResponseWriter, r *http.Request, err error) error {
	if !errors.Is(err, letters.ErrTables) || r.Context().Err() != nil {
		return err
	}
	a.logger.Warn("dead letters cannot be read", "request", w.Header().Get("X-Request-Id"), "error", err)
	return problem.New(problem.Unavailable, letters.ErrTables.Error(), nil)
}
