package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/tachograph/tachograph/services/api/problem"
)

// A client calls a node's HTTP interface.
type client struct {
	base, token string
	http        *http.Client
	header      http.Header // of every call, beside what it needs; may be nil
	answered    http.Header // of the newest answer that was no refusal
}

func (p *Place) client() (*client, error) {
	base, token, err := p.web()
	if err != nil {
		return nil, err
	}
	if u, err := url.Parse(base); err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
		return nil, failed(exitUsage, "such as http://127.0.0.1:8080", "find node: %q is not the address of an HTTP interface", base)
	}
	return &client{base: base, token: token, http: &http.Client{
		Timeout: time.Minute,
		// A redirect would carry the token to wherever it points.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}, nil
}

// answerBytes is as much of an answer as a command takes in.
const answerBytes = 64 << 20

// do calls and returns the body of a 2xx answer; any other is a fault.
func (c *client) do(ctx context.Context, method, path, contentType string, body []byte) ([]byte, error) {
	req, err := http.NewRequestWithContext(ctx, method, c.base+path, bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	for name, values := range c.header {
		req.Header[name] = values
	}
	if contentType != "" {
		req.Header.Set("Content-Type", contentType)
	}
	resp, err := c.open(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(io.LimitReader(resp.Body, answerBytes))
	if err != nil {
		return nil, unreachable(ctx, c.base, err)
	}
	return answer, nil
}

// open makes a request and returns a 2xx answer, whose body the caller closes;
// any other is a fault.
func (c *client) open(req *http.Request) (*http.Response, error) {
	req.Header.Set("Authorization", "Bearer "+c.token)
	resp, err := c.http.Do(req)
	if err != nil {
		return nil, unreachable(req.Context(), c.base, err)
	}
	if resp.StatusCode/100 == 2 {
		c.answered = resp.Header
		return resp, nil
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(io.LimitReader(resp.Body, answerBytes))
	if err != nil {
		return nil, unreachable(req.Context(), c.base, err)
	}
	var refusal struct{ Error *problem.Problem }
	if json.Unmarshal(answer, &refusal) != nil || refusal.Error == nil || refusal.Error.Code == "" {
		return nil, failed(exitFailed, "is it the address of a Tachograph node?", "call %s: it answered %s", req.URL, resp.Status)
	}
	return nil, refused(refusal.Error)
}

// call sends and receives JSON; in and out may be nil. It returns the answer as
// it came, too.
func (c *client) call(ctx context.Context, method, path string, in, out any) ([]byte, error) {
	var body []byte
	var contentType string
	if in != nil {
		var err error
		if body, err = json.Marshal(in); err != nil {
			return nil, err
		}
		contentType = "application/json"
	}
	answer, err := c.do(ctx, method, path, contentType, body)
	if err != nil || out == nil {
		return answer, err
	}
	if err := json.Unmarshal(answer, out); err != nil {
		return nil, failed(exitFailed, "are tacho and the node of the same version?", "read answer of %s: %w", c.base+path, err)
	}
	return answer, nil
}

func unreachable(ctx context.Context, base string, err error) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	var op *url.Error
	if errors.As(err, &op) {
		err = op.Err
	}
	return failed(exitUnreachable, "is the node running? start one with: tacho serve", "reach node at %s: %w", base, err)
}

// pathOf makes a path of segments that may hold any bytes.
func pathOf(segments ...string) string {
	path := ""
	for _, s := range segments {
		path += "/" + url.PathEscape(s)
	}
	return path
}

// pages calls a list page by page to its end.
func pages[T any](ctx context.Context, c *client, path, field string, each func(T) error) error {
	cursor := ""
	for {
		query := "?limit=1000"
		if strings.Contains(path, "?") {
			query = "&limit=1000"
		}
		if cursor != "" {
			query += "&cursor=" + url.QueryEscape(cursor)
		}
		var page map[string]json.RawMessage
		if _, err := c.call(ctx, http.MethodGet, path+query, nil, &page); err != nil {
			return err
		}
		var items []T
		if err := json.Unmarshal(page[field], &items); err != nil {
			return fmt.Errorf("read list %s: %w", path, err)
		}
		for _, item := range items {
			if err := each(item); err != nil {
				return err
			}
		}
		if len(page["next"]) == 0 {
			return nil
		}
		if err := json.Unmarshal(page["next"], &cursor); err != nil || cursor == "" {
			return fmt.Errorf("read list %s: bad cursor: %w", path, err)
		}
	}
}
