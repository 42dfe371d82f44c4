package query

import (
	"context"
	"errors"
	"io"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/tachograph/tachograph/projections/columnar/engine"
	"github.com/tachograph/tachograph/services/api/problem"
)

// endless never ends by itself and gives nothing before.
const endless = "SELECT count() FROM numbers(1000000000000000) WHERE NOT ignore(sipHash64(number))"

// talkative gives rows for ever.
const talkative = "SELECT number, repeat('x', 100) FROM system.numbers"

// TestLimits: each limit is told by its name, and no SETTINGS lift it.
func TestLimits(t *testing.T) {
	b := newBench(t, Limits{Bytes: 5000, Length: 2000}, engine.QueryLimits{Rows: 100, Memory: 200 << 20})
	for _, c := range []struct{ limit, sql string }{
		{"rows", "SELECT number FROM numbers(101)"},
		{"rows", "SELECT * FROM (SELECT number FROM numbers(101) SETTINGS max_result_rows = 0)"},
		{"memory", "SELECT length(groupArray(number)) FROM numbers(100000000)"},
		{"memory", "SELECT length(groupArray(number)) FROM (SELECT number FROM numbers(100000000) SETTINGS max_memory_usage = 0)"},
		{"bytes", "SELECT repeat('x', 100) FROM numbers(90)"},
	} {
		if p := b.refused(c.sql, problem.QueryLimit); p.Details["limit"] != c.limit {
			t.Errorf("%s: %s %v, want %s", c.sql, p.Message, p.Details, c.limit)
		}
	}
	b.refused("SELECT '"+strings.Repeat("x", 2000)+"'", problem.PayloadTooLarge)
	if got := b.text(Statement{Text: "SELECT count() FROM (SELECT number FROM numbers(90))", Format: TSV}); got != "90\n" {
		t.Error(got)
	}
	b.idle()
}

// TestTime: the clock runs here and in the server, and neither is stopped by SETTINGS.
func TestTime(t *testing.T) {
	b := newBench(t, Limits{}, engine.QueryLimits{Seconds: 2})
	here := b.connect(Limits{Time: time.Second})
	for _, sql := range []string{
		endless, "SELECT sleep(3)",
		"SELECT count() FROM (SELECT number FROM numbers(1000000000000000) WHERE NOT ignore(sipHash64(number)) SETTINGS max_execution_time = 0)",
	} {
		for _, c := range []*Client{b.client, here} {
			b.client = c
			if p := b.refused(sql, problem.QueryLimit); p.Details["limit"] != "time" {
				t.Errorf("%s: %s %v", sql, p.Message, p.Details)
			}
		}
	}
	b.idle()
}

// TestBytesLater: an answer that grows too large in the middle ends in the same error.
func TestBytesLater(t *testing.T) {
	b := newBench(t, Limits{Bytes: 3 << 20}, engine.QueryLimits{})
	got, err := b.all(Statement{Text: talkative, Format: CSV})
	var p *problem.Problem
	if !errors.As(err, &p) || p.Code != problem.QueryLimit || p.Details["limit"] != "bytes" || len(got) > 3<<20 || len(got) < 2<<20 {
		t.Fatalf("%d bytes, %v", len(got), err)
	}
	b.idle()
}

// TestAtOnce: places are counted, and free again once a statement is over.
func TestAtOnce(t *testing.T) {
	b := newBench(t, Limits{AtOnce: 3}, engine.QueryLimits{AtOnce: 10})
	var open []*Answer
	for range 3 {
		a, err := b.client.Ask(t.Context(), Statement{Text: talkative, Format: CSV})
		if err != nil {
			t.Fatal(err)
		}
		open = append(open, a)
	}
	if p := b.refused("SELECT 1", problem.TooManyRequests); p.Details["limit"] != 3 {
		t.Error(p.Details)
	}
	if got := b.running(); got != "3" {
		t.Errorf("%s at work", got)
	}
	for _, a := range open {
		a.Close()
		a.Close()
	}
	if got := b.running(); got != "0" { // Close waits for it
		t.Errorf("%s at work", got)
	}
	b.text(Statement{Text: "SELECT 1", Format: CSV})

	// The server's own count, where others ask as the same user.
	b.idle()
	other := b.connect(Limits{AtOnce: 20})
	for range 10 {
		a, err := other.Ask(t.Context(), Statement{Text: talkative, Format: CSV})
		if err != nil {
			t.Fatal(err)
		}
		defer a.Close()
	}
	b.refused("SELECT 1", problem.TooManyRequests)
}

