package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/alecthomas/kong"

	"github.com/tachograph/tachograph/events"
	"github.com/tachograph/tachograph/services/api/problem"
	"github.com/tachograph/tachograph/services/archive"
	"github.com/tachograph/tachograph/services/query"
)

// ExportCommand is tacho export.
type ExportCommand struct {
	Place
	Dir    string `arg:"" type:"path" help:"Folder to write to; it must be empty or not there."`
	Device string `help:"Only what this device sent, or what was said of it." env:"TACHO_EXPORT_DEVICE" placeholder:"ID"`
	Type   string `help:"Only events of this type, such as position." env:"TACHO_EXPORT_TYPE" placeholder:"NAME"`
	Kind   string `help:"Only events of this kind: telemetry, registry, shadow, forgotten and so on." env:"TACHO_EXPORT_KIND" placeholder:"KIND"`
	From   string `help:"Only what arrived from then on: RFC 3339." env:"TACHO_EXPORT_FROM" placeholder:"TIME"`
	To     string `help:"Only what arrived before: RFC 3339." env:"TACHO_EXPORT_TO" placeholder:"TIME"`
	Rows   uint64 `help:"Most events a file; with --samples, about as many samples." default:"250000" env:"TACHO_EXPORT_ROWS" placeholder:"N"`

	Samples bool   `help:"Samples in typed columns instead of raw events: the tables of all message types, or of --type. For other programs; import does not take them."`
	By      string `help:"With --samples, whose clock --from and --to mean: arrival or device." enum:"arrival,device" default:"arrival" env:"TACHO_EXPORT_BY" placeholder:"CLOCK"`
}

// Run writes the archive and shows how far it is. Interrupted, it leaves a folder
// that no import takes.
func (c *ExportCommand) Run(ctx context.Context, out *output, parsed *kong.Context, limits choices) error {
	if err := limits.check(parsed.Selected().Flags); err != nil {
		return failed(exitUsage, "tacho export --help", "export: %w", err)
	}
	switch {
	case !c.Samples && c.By == "device":
		return failed(exitUsage, "raw events are found by their arrival; add --samples", "export: --by device goes with --samples")
	case c.Samples && c.Kind != "" && c.Kind != string(events.Telemetry):
		return failed(exitUsage, "", "export: --kind %s has no samples", c.Kind)
	}
	filter := archive.Filter{Device: c.Device, Type: c.Type, Kind: events.Kind(c.Kind)}
	for _, t := range []struct {
		flag, text string
		into       *time.Time
	}{{"from", c.From, &filter.From}, {"to", c.To, &filter.To}} {
		if t.text == "" {
			continue
		}
		at, err := time.Parse(time.RFC3339Nano, t.text)
		if err != nil {
			return failed(exitUsage, "such as 2026-05-01T10:00:00Z", "export: --%s %q is no time", t.flag, t.text)
		}
		*t.into = at.UTC().Truncate(time.Microsecond)
	}
	cl, err := c.client()
	if err != nil {
		return err
	}
	var status logStatus
	if _, err := cl.call(ctx, http.MethodGet, pathOf("v1", "log"), nil, &status); err != nil {
		return err
	}
	cl.http.Timeout = 0 // the node has a limit of its own for each file, --query-time
	export := archive.Export{
		Dir: c.Dir, Filter: filter, Rows: c.Rows, Layout: status.Layout,
		Ask: func(ctx context.Context, sql, format string, parameters map[string]string) (io.ReadCloser, error) {
			return cl.ask(ctx, sql, format, parameters)
		},
	}
	export.Await = map[uint16]uint64{}
	for _, p := range status.Partitions {
		export.Await[p.Partition] = p.Newest.Seq
	}
	began := time.Now()
	export.Progress = func(done, total uint64) { out.note("%s", progressLine("exporting", done, total, began)) }
	if c.Samples {
		return c.samples(ctx, out, cl, export)
	}
	m, err := export.Run(ctx)
	if err != nil {
		return exportFault(ctx, err)
	}
	for _, p := range m.Partitions {
		if err := out.line(fmt.Sprintf("partition %d: %d events up to position %d", p.Partition, p.Count, p.UpTo)); err != nil {
			return err
		}
	}
	return out.line(fmt.Sprintf("%d events in %d files of %s", m.Events(), len(m.Files), c.Dir))
}

