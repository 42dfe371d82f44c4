package node

import (
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"testing"

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
