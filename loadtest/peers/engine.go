package peers

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// An Engine is a node's ClickHouse as the writer sees it: it may insert, and
// stop merges.
type Engine struct {
	pid           int
	http, native  string
	password, dir string
}

// Engine is the node's own ClickHouse.
func (t *Tacho) Engine() (*Engine, error) {
	password, err := os.ReadFile(filepath.Join(t.Node.Dir, "clickhouse.writer.password"))
	if err != nil {
		return nil, fmt.Errorf("engine: %w", err)
	}
	pid, err := childOf(t.PID())
	if err != nil {
		return nil, fmt.Errorf("engine: %w", err)
	}
	return &Engine{pid: pid, http: t.Node.ClickHouseHTTP, native: t.Node.ClickHouseNative, password: strings.TrimSpace(string(password)), dir: t.Node.Dir}, nil
}

// childOf is the only process that another one has started.
func childOf(pid int) (int, error) {
	tasks, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", pid))
	if err != nil {
		return 0, err
	}
	for _, file := range tasks { // a child belongs to the thread that started it
		b, err := os.ReadFile(file)
		if err != nil {
			continue // the thread has ended
		}
		if f := strings.Fields(string(b)); len(f) > 0 {
			return strconv.Atoi(f[0])
		}
	}
	return 0, fmt.Errorf("process %d has no child", pid)
}

// PID is the engine's process.
func (e *Engine) PID() int { return e.pid }

const engineUser = "tacho"

// engineClient keeps its connection: a new one for each question would be
// part of what is measured.
var engineClient = &http.Client{Timeout: 5 * time.Minute}

// Exec runs a statement; the body, if any, are an INSERT's rows. It returns the answer.
func (e *Engine) Exec(ctx context.Context, sql string, body []byte) ([]byte, error) {
	q := url.Values{"query": {sql}, "wait_end_of_query": {"1"}, "database": {"tacho"}, "max_insert_block_size": {"1048576"}}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://"+e.http+"/?"+q.Encode(), bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	req.Header.Set("X-ClickHouse-User", engineUser)
	req.Header.Set("X-ClickHouse-Key", e.password)
	resp, err := engineClient.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode != http.StatusOK {
		err = fmt.Errorf("clickhouse: %s", bytes.TrimSpace(answer))
	}
	return answer, err
}

// Count is the answer of a statement that is one number.
func (e *Engine) Count(ctx context.Context, sql string) (int, error) {
	answer, err := e.Exec(ctx, sql, nil)
	if err != nil {
		return 0, err
	}
	return strconv.Atoi(strings.TrimSpace(string(answer)))
}

// Rows is the answer of a statement, its lines cut into columns.
func (e *Engine) Rows(ctx context.Context, sql string) (rows [][]string, err error) {
	answer, err := e.Exec(ctx, sql+" FORMAT TSV", nil)
	for line := range strings.Lines(string(answer)) {
		rows = append(rows, strings.Split(strings.TrimSuffix(line, "\n"), "\t"))
	}
	return rows, err
}