func exportFault(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	var known *fault
	if errors.As(err, &known) {
		return failed(known.exit, known.hint, "%w", err)
	}
	return failed(exitFailed, "", "%w", err)
}

// samples exports the tables of message types.
func (c *ExportCommand) samples(ctx context.Context, out *output, cl *client, export archive.Export) error {
	export.Filter.Kind = ""
	names := []string{c.Type}
	if c.Type == "" {
		names = nil
		if err := pages(ctx, cl, "/v1/schemas", "schemas", func(s struct{ Name string }) error {
			names = append(names, s.Name)
			return nil
		}); err != nil {
			return err
		}
	}
	e := archive.SampleExport{Export: export, ByDevice: c.By == "device"}
	for _, name := range names {
		var schema struct {
			Version uint32
			Columns []struct {
				Name, Type, Kind, Unit, Signal, Description string
				Values                                      []string
			}
		}
		if _, err := cl.call(ctx, http.MethodGet, pathOf("v1", "schemas", name), nil, &schema); err != nil {
			return err
		}
		t := archive.Type{Name: name, Version: schema.Version}
		for _, col := range schema.Columns {
			t.Columns = append(t.Columns, archive.Column{Name: col.Name, Type: col.Type, Kind: col.Kind, Unit: col.Unit, Signal: col.Signal, Description: col.Description, Values: col.Values})
		}
		e.Tables = append(e.Tables, t)
	}
	m, err := e.Run(ctx)
	if err != nil {
		return exportFault(ctx, err)
	}
	files := 0
	for _, t := range m.Tables {
		n := uint64(0)
		for _, f := range t.Files {
			n += f.Count
		}
		if files += len(t.Files); n > 0 || c.Type != "" {
			if err := out.line(fmt.Sprintf("%s: %d samples in %d files, %d columns", t.Name, n, len(t.Files), len(t.Columns))); err != nil {
				return err
			}
		}
	}
	return out.line(fmt.Sprintf("%d samples in %d files of %s", m.Samples(), files, c.Dir))
}

// progressLine says how far something is: share, rate, time left.
func progressLine(what string, done, total uint64, began time.Time) string {
	line := fmt.Sprintf("%s %d of %d", what, done, total)
	rate := float64(done) / max(time.Since(began).Seconds(), 1e-3)
	if total > 0 {
		line += fmt.Sprintf(", %d %%", 100*done/total)
	}
	if done < total && rate >= 1 {
		line += fmt.Sprintf(", %.0f/s, %s left", rate, time.Duration(float64(total-done)/rate)*time.Second)
	}
	return line
}

// ask asks ClickHouse through the node. An answer that breaks off ends in an error
// that says why.
func (c *client) ask(ctx context.Context, sql, format string, parameters map[string]string) (io.ReadCloser, error) {
	values := url.Values{"format": {format}}
	for name, value := range parameters {
		values.Set("param_"+name, value)
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, c.base+"/v1/query?"+values.Encode(), strings.NewReader(sql))
	if err != nil {
		return nil, err
	}
	req.Header.Set("Content-Type", "application/sql")
	resp, err := c.open(req)
	var refusal *problem.Problem
	if errors.As(err, &refusal) && refusal.Code == problem.QueryLimit {
		return nil, failed(exitFailed, "a smaller --rows makes smaller files", "%w", refusal)
	}
	if err != nil {
		return nil, err
	}
	return &answered{ReadCloser: resp.Body, ctx: ctx, client: c, id: resp.Header.Get("X-Query-Id")}, nil
}

// answered is the body of an answer of ClickHouse.
type answered struct {
	io.ReadCloser
	ctx    context.Context
	client *client
	id     string
}

func (a *answered) Read(b []byte) (int, error) {
	n, err := a.ReadCloser.Read(b)
	if err == nil || errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) || a.ctx.Err() != nil {
		return n, err
	}
	var outcome query.Outcome
	if _, asked := a.client.call(a.ctx, http.MethodGet, pathOf("v1", "query", a.id), nil, &outcome); asked == nil && outcome.Error != nil {
		err = outcome.Error
	}
	return n, failed(exitFailed, "what is in the folder is no archive: delete it and export again; a smaller --rows makes smaller files", "ask clickhouse: the query failed while its result was read: %w", err)
}
