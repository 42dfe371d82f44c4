package main

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/tachograph/tachograph/services/query"
)

// SQLCommand is tacho sql.
type SQLCommand struct {
	Place  `embed:""`
	Query  string            `arg:"" optional:"" help:"The query; - or nothing reads it from standard input."`
	Format string            `help:"json, ndjson, csv, tsv, table, parquet or arrow (${sql_formats})." placeholder:"NAME"`
	JSON   bool              `help:"Print one JSON object a row: the format ndjson." name:"json"`
	Param  map[string]string `help:"Value of {NAME:Type} in the query, taken literally; once for each." env:"TACHO_SQL_PARAM" placeholder:"NAME=VALUE" mapsep:"none"`
	Output string            `short:"o" help:"Write the result to a file, whole or not at all." env:"TACHO_SQL_OUTPUT" type:"path" placeholder:"FILE"`
}

// Formats of a result where the user names none: a table for eyes, and what
// cut and awk read for a pipe.
var (
	terminalFormat = query.Table
	pipeFormat     = query.TSV
)

// Run asks ClickHouse through the node, as a user that can only read.
func (c *SQLCommand) Run(ctx context.Context, out *output, in io.Reader) error {
	text := c.Query
	if text == "" || text == "-" {
		read, err := io.ReadAll(in)
		if err != nil {
			return failed(exitUsage, "", "read query: %w", err)
		}
		text = string(read)
	}
	if strings.TrimSpace(text) == "" {
		return failed(exitUsage, `such as: tacho sql "SELECT count() FROM tacho.events"`, "ask clickhouse: the query is empty")
	}
	format, err := c.format(out)
	if err != nil {
		return err
	}
	node, err := c.client()
	if err != nil {
		return err
	}
	node.http.Timeout = 0 // the node has a limit of its own, --query-time
	values := url.Values{"format": {format.Name}}
	for name, value := range c.Param {
		values.Set("param_"+name, value)
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, node.base+"/v1/query?"+values.Encode(), strings.NewReader(text))
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", "application/sql")
	resp, err := node.open(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if c.Output != "" {
		return c.save(ctx, node, resp)
	}
	return pass(ctx, out.w, node, resp, "the result above is not whole")
}

// format is what the user named, or what suits where the result goes.
func (c *SQLCommand) format(out *output) (query.Format, error) {
	terminal := c.Output == "" && out.terminal()
	name := strings.ToLower(c.Format)
	switch {
	case name != "":
	case c.JSON:
		name = query.NDJSON.Name
	case terminal:
		name = terminalFormat.Name
	default:
		name = pipeFormat.Name
	}
	f, ok := query.FormatOf(name)
	if !ok {
		var names []string
		for _, f := range query.Formats {
			names = append(names, f.Name)
		}
		return f, failed(exitUsage, "choose one of "+strings.Join(names, ", "), "ask clickhouse: --format %s is none", c.Format)
	}
	if terminal && slices.Contains([]query.Format{query.Parquet, query.Arrow}, f) {
		return f, failed(exitUsage, "write it to a file with -o FILE, or into a pipe", "ask clickhouse: %s is no text for a terminal", f.Name)
	}
	return f, nil
}

// save writes the result beside the file and puts it in place when it is whole.
func (c *SQLCommand) save(ctx context.Context, node *client, resp *http.Response) error {
	f, err := os.CreateTemp(filepath.Dir(c.Output), "."+filepath.Base(c.Output)+"-*")
	if err != nil {
		return failed(exitFailed, "", "write result: %w", err)
	}
	err = pass(ctx, f, node, resp, c.Output+" was left as it was")
	if closed := f.Close(); err == nil && closed != nil {
		err = failed(exitFailed, "", "write result: %w", closed)
	}
	if err == nil {
		if err = errors.Join(os.Chmod(f.Name(), 0o644), os.Rename(f.Name(), c.Output)); err != nil {
			err = failed(exitFailed, "", "write result: %w", err)
		}
	}
	if err != nil {
		_ = os.Remove(f.Name()) // it is the error that counts
	}
	return err
}

// pass copies a result to its end. One that breaks off is an error: the node
// cuts the connection when ClickHouse fails in the middle, and is asked why.
func pass(ctx context.Context, w io.Writer, node *client, resp *http.Response, broken string) error {
	_, err := io.Copy(w, resp.Body)
	var written *os.PathError
	switch {
	case err == nil:
		return nil
	case ctx.Err() != nil:
		return ctx.Err()
	case errors.As(err, &written):
		return failed(exitFailed, "", "write result: %w", err)
	}
	var outcome query.Outcome
	if _, asked := node.call(ctx, http.MethodGet, pathOf("v1", "query", resp.Header.Get("X-Query-Id")), nil, &outcome); asked == nil && outcome.Error != nil {
		err = outcome.Error
	}
	return failed(exitFailed, broken, "ask clickhouse: the query failed while its result was read: %w", err)
}
