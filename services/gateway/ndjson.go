package gateway

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"sync"

	"github.com/tachograph/tachograph/services/api/problem"
)

// A lineResult is what became of one line, numbered from 1. Kept tells that it is
// stored although it cannot be decoded.
type lineResult struct {
	Line  int              `json:"line"`
	ID    string           `json:"id,omitempty"`
	Kept  bool             `json:"kept,omitempty"`
	Error *problem.Problem `json:"error,omitempty"`
}

// A linesAnswer is the answer to many messages. Results stand in the order of
// the lines; empty lines have none.
type linesAnswer struct {
	Stored      int          `json:"stored"`      // undecodable ones included
	Undecodable int          `json:"undecodable"` // kept all the same
	Refused     int          `json:"refused"`
	Results     []lineResult `json:"results"`
}

// serveLines takes in a body of one message a line. 200: all stored; 207: all
// stored, some of them undecodable; else the status of what went wrong, with the
// same results in details: what is stored need not be sent again.
func (g *Gateway) serveLines(w http.ResponseWriter, r *http.Request, m Message, body io.Reader) *problem.Problem {
	results, failed := g.acceptLines(r.Context(), m, bufio.NewReaderSize(body, 64<<10))
	a := linesAnswer{Results: results}
	for i := range results {
		switch r := &results[i]; {
		case r.Error == nil:
			a.Stored++
		case r.Kept:
			a.Stored++
			a.Undecodable++
		default:
			a.Refused++
			if failed == nil || failed.Code.Status() < r.Error.Code.Status() {
				failed = problem.New(r.Error.Code, fmt.Sprintf("line %d: %s", r.Line, r.Error.Message), nil)
			}
		}
	}
	if failed != nil {
		failed.Details = map[string]any{"stored": a.Stored, "undecodable": a.Undecodable, "refused": a.Refused, "results": results}
		return failed
	}
	status := http.StatusOK
	if a.Undecodable > 0 {
		status = http.StatusMultiStatus
	}
	answer(w, status, a)
	return nil
}

// acceptLines hands lines to Accept as they are read, many on their way at once,
// and returns when each has its outcome. failed tells why it stopped reading.
func (g *Gateway) acceptLines(ctx context.Context, m Message, body *bufio.Reader) (results []lineResult, failed *problem.Problem) {
	var mu sync.Mutex // over results, which grows while outcomes come in
	var wg sync.WaitGroup
	settle := func(i int, err error) {
		mu.Lock()
		defer mu.Unlock()
		if err != nil {
			refusal := refusalOf(err)
			results[i].Kept = refusal.Kept()
			results[i].Error = problem.New(answers[refusal.Reason].http, err.Error(), nil)
			results[i].Error.Hint = "" // a hint a line would be the greater part of the answer
		}
	}
	results = []lineResult{}
	for n := 1; failed == nil; n++ {
		line, err := readLine(body, g.limits.MaxPayload)
		if errors.Is(err, io.EOF) {
			break
		}
		var tooLong *lineTooLongError
		if err != nil && !errors.As(err, &tooLong) {
			failed = bodyProblem(err)
			break
		}
		if tooLong == nil && len(line) == 0 {
			continue
		}
		mu.Lock()
		i := len(results)
		if i == g.limits.MaxLines {
			failed = problem.New(problem.PayloadTooLarge, fmt.Sprintf("body has more than %d lines", g.limits.MaxLines), nil)
			mu.Unlock()
			break
		}
		results = append(results, lineResult{Line: n})
		mu.Unlock()
		if tooLong != nil {
			g.metrics.refuse(HTTP, TooLarge)
			settle(i, &Refusal{TooLarge, tooLong})
			continue
		}
		one := m
		one.Payload = line
		wg.Add(1)
		err = g.Accept(ctx, &one, func(err error) { settle(i, err); wg.Done() })
		if err != nil {
			settle(i, err)
			wg.Done()
			if reason := refusalOf(err).Reason; reason != TooLarge {
				break // rates, a closed log, a client that left: the further lines fare no better
			}
			continue
		}
		mu.Lock()
		results[i].ID = one.ID
		mu.Unlock()
	}
	wg.Wait()
	return results, failed
}

type lineTooLongError struct{ most int }

func (e *lineTooLongError) Error() string {
	return fmt.Sprintf("line is longer than %d bytes", e.most)
}

// readLine returns the next line without its end, in memory of its own. Of a
// line that is too long it keeps nothing and reads to its end. io.EOF comes only
// after the last line.
func readLine(r *bufio.Reader, most int) ([]byte, error) {
	var line []byte
	long := false
	for {
		part, err := r.ReadSlice('\n')
		if !long {
			line = append(line, part...)
			if long = len(bytes.TrimRight(line, "\r\n")) > most; long {
				line = nil
			}
		}
		switch {
		case errors.Is(err, bufio.ErrBufferFull):
			continue
		case errors.Is(err, io.EOF) && (long || len(line) > 0):
		case err != nil:
			return nil, err
		}
		if long {
			return nil, &lineTooLongError{most}
		}
		return bytes.TrimRight(line, "\r\n"), nil
	}
}
