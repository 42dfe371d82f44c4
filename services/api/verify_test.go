package api

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/tachograph/tachograph/projections/columnar"
	"github.com/tachograph/tachograph/services/api/problem"
)

// reportOf is the last line of an answer, after lines of progress.
func reportOf(t testing.TB, answer []byte) (r columnar.AuditReport) {
	t.Helper()
	lines := bytes.Split(bytes.TrimSpace(answer), []byte("\n"))
	var last verifyLine
	if err := json.Unmarshal(lines[len(lines)-1], &last); err != nil || last.Report == nil || len(lines) < 2 {
		t.Fatalf("%v: %s", err, answer)
	}
	return *last.Report
}

// verifyContract is TestContract's part about verify: its ClickHouse has nothing
// of the log yet, then one row that nobody sent.
func verifyContract(f *fixture, refused func(call, problem.Code)) {
	f.t.Helper()
	verify := func(query string) call {
		return call{method: "POST", path: "/v1/verify" + query, token: "admin"}
	}
	refused(verify("?limit=0"), problem.InvalidRequest)
	refused(verify("?limit=10001"), problem.InvalidRequest)
	if r := reportOf(f.t, f.answered(verify(""), 200, nil).body); !r.Equal() {
		f.t.Errorf("%+v", r)
	}
	entered, release := make(chan struct{}), make(chan struct{})
	f.hold.Store(&holding{entered, release})
	first := make(chan reply, 1)
	go func() { first <- f.do(verify("")) }()
	select {
	case <-entered:
	case <-time.After(30 * time.Second):
		f.t.Fatal("the first does not read")
	}
	refused(verify(""), problem.TooManyRequests)
	f.hold.Store(nil)
	close(release)
	if r := reportOf(f.t, (<-first).body); !r.Equal() {
		f.t.Errorf("%+v", r)
	}
	conn, err := f.server.Open()
	if err == nil {
		err = conn.Exec(f.t.Context(), "INSERT INTO tacho.events (device, message, received, _epoch, _partition, _seq) VALUES ('nobody', 'lies', now64(6), 1, 7, 1)")
	}
	if err != nil {
		f.t.Fatal(err)
	}
	defer conn.Close()
	r := reportOf(f.t, f.answered(verify("?limit=5"), 200, nil).body)
	if r.Total != 1 || len(r.Differences) != 1 || r.Differences[0].Kind != columnar.ForeignRow || r.Differences[0].Place() != "1.7.1" {
		f.t.Errorf("%+v", r)
	}
	if err := conn.Exec(context.Background(), "DROP TABLE tacho.checkpoints"); err != nil {
		f.t.Fatal(err)
	}
	if got := f.answered(verify(""), 200, nil); !strings.Contains(string(got.body), `"unavailable"`) || !strings.Contains(string(got.body), "checkpoints") {
		f.t.Errorf("%s", got.body)
	}
	if err := columnar.Migrate(context.Background(), f.server); err != nil {
		f.t.Fatal(err)
	}
}

// TestVerifyElsewhere: a process without projections says so.
func TestVerifyElsewhere(t *testing.T) {
	f := newFixture(t)
	f.refused(call{method: "POST", path: "/v1/verify", token: "admin"}, problem.Unavailable)
}

// TestVerifyGone: who goes away ends the audit, and the next one may begin.
func TestVerifyGone(t *testing.T) {
	f := newFixture(t, withReplays(nil))
	entered, release := make(chan struct{}), make(chan struct{})
	f.hold.Store(&holding{entered, release})
	ctx, leave := context.WithCancel(t.Context())
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, f.url+"/v1/verify", nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+f.admin)
	left := make(chan struct{})
	go func() {
		defer close(left)
		resp, err := http.DefaultClient.Do(req)
		if err == nil {
			_, _ = io.Copy(io.Discard, resp.Body)
			resp.Body.Close()
		}
	}()
	select {
	case <-entered:
	case <-time.After(30 * time.Second):
		t.Fatal("it does not read")
	}
	f.hold.Store(nil)
	leave()
	<-left
	close(release)
	for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		got := f.do(call{method: "POST", path: "/v1/verify", token: "admin"})
		if got.status == http.StatusOK {
			if r := reportOf(t, got.body); !r.Equal() {
				t.Errorf("%+v", r)
			}
			return
		}
		if got.status != http.StatusTooManyRequests || time.Now().After(deadline) {
			t.Fatalf("%d %s", got.status, got.body)
		}
	}
}
