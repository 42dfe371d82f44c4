package api

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/apache/arrow/go/v15/arrow/ipc"

	"github.com/tachograph/tachograph/projections/columnar/engine"
	"github.com/tachograph/tachograph/projections/columnar/engine/enginetest"
	"github.com/tachograph/tachograph/services/api/problem"
	asking "github.com/tachograph/tachograph/services/query"
)

// withQueries lets the fixture ask a ClickHouse of its own.
func withQueries(limits asking.Limits) func(*fixture, *Config) {
	return func(f *fixture, c *Config) {
		f.asked = enginetest.StartQuery(f.t, f.t.TempDir(), engine.QueryLimits{Memory: 200 << 20})
		f.t.Helper()
		f.own("CREATE DATABASE IF NOT EXISTS tacho")
		user, password := f.asked.Query()
		var err error
		c.Query, err = asking.New(asking.Config{URL: "http://" + f.asked.HTTPAddr(), User: user, Password: password, Limits: limits, Logger: f.logger()})
		if err != nil {
			f.t.Fatal(err)
		}
		f.asks = c.Query
	}
}

// own runs a statement as the owner of the database, past the API.
func (f *fixture) own(sql string) string {
	f.t.Helper()
	req, err := http.NewRequest(http.MethodPost, "http://"+f.asked.HTTPAddr(), strings.NewReader(sql))
	if err != nil {
		f.t.Fatal(err)
	}
	user, password := f.asked.Writer()
	req.Header.Set("X-ClickHouse-User", user)
	req.Header.Set("X-ClickHouse-Key", password)
	req.Close = true
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		f.t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != http.StatusOK {
		f.t.Fatalf("%s: %s %s %v", sql, resp.Status, text, err)
	}
	return strings.TrimSpace(string(text))
}

func (f *fixture) atWork() string {
	return f.own("SELECT count() FROM system.processes WHERE user = 'query' AND query != 'SELECT 1'")
}

func (f *fixture) await(what string, done func() bool) {
	f.t.Helper()
	for deadline := time.Now().Add(30 * time.Second); !done(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			f.t.Fatal("not in time: " + what)
		}
	}
}

const (
	endless   = "SELECT count() FROM numbers(1000000000000000) WHERE NOT ignore(sipHash64(number))"
	talkative = "SELECT number, repeat('x', 100) FROM system.numbers"
)

// askContract provokes every status of /v1/query. Its limits are contractLimits.
func askContract(f *fixture, refused func(call, problem.Code)) {
	f.t.Helper()
	get := func(sql, more string) call {
		return call{method: "GET", path: "/v1/query?sql=" + url.QueryEscape(sql) + more, token: "admin"}
	}
	post := func(sql, more string) call {
		return call{method: "POST", path: "/v1/query?" + more, token: "admin", body: sql}
	}
	for _, ask := range []func(sql, more string) call{get, post} {
		for _, format := range asking.Formats {
			got := f.answered(ask("SELECT 1 AS one, 'x' AS x", "&format="+format.Name), 200, nil)
			if got.header.Get("Content-Type") != format.ContentType || got.header.Get("X-Query-Id") == "" || len(got.body) == 0 {
				f.t.Errorf("%s: %v %q", format.Name, got.header, got.body)
			}
		}
		refused(ask("", ""), problem.InvalidRequest)
		refused(ask("SELECT 1", "&format=xml"), problem.InvalidRequest)
		refused(ask("SELECT 1", "&param_=1"), problem.InvalidRequest)
		refused(ask("SELECT 1", "&max_execution_time=0"), problem.InvalidRequest)
		refused(ask("SELECT 1", "&param_x=1&param_x=2"), problem.InvalidRequest)
		refused(ask("SELECT frm", ""), problem.InvalidQuery)
		refused(ask("SYSTEM SHUTDOWN", ""), problem.QueryForbidden)
		refused(ask("SELECT length(groupArray(number)) FROM numbers(100000000)", ""), problem.QueryLimit)
		refused(ask("SELECT '"+strings.Repeat("x", contractLimits.Length)+"'", ""), problem.PayloadTooLarge)
		picture := ask("SELECT 1", "")
		picture.header = http.Header{"Accept": {"image/png, text/html;q=0.5"}}
		refused(picture, problem.NotAcceptable)
		place, err := f.asks.Ask(f.t.Context(), asking.Statement{Text: talkative, Format: asking.CSV})
		if err != nil {
			f.t.Fatal(err)
		}
		refused(ask("SELECT 1", ""), problem.TooManyRequests)
		place.Close()
	}
	refused(call{method: "POST", path: "/v1/query", token: "admin", body: "SELECT 1", header: http.Header{"Content-Encoding": {"gzip"}}}, problem.UnsupportedMedia)
	var outcome asking.Outcome
	id := f.answered(get("SELECT 1", "&format=tsv"), 200, nil).header.Get("X-Query-Id")
	f.answered(call{method: "GET", path: "/v1/query/" + id, token: "admin"}, 200, &outcome)
	if outcome.State != asking.Whole || outcome.Bytes != 2 || outcome.ID != id {
		f.t.Errorf("%+v", outcome)
	}
	without := newFixture(f.t)
	without.refused(call{method: "GET", path: "/v1/query/x", token: "admin"}, problem.Unavailable)
	without.refused(get("SELECT 1", ""), problem.Unavailable)
	without.refused(post("SELECT 1", ""), problem.Unavailable)
}

