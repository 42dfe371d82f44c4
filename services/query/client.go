package query

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/url"
	"strings"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/tachograph/tachograph/services/api/problem"
)

// Config of a client. Its user must be one that can only read: a profile with
// readonly=1, and grants for what strangers may see.
type Config struct {
	URL            string // http://host:8123
	User, Password string
	Database       string // of names without one; "" is tacho
	TLS            *tls.Config
	Limits         Limits
	Metrics        prometheus.Registerer // nil: none
	Logger         *slog.Logger          // nil: none
}

// A Client asks one server. It is safe for concurrent use.
type Client struct {
	cfg     Config
	http    *http.Client
	places  chan struct{}
	checked atomic.Bool // that the user can only read
	metrics *metrics

	outcomes outcomes
}

// New returns a client; it does not connect yet.
func New(cfg Config) (*Client, error) {
	u, err := url.Parse(cfg.URL)
	if err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
		return nil, errors.New("query ClickHouse: its address is not of the form http://host:8123")
	}
	cfg.URL = u.Scheme + "://" + u.Host + "/"
	if cfg.Database == "" {
		cfg.Database = "tacho"
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	cfg.Limits.complete()
	// No proxy, no redirect that would carry the password elsewhere, and a
	// connection for each statement: the end of one is how the server hears that
	// nobody waits any more.
	return &Client{
		cfg: cfg, places: make(chan struct{}, cfg.Limits.AtOnce), metrics: newMetrics(cfg.Metrics),
		http: &http.Client{
			Transport:     &http.Transport{DisableKeepAlives: true, DisableCompression: true, ReadBufferSize: pieceBytes, TLSClientConfig: cfg.TLS},
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		},
	}, nil
}

// Limits returns what the client holds statements to.
func (c *Client) Limits() Limits { return c.cfg.Limits }

// A Statement is a question. Parameters stand in its text as {name:Type}; their
// values are taken literally, whatever they hold.
type Statement struct {
	Text       string
	Format     Format
	Parameters map[string]string
}

// Ask asks and returns once the answer has begun. The caller closes it.
//
// Errors: a *problem.Problem that says why not, or ctx's error when the asker
// has gone.
func (c *Client) Ask(ctx context.Context, s Statement) (_ *Answer, err error) {
	defer func() {
		if err != nil {
			c.metrics.count(err)
		}
	}()
	if len(s.Text) > c.cfg.Limits.Length {
		return nil, problem.New(problem.PayloadTooLarge, fmt.Sprintf("query: the statement has more than %d bytes", c.cfg.Limits.Length),
			map[string]any{"limit": c.cfg.Limits.Length})
	}
	select {
	case c.places <- struct{}{}:
	default:
		return nil, problem.New(problem.TooManyRequests, fmt.Sprintf("query: %d statements are at work already", c.cfg.Limits.AtOnce),
			map[string]any{"limit": c.cfg.Limits.AtOnce})
	}
	timed, cancel := context.WithTimeout(ctx, c.cfg.Limits.Time)
	a := &Answer{client: c, ID: "tacho-" + rand.Text(), asker: ctx, timed: timed, cancel: cancel, statement: s.Text}
	c.metrics.running.Inc()
	if err := a.begin(s); err != nil {
		a.counted = true
		a.Close()
		return nil, err
	}
	c.outcomes.begin(a.ID)
	return a, nil
}

