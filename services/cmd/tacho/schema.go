package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"text/tabwriter"
)

// SchemaCommand is tacho schema.
type SchemaCommand struct {
	Add  SchemaAdd  `cmd:"" help:"Register a .proto file or a JSON Schema, or its next version."`
	List SchemaList `cmd:"" help:"List the schemas."`
	Show SchemaShow `cmd:"" help:"Print a schema and its table."`
}

// SchemaAdd is tacho schema add.
type SchemaAdd struct {
	Place
	File   string `arg:"" help:"The file; - reads standard input."`
	Name   string `help:"Name of the message type (the file's name without its ending)." env:"TACHO_SCHEMA_NAME" placeholder:"NAME"`
	Root   string `help:"Message that is the root, when a .proto file has several." env:"TACHO_SCHEMA_ROOT" placeholder:"MESSAGE"`
	DryRun bool   `help:"Check only."`
	JSON   bool   `help:"Print the API's answer." name:"json"`
}

// Run registers the file.
func (c *SchemaAdd) Run(ctx context.Context, out *output, in io.Reader) error {
	text, err := c.read(in)
	if err != nil {
		return err
	}
	name := c.Name
	if name == "" {
		if c.File == "-" {
			return failed(exitUsage, "say --name NAME", "add schema: standard input has no name")
		}
		name = strings.ToLower(filepath.Base(c.File))
		for _, ending := range []string{".proto", ".schema.json", ".json"} {
			name = strings.TrimSuffix(name, ending)
		}
		name = strings.ReplaceAll(name, "-", "_")
	}
	cl, err := c.client()
	if err != nil {
		return err
	}
	body := map[string]string{"name": name, "text": string(text)}
	if c.Root != "" {
		body["root"] = c.Root
	}
	switch {
	case strings.HasSuffix(c.File, ".proto"):
		body["format"] = "proto"
	case strings.HasSuffix(c.File, ".json"):
		body["format"] = "json-schema"
	}
	path := "/v1/schemas"
	if c.DryRun {
		path += "?dry_run=true"
	}
	var added struct {
		Name    string
		Version uint32
		Table   string
		Changed bool
		Columns []struct{ Name, Type string }
	}
	answer, err := cl.call(ctx, http.MethodPost, path, body, &added)
	if err != nil {
		return err
	}
	if c.JSON {
		return out.raw(answer)
	}
	switch {
	case !added.Changed:
		return out.line(fmt.Sprintf("%s is at version %d already; nothing changed", added.Name, added.Version))
	case c.DryRun:
		return out.line(fmt.Sprintf("%s would get version %d: table %s, %d columns", added.Name, added.Version, added.Table, len(added.Columns)))
	default:
		return out.line(fmt.Sprintf("%s has version %d: table %s, %d columns", added.Name, added.Version, added.Table, len(added.Columns)))
	}
}

func (c *SchemaAdd) read(in io.Reader) (text []byte, err error) {
	if c.File == "-" {
		text, err = io.ReadAll(in)
	} else {
		text, err = os.ReadFile(c.File)
	}
	if err != nil {
		return nil, failed(exitUsage, "", "add schema: %w", err)
	}
	return text, nil
}

// SchemaList is tacho schema list.
type SchemaList struct {
	Place
	JSON bool `help:"Print one JSON object a line." name:"json"`
}

// Run lists the current schemas by name.
func (c *SchemaList) Run(ctx context.Context, out *output) error {
	cl, err := c.client()
	if err != nil {
		return err
	}
	if c.JSON {
		return pages(ctx, cl, "/v1/schemas", "schemas", func(s json.RawMessage) error { return out.raw(s) })
	}
	table := tabwriter.NewWriter(out.w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(table, "SCHEMA\tVERSION\tFORMAT\tTABLE")
	type schema struct {
		Name, Format, Table string
		Version             uint32
	}
	if err := pages(ctx, cl, "/v1/schemas", "schemas", func(s schema) error {
		_, err := fmt.Fprintf(table, "%s\t%d\t%s\t%s\n", s.Name, s.Version, s.Format, s.Table)
		return err
	}); err != nil {
		return err
	}
	return table.Flush()
}

// SchemaShow is tacho schema show.
type SchemaShow struct {
	Place
	Name    string `arg:"" help:"Name of the message type."`
	Version uint32 `help:"An older version than the current one." env:"TACHO_SCHEMA_VERSION" placeholder:"N"`
	Columns bool   `help:"Print the table's columns instead of the text."`
	JSON    bool   `help:"Print the API's answer." name:"json"`
}

// Run prints the schema's text, as it was registered, or its columns.
func (c *SchemaShow) Run(ctx context.Context, out *output) error {
	cl, err := c.client()
	if err != nil {
		return err
	}
	path := pathOf("v1", "schemas", c.Name)
	if c.Version != 0 {
		path += "?" + url.Values{"version": {fmt.Sprint(c.Version)}}.Encode()
	}
	var shown struct {
		Name, Table, Text string
		Version           uint32
		Columns           []struct{ Name, Type, Comment string }
	}
	answer, err := cl.call(ctx, http.MethodGet, path, nil, &shown)
	if err != nil {
		return err
	}
	if c.JSON {
		return out.raw(answer)
	}
	if !c.Columns {
		out.note("%s version %d, table %s", shown.Name, shown.Version, shown.Table)
		return out.raw([]byte(shown.Text))
	}
	table := tabwriter.NewWriter(out.w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(table, "COLUMN\tTYPE\tCOMMENT")
	for _, col := range shown.Columns {
		fmt.Fprintf(table, "%s\t%s\t%s\n", col.Name, col.Type, printable(col.Comment))
	}
	return table.Flush()
}
