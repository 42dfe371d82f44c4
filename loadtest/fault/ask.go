package fault

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"time"

	"github.com/tachograph/tachograph/loadtest/fleet"
)

var clusterClient = &http.Client{Timeout: 5 * time.Minute}

// lines asks a ClickHouse as the writer, past the proxy, and passes on each line of
// the answer.
func (e *engine) lines(ctx context.Context, sql string, each func(line []byte) error) error {
	password, err := e.password()
	if err != nil {
		return err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://"+e.host.Node.ClickHouseHTTP+"/", strings.NewReader(sql))
	if err != nil {
		return err
	}
	req.Header.Set("X-ClickHouse-User", e.user)
	req.Header.Set("X-ClickHouse-Key", password)
	return eachLine(req, each)
}

// number asks it for one.
func (e *engine) number(ctx context.Context, sql string) (n int, err error) {
	err = e.lines(ctx, sql, func(line []byte) error { return json.Unmarshal(bytes.Trim(line, `"`), &n) })
	return n, err
}

// lines asks ClickHouse; of several shards the last one, which asks the others.
func (c *Cluster) lines(ctx context.Context, sql string, each func(line []byte) error) error {
	return c.engines[len(c.engines)-1].lines(ctx, sql, each)
}

// number asks ClickHouse for one.
func (c *Cluster) number(ctx context.Context, sql string) (int, error) {
	return c.engines[len(c.engines)-1].number(ctx, sql)
}

// call asks a process's API as the administrator.
func call(ctx context.Context, n *fleet.Node, method, path string, body []byte, each func(line []byte) error) error {
	token, err := os.ReadFile(n.AdminTokenFile)
	if err != nil {
		return err
	}
	req, err := http.NewRequestWithContext(ctx, method, "http://"+n.HTTP+path, bytes.NewReader(body))
	if err != nil {
		return err
	}
	req.Header.Set("Authorization", "Bearer "+strings.TrimSpace(string(token)))
	if body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	return eachLine(req, each)
}

func eachLine(req *http.Request, each func(line []byte) error) error {
	resp, err := clusterClient.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode >= 300 {
		b, _ := io.ReadAll(io.LimitReader(resp.Body, 4096))
		return fmt.Errorf("%s %s: %s: %s", req.Method, req.URL.Path, resp.Status, bytes.TrimSpace(b))
	}
	lines := bufio.NewScanner(resp.Body)
	lines.Buffer(nil, 16<<20)
	for lines.Scan() {
		if each == nil {
			continue
		}
		if err := each(lines.Bytes()); err != nil {
			return fmt.Errorf("%s %s: line %.300q: %w", req.Method, req.URL.Path, lines.Bytes(), err)
		}
	}
	return lines.Err()
}