var contractLimits = asking.Limits{Length: 3000, AtOnce: 1}

func TestAskNegotiates(t *testing.T) {
	f := newFixture(t, withQueries(asking.Limits{}))
	for accept, want := range map[string]string{
		"": "json", "*/*": "json", "application/json": "json", "text/csv": "csv", "text/*": "csv", "application/vnd.apache.arrow.stream": "arrow",
		"application/vnd.apache.parquet, */*;q=0.1": "parquet", "text/html, application/x-ndjson;q=0.9, text/csv;q=0.8": "ndjson", "text/plain": "table", "text/csv;q=0, */*": "json",
		"nonsense;;;, text/csv": "csv",
	} {
		got := f.do(call{method: "GET", path: "/v1/query?sql=SELECT+1", token: "admin", header: http.Header{"Accept": {accept}}})
		format, _ := asking.FormatOf(want)
		if got.status != 200 || got.header.Get("Content-Type") != format.ContentType || got.header.Get("Vary") != "Accept" {
			t.Errorf("Accept %q: %d %v", accept, got.status, got.header)
		}
	}
	got := f.do(call{method: "GET", path: "/v1/query?sql=SELECT+1&format=csv", token: "admin", header: http.Header{"Accept": {"application/json"}}})
	if string(got.body) != "\"1\"\n1\n" {
		t.Errorf("%s", got.body)
	}
	if head := f.do(call{method: "HEAD", path: "/v1/query?sql=SELECT+nonsense&format=csv", token: "admin"}); head.status != 200 || len(head.body) > 0 {
		t.Errorf("HEAD: %d", head.status)
	}
	car := f.do(call{method: "GET", path: "/v1/query?format=tsv&sql=" + url.QueryEscape("SELECT {device:String} || '!'") + "&param_device=" + url.QueryEscape("o'car\t1"), token: "admin"})
	if string(car.body) != "o\\'car\\t1!\n" {
		t.Errorf("%q", car.body)
	}
	broken := f.refused(call{method: "POST", path: "/v1/query", token: "admin", body: "SELECT 1\nFROM 1", header: http.Header{"Content-Type": {"application/sql"}}}, problem.InvalidQuery)
	if broken.Details["line"] != 2.0 || broken.Details["column"] != 6.0 {
		t.Errorf("%s %v", broken.Message, broken.Details)
	}
}

