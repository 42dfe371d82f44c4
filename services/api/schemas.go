package api

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"sort"
	"strconv"

	"github.com/tachograph/tachograph/schemas"
	"github.com/tachograph/tachograph/services/api/problem"
)

type schemaSummary struct {
	Name    string         `json:"name"`
	Version uint32         `json:"version"`
	Format  schemas.Format `json:"format"`
	Root    string         `json:"root,omitempty"`
	Table   string         `json:"table"`
}

type schemaDocument struct {
	schemaSummary
	Current bool     `json:"current"`
	Text    string   `json:"text"`
	Columns []column `json:"columns"`
}

type addedSchema struct {
	schemaSummary
	Changed bool     `json:"changed"`
	DryRun  bool     `json:"dry_run"`
	Columns []column `json:"columns"`
}

type column struct {
	Name    string `json:"name"`
	Type    string `json:"type"`
	Comment string `json:"comment,omitempty"`

	Kind        string   `json:"kind,omitempty"`
	Unit        string   `json:"unit,omitempty"`
	Signal      string   `json:"signal,omitempty"`
	Description string   `json:"description,omitempty"`
	Values      []string `json:"values,omitempty"`
}

func summarize(s *schemas.Schema) schemaSummary {
	return schemaSummary{
		Name: s.Name(), Version: s.Version(),
		Format: s.Source().Format, Root: s.Source().Root,
		Table: "tacho." + s.Name(),
	}
}

func columns(s *schemas.Schema) []column {
	list := make([]column, len(s.Columns()))
	for i, c := range s.Columns() {
		list[i] = column{Name: c.Name, Type: c.Type, Comment: c.Comment}
	}
	list[0].Kind, list[len(list)-1].Kind = schemas.Time.String(), schemas.JSON.String()
	for i, f := range s.Fields() { // between time and _unknown
		c := &list[i+1]
		c.Kind, c.Unit, c.Signal, c.Description = f.Kind.String(), f.Unit, f.Signal, f.Description
		for _, number := range slices.Sorted(maps.Keys(f.Enum)) {
			c.Values = append(c.Values, f.Enum[number])
		}
	}
	return list
}

// addSchema registers what the body says: an object that names the schema, or,
// with ?name=, the source itself.
func (a *api) addSchema(w http.ResponseWriter, r *http.Request) error {
	q, err := parseQuery(r, "name", "root", "format", "dry_run")
	if err != nil {
		return err
	}
	dryRun, err := q.flag("dry_run")
	if err != nil {
		return err
	}
	name, src, err := readSource(w, r, q)
	if err != nil {
		return err
	}
	if err := schemas.ValidName(name); err != nil {
		return problem.New(problem.InvalidMessageType, "add schema: "+err.Error(), nil)
	}

	var s *schemas.Schema
	var changed bool
	if dryRun {
		if s, err = a.catalog.Schemas().Check(name, src); err == nil {
			current, exists := a.catalog.Schemas().Current(name)
			changed = !exists || current.Version() != s.Version()
		}
	} else {
		s, changed, err = a.catalog.Add(r.Context(), name, src)
	}
	if err != nil {
		return refusedSchema(name, err)
	}
	status := http.StatusOK
	if changed && !dryRun {
		status = http.StatusCreated
		w.Header().Set("Location", "/v1/schemas/"+s.Name()+"?version="+strconv.FormatUint(uint64(s.Version()), 10))
	}
	return writeJSON(w, status, addedSchema{summarize(s), changed, dryRun, columns(s)})
}

