package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/tachograph/tachograph/events"
	"github.com/tachograph/tachograph/services/api/problem"
)

// How long a node may say nothing, which sends a heartbeat every 15 s, and how
// long to wait before it is asked again.
const (
	tailSilence = 45 * time.Second
	tailPause   = 500 * time.Millisecond
)

// runFrom prints history, then events as they are stored, over HTTP. A
// connection that is lost is made again, exactly after the last event.
func (c *TailCommand) runFrom(ctx context.Context, out *output) error {
	query, err := selectionOf(c.Subject)
	if err != nil {
		return err
	}
	cl, err := c.client()
	if err != nil {
		return err
	}
	t := &tailHistory{TailCommand: c, out: out, query: query, next: c.From, w: bufio.NewWriter(out.w)}
	if t.next == "" {
		t.next = "now"
	}
	for {
		cl.http.Timeout = 0 // it ends with the connection, or with silence
		err := t.follow(ctx, cl)
		if flushed := t.w.Flush(); flushed != nil {
			return fmt.Errorf("tail %s: %w", c.Subject, flushed)
		}
		var ours *fault
		switch {
		case ctx.Err() != nil:
			if t.token != "" {
				out.note("tail: goes on with --from %s", t.token)
			}
			return nil
		case errors.Is(err, errTailed):
			return nil
		case !t.heard, errors.As(err, &ours) && ours.exit != exitUnreachable:
			return err
		case !t.lost:
			out.note("tail: connection lost (%v), going on after the last event", err)
		}
		t.lost = true
		select {
		case <-ctx.Done():
		case <-time.After(tailPause):
		}
		if again, err := c.client(); err == nil { // a node that was started anew may listen elsewhere
			cl = again
		}
	}
}

// errTailed is when as many events came as were asked for.
var errTailed = errors.New("all came that were asked for")

// selectionOf makes of a public subject the parameters of GET /v1/events.
func selectionOf(subject string) (url.Values, error) {
	bad := func() (url.Values, error) {
		return nil, failed(exitUsage, "such as 'tacho.telemetry.car-1.>' or 'tacho.telemetry.*.position'; leave --from out to hear any subject",
			"tail %s: history cannot be asked for by this subject", subject)
	}
	query := url.Values{"kind": {"all"}}
	tokens := strings.Split(subject, ".")[1:]
	rest := len(tokens) > 0 && tokens[len(tokens)-1] == ">"
	if rest {
		tokens = tokens[:len(tokens)-1]
	}
	typed := len(tokens) > 0 && (tokens[0] == string(events.Telemetry) || tokens[0] == string(events.DeadLetter))
	if len(tokens) > 3 || len(tokens) == 3 && !typed || !rest && typed && len(tokens) < 3 {
		return bad()
	}
	for i, name := range []string{"kind", "device", "type"} {
		if i >= len(tokens) || tokens[i] == "*" {
			continue
		}
		text, err := events.Unescape(tokens[i])
		if err != nil || text == "" || strings.ContainsAny(tokens[i], "*>") {
			return bad()
		}
		query.Set(name, text)
	}
	return query, nil
}

// A tailHistory is a tail over HTTP between its connections.
type tailHistory struct {
	*TailCommand
	out     *output
	w       *bufio.Writer
	query   url.Values
	next    string // where the next connection begins
	token   string // of the last event; "" when there was none
	printed uint
	heard   bool // a node has answered
	lost    bool // and the connection to it ended
}

// follow makes one connection and prints what comes over it.
func (t *tailHistory) follow(ctx context.Context, cl *client) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	t.query.Set("follow", "true")
	begin := t.next
	t.query.Set("from", begin)
	if t.Count > 0 {
		t.query.Set("limit", strconv.FormatUint(uint64(t.Count-t.printed), 10))
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, cl.base+"/v1/events?"+t.query.Encode(), nil)
	if err != nil {
		return err
	}
	silence := time.AfterFunc(tailSilence, func() { cancel(fmt.Errorf("nothing came for %s", tailSilence)) })
	defer silence.Stop()
	resp, err := cl.open(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if start := resp.Header.Get("Tacho-Token"); start != "" {
		t.next = start // now must not become a later one
	}
	switch {
	case t.lost:
		t.out.note("tail: connected again")
	case !t.heard:
		t.out.note("tail: listening on %s, from %s", t.Subject, begin)
	}
	t.heard, t.lost = true, false
	lines := bufio.NewReaderSize(resp.Body, 64<<10)
	for {
		line, err := lines.ReadBytes('\n')
		if err != nil {
			if cause := context.Cause(ctx); cause != nil {
				err = cause
			}
			return fmt.Errorf("tail %s: %w", t.Subject, err)
		}
		silence.Reset(tailSilence)
		if err := t.print(line); err != nil {
			return err
		}
		if lines.Buffered() == 0 || t.w.Buffered() > 32<<10 {
			if err := t.w.Flush(); err != nil {
				return failed(exitFailed, "", "tail %s: %w", t.Subject, err)
			}
		}
	}
}

// print prints one line of the answer.
func (t *tailHistory) print(line []byte) error {
	var e struct {
		tailed
		Token     string
		Heartbeat string
		Position  events.Position
		Decoded   json.RawMessage
		Error     *problem.Problem
	}
	if err := json.Unmarshal(line, &e); err != nil {
		return failed(exitFailed, "are tacho and the node of the same version?", "tail %s: %w", t.Subject, err)
	}
	switch {
	case e.Error != nil:
		return refused(e.Error)
	case e.Heartbeat != "":
		return nil
	}
	t.token, t.next = e.Token, e.Token
	if t.JSON {
		_, _ = t.w.Write(line) // Flush reports it
	} else {
		if e.Data == nil {
			e.Data = e.Decoded
		}
		e.Subject = "tacho." + e.Kind
		_, _ = t.w.WriteString(e.line(e.DataBase64) + "\n")
	}
	if t.printed++; t.printed == t.Count {
		return errTailed
	}
	return nil
}