// TestAskCutOff: half an answer ends in a broken connection, never in a whole
// HTTP answer, and holds nothing but data.
func TestAskCutOff(t *testing.T) {
	f := newFixture(t, withQueries(asking.Limits{Bytes: 60 << 20}))
	for _, sql := range []string{"SELECT number, throwIf(number = 600000) AS t FROM numbers(2000000)", talkative} {
		for _, format := range []string{"json", "ndjson", "csv", "arrow"} {
			resp := f.open(t.Context(), sql, format)
			body, err := io.ReadAll(resp.Body)
			resp.Body.Close()
			if !errors.Is(err, io.ErrUnexpectedEOF) || resp.StatusCode != http.StatusOK || len(body) < 1<<20 {
				t.Errorf("%s: %s, %d bytes, %v", format, resp.Status, len(body), err)
			}
			if tail := string(body[max(0, len(body)-4096):]); strings.Contains(tail, "exception") || strings.Contains(tail, `"error"`) {
				t.Errorf("%s ends in %q", format, tail)
			}
			var outcome asking.Outcome
			f.answered(call{method: "GET", path: "/v1/query/" + resp.Header.Get("X-Query-Id"), token: f.analyst}, 200, &outcome)
			want := problem.InvalidQuery
			if sql == talkative {
				want = problem.QueryLimit
			}
			if outcome.State != asking.Failed || outcome.Error.Code != want || outcome.Bytes < int64(len(body)) {
				t.Errorf("%s: %+v", format, outcome)
			}
			if id := resp.Header.Get("X-Request-Id"); !strings.Contains(f.logged.String(), id) {
				t.Errorf("%s: the log says nothing of %s", format, id)
			}
		}
	}
	resp := f.open(t.Context(), talkative, "arrow")
	defer resp.Body.Close()
	r, err := ipc.NewReader(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Release()
	rows := int64(0)
	for r.Next() {
		rows += r.Record().NumRows()
	}
	if rows < 100_000 || r.Err() == nil {
		t.Errorf("half a stream: %d rows, %v", rows, r.Err())
	}
	if got := f.atWork(); got != "0" {
		t.Errorf("%s at work", got)
	}
	// HTTP/1.0 has no way to tell the two apart.
	conn, err := net.Dial("tcp", strings.TrimPrefix(f.url, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	fmt.Fprintf(conn, "GET /v1/query?sql=SELECT+1 HTTP/1.0\r\nAuthorization: Bearer %s\r\n\r\n", f.admin)
	old, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil || old.StatusCode != http.StatusBadRequest {
		t.Errorf("HTTP/1.0: %v %v", old, err)
	}
}

func (f *fixture) open(ctx context.Context, sql, format string) *http.Response {
	f.t.Helper()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, f.url+"/v1/query?format="+format, strings.NewReader(sql))
	if err != nil {
		f.t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+f.admin)
	resp, err := noRedirects.Do(req)
	if err != nil {
		f.t.Fatal(err)
	}
	return resp
}

// TestAskGone: ClickHouse works for nobody who has gone, whether bytes had come
// already or not.
func TestAskGone(t *testing.T) {
	f := newFixture(t, withQueries(asking.Limits{}))
	for _, sql := range []string{endless, talkative} {
		ctx, gone := context.WithCancel(t.Context())
		ended := make(chan struct{})
		go func() {
			defer close(ended)
			req, err := http.NewRequestWithContext(ctx, http.MethodPost, f.url+"/v1/query", strings.NewReader(sql))
			if err != nil {
				t.Error(err)
				return
			}
			req.Header.Set("Authorization", "Bearer "+f.admin)
			if resp, err := noRedirects.Do(req); err == nil {
				<-ctx.Done() // and nothing is read
				resp.Body.Close()
			}
		}()
		f.await("the statement to run", func() bool { return f.atWork() == "1" })
		began := time.Now()
		gone()
		<-ended
		f.await("it to be ended", func() bool { return f.atWork() == "0" })
		if took := time.Since(began); took > 10*time.Second {
			t.Errorf("%s: ended after %s", sql, took)
		}
	}
}

// TestAskOutlastsReading: an answer may take longer than a request may.
func TestAskOutlastsReading(t *testing.T) {
	f := newFixture(t, withQueries(asking.Limits{}))
	srv := httptest.NewUnstartedServer(f.handler)
	srv.Config = Server(f.handler, f.logger())
	srv.Config.ReadTimeout = 300 * time.Millisecond
	srv.Start()
	defer srv.Close()
	f.url = srv.URL
	for _, method := range []string{"GET", "POST"} {
		c := call{method: method, path: "/v1/query?format=tsv", token: "admin", body: "SELECT sleep(1)"}
		if method == "GET" {
			c.path, c.body = c.path+"&sql=SELECT+sleep(1)", ""
		}
		if got := f.answered(c, 200, nil); string(got.body) != "0\n" {
			t.Errorf("%s: %q", method, got.body)
		}
	}
}