// readSource reads either form of the body.
func readSource(w http.ResponseWriter, r *http.Request, q query) (name string, src schemas.Source, err error) {
	body, err := readBody(w, r, schemaBytes)
	if err != nil {
		return "", src, err
	}
	var format string
	if q.has("name") {
		name, src.Text, src.Root, format = q.text("name"), string(body), q.text("root"), q.text("format")
		if len(bytes.TrimSpace(body)) == 0 {
			return "", src, invalidBody("body is empty, want the text of a schema", nil)
		}
	} else {
		for _, only := range []string{"root", "format"} {
			if q.has(only) {
				return "", src, invalidParameter(only, "goes with name; without it the body says")
			}
		}
		err := decodeObject(body, map[string]*string{"name": &name, "format": &format, "text": &src.Text, "root": &src.Root})
		if err != nil {
			return "", src, err
		}
		for _, needed := range []struct{ field, value string }{{"name", name}, {"text", src.Text}} {
			if needed.value == "" {
				return "", src, invalidBody(fmt.Sprintf("field %q is missing", needed.field), map[string]any{"field": needed.field})
			}
		}
	}
	switch src.Format = schemas.Format(format); src.Format {
	case schemas.FormatProto, schemas.FormatJSONSchema:
	case "":
		src.Format = formatOf(src.Text)
	default:
		return "", src, problem.New(problem.InvalidRequest, fmt.Sprintf("add schema %s: format %q is neither %s nor %s",
			name, format, schemas.FormatProto, schemas.FormatJSONSchema), nil)
	}
	return name, src, nil
}

// formatOf tells a JSON Schema, which is an object or a boolean, from a .proto
// file, which begins with neither.
func formatOf(text string) schemas.Format {
	trimmed := bytes.TrimSpace([]byte(text))
	if bytes.HasPrefix(trimmed, []byte("{")) {
		return schemas.FormatJSONSchema
	}
	return schemas.FormatProto
}

func refusedSchema(name string, err error) error {
	var bad *schemas.InvalidError
	var incompatible *schemas.IncompatibleError
	switch {
	case errors.As(err, &bad):
		details := map[string]any{"name": name}
		if bad.Line > 0 {
			details["line"], details["column"] = bad.Line, bad.Column
		}
		return problem.New(problem.InvalidSchema, "add "+bad.Error(), details)
	case errors.As(err, &incompatible):
		return problem.New(problem.IncompatibleSchema, "add "+incompatible.Error(),
			map[string]any{"name": name, "reasons": incompatible.Reasons})
	}
	return err
}

func (a *api) listSchemas(w http.ResponseWriter, r *http.Request) error {
	q, err := parseQuery(r, "limit", "cursor")
	if err != nil {
		return err
	}
	p, err := q.page()
	if err != nil {
		return err
	}
	all := a.catalog.Schemas().All()
	all = all[sort.Search(len(all), func(i int) bool { return all[i].Name() > p.after }):]
	answer := struct {
		Schemas []schemaSummary `json:"schemas"`
		Next    string          `json:"next,omitempty"`
	}{Schemas: []schemaSummary{}}
	for i, s := range all {
		if i == p.limit {
			answer.Next = cursorAfter(all[i-1].Name())
			break
		}
		answer.Schemas = append(answer.Schemas, summarize(s))
	}
	return writeJSON(w, http.StatusOK, answer)
}

func (a *api) getSchema(w http.ResponseWriter, r *http.Request) error {
	q, err := parseQuery(r, "version")
	if err != nil {
		return err
	}
	name := r.PathValue("name")
	version, err := q.number("version", 0, 1<<31-1)
	if err != nil {
		return err
	}
	current, exists := a.catalog.Schemas().Current(name)
	if !exists {
		return problem.New(problem.SchemaNotFound, fmt.Sprintf("show schema %s: no such schema", url.PathEscape(name)), nil)
	}
	s := current
	if version != 0 {
		if s, exists = a.catalog.Schemas().Version(name, uint32(version)); !exists {
			return problem.New(problem.SchemaNotFound,
				fmt.Sprintf("show schema %s: no version %d, the current one is %d", name, version, current.Version()),
				map[string]any{"current": current.Version()})
		}
	}
	return writeJSON(w, http.StatusOK, schemaDocument{summarize(s), s.Version() == current.Version(), s.Source().Text, columns(s)})
}