// begin asks and reads as much of the answer as the first piece holds.
func (a *Answer) begin(s Statement) error {
	c, ctx := a.client, a.timed
	if err := c.checkUser(ctx); err != nil {
		return a.why(err)
	}
	values := url.Values{"query_id": {a.ID}, "database": {c.cfg.Database}, "default_format": {s.Format.ClickHouse}}
	for name, value := range s.Parameters {
		values.Set("param_"+name, escape.Replace(value))
	}
	a.asked = true
	resp, err := c.post(ctx, values, s.Text)
	if err != nil {
		return a.why(err)
	}
	a.body = resp.Body
	if resp.StatusCode != http.StatusOK {
		text, err := io.ReadAll(io.LimitReader(resp.Body, exceptionBytes))
		if err != nil {
			return a.why(err)
		}
		a.whole = true // the server has ended it
		return a.refusal(string(text))
	}
	switch format := resp.Header.Get("X-ClickHouse-Format"); format {
	case s.Format.ClickHouse:
	case "":
		return problem.New(problem.InvalidQuery, "query: the statement has no answer; ask with SELECT, SHOW, DESCRIBE, EXISTS or EXPLAIN", nil)
	default:
		return problem.New(problem.InvalidQuery, "query: the statement asks for FORMAT "+format+"; leave that out and choose with ?format= or Accept", nil)
	}
	tag := resp.Header.Get("X-ClickHouse-Exception-Tag")
	if tag == "" {
		c.cfg.Logger.Error("this ClickHouse does not mark exceptions within answers (X-ClickHouse-Exception-Tag): a newer one is needed to query it", "server", c.cfg.URL)
		return problem.New(problem.Unavailable, "query: this ClickHouse is too old to tell a whole answer from half a one", nil)
	}
	a.marker = []byte("\r\n__exception__\r\n" + tag + "\r\n")
	return a.prime(ctx)
}

// escape writes a value so that ClickHouse reads the same value again.
var escape = strings.NewReplacer("\\", `\\`, "\t", `\t`, "\n", `\n`, "\r", `\r`, "\x00", `\0`, "\b", `\b`, "\f", `\f`)

// post sends a statement. Its error is of the network.
func (c *Client) post(ctx context.Context, values url.Values, text string) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, c.cfg.URL+"?"+values.Encode(), strings.NewReader(text))
	if err != nil {
		return nil, err
	}
	req.Header.Set("X-ClickHouse-User", c.cfg.User)
	req.Header.Set("X-ClickHouse-Key", c.cfg.Password)
	return c.http.Do(req)
}

// checkUser makes sure, once, that the user can only read and that no statement
// can change its settings: what the operator of an existing ClickHouse gave us
// may be anybody.
func (c *Client) checkUser(ctx context.Context) error {
	if c.checked.Load() {
		return nil
	}
	resp, err := c.post(ctx, url.Values{"default_format": {"TSV"}}, "SELECT getSetting('readonly')")
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(io.LimitReader(resp.Body, exceptionBytes))
	if err != nil {
		return err
	}
	switch got := strings.TrimSpace(string(text)); {
	case resp.StatusCode == http.StatusOK && got != "1":
		c.cfg.Logger.Error("the user that queries ClickHouse needs a profile with readonly=1; until then nothing is asked", "user", c.cfg.User, "readonly", got)
		return problem.New(problem.Unavailable, "query: the user that queries ClickHouse is not restricted to reading: its profile needs readonly=1", nil)
	case resp.StatusCode != http.StatusOK:
		c.cfg.Logger.Error("ClickHouse refuses the user that queries it", "user", c.cfg.User, "error", got)
		return problem.New(problem.Unavailable, "query: ClickHouse refuses the user that queries it; the log says why", nil)
	}
	c.checked.Store(true)
	return nil
}

// endTime is how long the end of an abandoned statement is waited for.
const endTime = 20 * time.Second

// end makes sure that a statement nobody waits for is over on the server. The
// server hears of the closed connection itself; asking again under its id
// replaces it (replace_running_query) and returns when it is gone.
func (c *Client) end(id string) {
	ctx, cancel := context.WithTimeout(context.Background(), endTime)
	defer cancel()
	for pause := 10 * time.Millisecond; ; pause = min(2*pause, time.Second) {
		resp, err := c.post(ctx, url.Values{"query_id": {id}}, "SELECT 1")
		if err == nil {
			_, err = io.Copy(io.Discard, resp.Body)
			resp.Body.Close()
			if err == nil && resp.StatusCode == http.StatusOK {
				return
			}
		} else if ctx.Err() == nil {
			return // there is no server, so there is no statement
		}
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			c.cfg.Logger.Warn("an abandoned statement may still be at work", "query", id, "error", err)
			return
		}
	}
}
