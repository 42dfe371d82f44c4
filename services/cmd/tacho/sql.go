package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
)

// SQLCommand is tacho sql.
type SQLCommand struct {
	Data   string `help:"Data folder of the running node." default:"data" type:"path" placeholder:"DIR"`
	Query  string `arg:"" optional:"" help:"The query; - or nothing reads it from standard input."`
	Format string `help:"ClickHouse format of the result (${sql_formats})." placeholder:"NAME"`
	JSON   bool   `help:"Print one JSON object a row: the format JSONEachRow." name:"json"`
}

// Formats of a result where the user names none: a table for eyes, and what
// clickhouse-client gives a pipe.
const (
	terminalFormat = "PrettyCompactMonoBlock"
	pipeFormat     = "TabSeparated"
)

// Run asks ClickHouse as the read-only analyst.
func (c *SQLCommand) Run(ctx context.Context, out *output, in io.Reader) error {
	query := c.Query
	if query == "" || query == "-" {
		text, err := io.ReadAll(in)
		if err != nil {
			return failed(exitUsage, "", "read query: %w", err)
		}
		query = string(text)
	}
	if strings.TrimSpace(query) == "" {
		return failed(exitUsage, `such as: tacho sql "SELECT count() FROM tacho.events"`, "ask clickhouse: the query is empty")
	}
	place := Place{Data: c.Data}
	a, err := place.addresses()
	if err != nil {
		return err
	}
	if a.ClickHouseHTTP == "" {
		return failed(exitUnreachable, "ask the ClickHouse server that the node writes to", "ask clickhouse: the node of %s has no HTTP address of it", c.Data)
	}
	if a.ClickHouseUser == "" {
		return failed(exitUnreachable, "ask that server as a user of your own",
			"ask clickhouse: the node of %s writes to the server at %s, where it has no analyst", c.Data, a.ClickHouseHTTP)
	}
	password, err := place.secret("password of the analyst", a.ClickHousePasswordFile)
	if err != nil {
		return err
	}
	format := c.Format
	switch {
	case format != "":
	case c.JSON:
		format = "JSONEachRow"
	case out.terminal():
		format = terminalFormat
	default:
		format = pipeFormat
	}
	values := url.Values{"database": {"tacho"}, "default_format": {format}}
	address := withScheme(a.ClickHouseHTTP, "http")
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, address+"/?"+values.Encode(), strings.NewReader(query))
	if err != nil {
		return err
	}
	req.Header.Set("X-ClickHouse-User", a.ClickHouseUser)
	req.Header.Set("X-ClickHouse-Key", password)
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		return failed(exitUnreachable, "is the node running? see /readyz", "reach clickhouse at %s: %w", address, err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		text, _ := io.ReadAll(io.LimitReader(resp.Body, 64<<10)) // what came of it is what can be told
		exit := exitFailed
		if resp.StatusCode == http.StatusUnauthorized || resp.StatusCode == http.StatusForbidden {
			exit = exitDenied
		}
		return failed(exit, "", "ask clickhouse: %s", exception(text, resp))
	}
	var tail tailWriter
	if _, err := io.Copy(io.MultiWriter(out.w, &tail), resp.Body); err != nil {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		return failed(exitFailed, "the result above is not whole", "ask clickhouse: read result: %w", err)
	}
	if tag := resp.Header.Get("X-ClickHouse-Exception-Tag"); tag != "" && bytes.Contains(tail.last, []byte("__exception__\r\n"+tag)) {
		return failed(exitFailed, "the result above is not whole", "ask clickhouse: the query failed while its result was read")
	}
	return nil
}

func exception(text []byte, resp *http.Response) string {
	message := strings.TrimSpace(string(text))
	if message == "" {
		return fmt.Sprintf("it answered %s", resp.Status)
	}
	return message
}

// A tailWriter keeps the end of what was written: there ClickHouse says that a
// result which began well has ended badly.
type tailWriter struct{ last []byte }

const tailBytes = 32 << 10

func (t *tailWriter) Write(p []byte) (int, error) {
	if len(p) >= tailBytes {
		t.last = append(t.last[:0], p[len(p)-tailBytes:]...)
		return len(p), nil
	}
	if over := len(t.last) + len(p) - tailBytes; over > 0 {
		t.last = append(t.last[:0], t.last[over:]...)
	}
	t.last = append(t.last, p...)
	return len(p), nil
}