// TestGone: a statement whose asker has gone is ended on the server, whether it
// has begun to answer or not, and even where the server does not look after its
// connections.
func TestGone(t *testing.T) {
	b := newBench(t, Limits{}, engine.QueryLimits{})
	for _, sql := range []string{endless, talkative} {
		ctx, gone := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() {
			a, err := b.client.Ask(ctx, Statement{Text: sql, Format: NDJSON})
			for err == nil {
				_, err = a.Next()
			}
			if a != nil {
				a.Close()
			}
			ended <- err
		}()
		b.await("the statement to run", func() bool { return b.running() == "1" })
		began := time.Now()
		gone()
		if err := <-ended; !errors.Is(err, context.Canceled) {
			t.Errorf("%s: %v", sql, err)
		}
		if got := b.running(); got != "0" {
			t.Errorf("%s: %s at work", sql, got)
		}
		if took := time.Since(began); took > 10*time.Second {
			t.Errorf("%s: it was ended after %s", sql, took)
		}
	}
	// Nothing closes this connection; asking again under the id ends it alone.
	ended := make(chan error, 1)
	go func() {
		resp, err := b.client.post(t.Context(), map[string][]string{"query_id": {"tacho-kept"}}, endless)
		if err == nil {
			err = resp.Body.Close()
		}
		ended <- err
	}()
	b.await("the statement to run", func() bool { return b.running() == "1" })
	b.client.end("tacho-kept")
	if got := b.running(); got != "0" {
		t.Errorf("%s at work", got)
	}
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

// TestHalfAnAnswer: what fails in the middle ends in an error, and not a byte of
// the exception is among the data.
func TestHalfAnAnswer(t *testing.T) {
	b := newBench(t, Limits{}, engine.QueryLimits{})
	const late = "SELECT number, throwIf(number = 3000000) FROM numbers(10000000)"
	for _, format := range Formats {
		if format == Table {
			continue // which ends before
		}
		got, err := b.all(Statement{Text: late, Format: format})
		var p *problem.Problem
		if !errors.As(err, &p) || p.Code != problem.InvalidQuery || !strings.Contains(p.Message, "throwIf") {
			t.Errorf("%s: %v", format.Name, err)
		}
		if text := string(got); strings.Contains(text, "__exception__") || strings.Contains(text, "DB::") || len(got) < 1<<20 && format != Parquet { // whose first rows are few bytes
			t.Errorf("%s: %d bytes, ending in %q", format.Name, len(got), text[max(0, len(text)-100):])
		}
	}
	// The server is killed in the middle.
	a, err := b.client.Ask(t.Context(), Statement{Text: talkative, Format: CSV})
	if err != nil {
		t.Fatal(err)
	}
	defer a.Close()
	before := b.engine.PID()
	if err := syscall.Kill(before, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	for err == nil {
		_, err = a.Next()
	}
	var p *problem.Problem
	if !errors.As(err, &p) || p.Code != problem.Unavailable {
		t.Errorf("a killed server: %v", err)
	}
	// Down, it is unavailable; back, it answers.
	p = nil
	if _, err := b.all(Statement{Text: "SELECT 1", Format: TSV}); err != nil && (!errors.As(err, &p) || p.Code != problem.Unavailable) {
		t.Errorf("a server that is down: %v", err)
	}
	b.await("the server to be back", func() bool {
		if b.engine.Down() != nil || b.engine.PID() == before {
			return false
		}
		got, err := b.all(Statement{Text: "SELECT 1", Format: TSV})
		return err == nil && string(got) == "1\n"
	})
}

// TestTrickle: rows that come slowly come as they are made.
func TestTrickle(t *testing.T) {
	b := newBench(t, Limits{}, engine.QueryLimits{})
	a, err := b.client.Ask(t.Context(), Statement{Text: "SELECT number FROM system.numbers WHERE number % 20000000 = 0", Format: TSV})
	if err != nil {
		t.Fatal(err)
	}
	defer a.Close()
	text := ""
	for n := 0; n < 4; n++ {
		piece, err := a.Next()
		if err != nil {
			t.Fatal(err)
		}
		text += string(piece)
	}
	if !strings.HasPrefix(text, "0\n20000000\n40000000\n") || len(text) > 32<<10 {
		t.Errorf("%d bytes: %.100q", len(text), text)
	}
}

// TestDown: nothing listens there.
func TestDown(t *testing.T) {
	c, err := New(Config{URL: "http://127.0.0.1:1", User: "query"})
	if err != nil {
		t.Fatal(err)
	}
	_, err = c.Ask(t.Context(), Statement{Text: "SELECT 1", Format: CSV})
	var p *problem.Problem
	if !errors.As(err, &p) || p.Code != problem.Unavailable || p.Code.RetryAfter() == 0 {
		t.Fatal(err)
	}
}

// TestBounded: an answer of a quarter of a gigabyte passes through a few hundred
// kilobytes, and a reader that pauses makes the server wait.
func TestBounded(t *testing.T) {
	b := newBench(t, Limits{}, engine.QueryLimits{})
	var before, during runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	a, err := b.client.Ask(t.Context(), Statement{Text: "SELECT number, repeat('x', 100) AS x FROM numbers(2500000)", Format: CSV})
	if err != nil {
		t.Fatal(err)
	}
	defer a.Close()
	most, bytes, lines := uint64(0), int64(0), 0
	for n := 0; ; n++ {
		piece, err := a.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		bytes += int64(len(piece))
		lines += strings.Count(string(piece), "\n")
		if n%500 == 0 {
			runtime.GC()
			runtime.ReadMemStats(&during)
			most = max(most, during.HeapAlloc)
		}
		if n == 500 { // what is unread stays in the server, which has limits of its own
			memory := b.write("SELECT max(memory_usage) < 300000000 FROM system.processes WHERE user = 'query'")
			if memory != "1" {
				t.Error("the server keeps the answer in memory")
			}
		}
	}
	if lines != 2_500_001 || bytes < 250<<20 {
		t.Errorf("%d lines, %d bytes", lines, bytes)
	}
	if grown := int64(most) - int64(before.HeapAlloc); grown > 8<<20 {
		t.Errorf("the heap grew by %d bytes", grown)
	} else {
		t.Logf("%d MB passed, the heap grew by %d KB", bytes>>20, grown>>10)
	}
}
