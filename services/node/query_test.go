package node

import (
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/tachograph/tachograph/projections/columnar"
	"github.com/tachograph/tachograph/projections/columnar/engine/enginetest"
)

// ask asks a node's /v1/query, as its administrator, and returns status and answer.
func ask(t *testing.T, n *Node, sql string) string {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "http://"+n.addrs.HTTP+"/v1/query?format=tsv", strings.NewReader(sql))
	if err != nil {
		t.Fatal(err)
	}
	token, err := os.ReadFile(n.cfg.file("admin.token"))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+strings.TrimSpace(string(token)))
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf("%d %s", resp.StatusCode, strings.TrimSpace(string(body)))
}

// TestQuery: a node asks its own ClickHouse with the limits of its flags, and no
// statement leads to the node's files.
func TestQuery(t *testing.T) {
	n := startNode(t, defaults(t, "--query-rows", "10", "--query-memory", "100000000", "--query-time", "7s"))
	publish(t, n, "car-1", 0, 10)
	awaitRows(t, n, "SELECT count() FROM tacho.position", "10")
	for sql, want := range map[string]string{
		"SELECT count() FROM position":                                                                           "200 10",
		"SELECT count() FROM tacho.events WHERE kind = 'credential'":                                             "200 0",
		"SELECT getSetting('max_execution_time'), getSetting('max_memory_usage'), getSetting('max_result_rows')": "200 7\t100000000\t10",
		"SELECT number FROM numbers(11)":                                                                         "422 ",
		"SELECT file('" + n.cfg.file("admin.token") + "')":                                                       "403 ",
		"SELECT file('../admin.token')":                                                                          "403 ",
		"SELECT * FROM system.processes":                                                                         "403 ",
		"SELECT count() FROM tacho.events SETTINGS max_threads = 1000":                                           "403 ",
	} {
		if got := ask(t, n, sql); !strings.HasPrefix(got, want) || strings.HasPrefix(want, "200") && got != want {
			t.Errorf("%s: %s, want %s", sql, got, want)
		}
	}
}

// TestQueryExisting: where ClickHouse is not embedded, it is asked as the user
// that the flag names, by a process that runs the API alone, and by none without it.
func TestQueryExisting(t *testing.T) {
	clickhouse := enginetest.Start(t)
	writer, secret := clickhouse.Writer()
	if err := columnar.Migrate(t.Context(), columnar.Server{URL: "http://" + clickhouse.HTTPAddr(), User: writer, Password: secret}); err != nil {
		t.Fatal(err)
	}
	user, password := clickhouse.Query()
	with := startNode(t, defaults(t, "--role", "api", "--clickhouse-query", fmt.Sprintf("http://%s:%s@%s", user, password, clickhouse.HTTPAddr())))
	if got := ask(t, with, "SELECT count() FROM tacho.events"); got != "200 0" {
		t.Error(got)
	}
	unfit := startNode(t, defaults(t, "--role", "api", "--clickhouse-query", fmt.Sprintf("http://%s:%s@%s", writer, secret, clickhouse.HTTPAddr())))
	without := startNode(t, defaults(t, "--role", "api"))
	for _, n := range []*Node{unfit, without} {
		if got := ask(t, n, "SELECT 1"); !strings.HasPrefix(got, "503 ") || strings.Contains(got, secret) {
			t.Error(got)
		}
	}
}

// TestStopWhileAsked: statements at work, one that says nothing and one that
// never ends, do not hold up a node that stops; their askers hear of it.
func TestStopWhileAsked(t *testing.T) {
	n := startNode(t, defaults(t))
	token, err := os.ReadFile(n.cfg.file("admin.token"))
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 2)
	for _, sql := range []string{"SELECT number FROM system.numbers", "SELECT count() FROM numbers(1000000000000000) WHERE NOT ignore(sipHash64(number))"} {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "http://"+n.addrs.HTTP+"/v1/query", strings.NewReader(sql))
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Authorization", "Bearer "+strings.TrimSpace(string(token)))
		go func() {
			resp, err := http.DefaultClient.Do(req)
			if err == nil {
				_, err = io.Copy(io.Discard, resp.Body)
				resp.Body.Close()
			}
			ended <- err
		}()
	}
	running := func() bool {
		resp, err := http.Get("http://" + n.addrs.HTTP + "/metrics")
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		text, err := io.ReadAll(resp.Body)
		return err == nil && strings.Contains(string(text), "\ntacho_queries_running 2\n")
	}
	for deadline := time.Now().Add(3 * time.Minute); !running(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("the statements do not run")
		}
	}
	began := time.Now()
	stopNode(t, n)
	t.Log("stopped after ", time.Since(began))
	for range 2 {
		if err := <-ended; err == nil {
			t.Error("half an answer looks like a whole one")
		}
	}
}
