package api

import (
	"encoding/json"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"testing"

	"github.com/tachograph/tachograph/services/api/problem"
)

// Both forms of the body, both formats, and what follows from them.
func TestSchemas(t *testing.T) {
	f := newFixture(t)
	form := func(fields map[string]string) string {
		body, err := json.Marshal(fields)
		if err != nil {
			t.Fatal(err)
		}
		return string(body)
	}
	wheel := `{"type":"object","properties":{"speed":{"type":"number"}}}`
	var added addedSchema
	f.answered(call{method: "POST", path: "/v1/schemas?dry_run=true&name=tyre", token: "admin", body: tyre}, 200, &added)
	if !added.Changed || !added.DryRun || added.Version != 1 || added.Table != "tacho.tyre" {
		t.Errorf("dry run %+v", added)
	}
	f.refused(call{method: "GET", path: "/v1/schemas/tyre", token: "admin"}, problem.SchemaNotFound)

	got := f.answered(call{method: "POST", path: "/v1/schemas?name=tyre", token: "admin", body: tyre}, 201, &added)
	if added.Version != 1 || added.DryRun || added.Format != "proto" || got.header.Get("Location") != "/v1/schemas/tyre?version=1" {
		t.Errorf("added %+v at %s", added, got.header.Get("Location"))
	}
	if !slices.ContainsFunc(added.Columns, func(c column) bool { return c.Name == "pressure" && strings.Contains(c.Type, "Float64") }) {
		t.Errorf("columns %+v", added.Columns)
	}
	f.answered(call{method: "POST", path: "/v1/schemas", token: "admin", body: form(map[string]string{"name": "tyre", "format": "proto", "text": tyre})}, 200, &added)
	if added.Changed || added.Version != 1 {
		t.Errorf("the same again %+v", added)
	}
	wider := strings.Replace(tyre, "}", " optional double temperature = 2; }", 1)
	f.answered(call{method: "POST", path: "/v1/schemas", token: "admin", body: form(map[string]string{"name": "tyre", "text": wider})}, 201, &added)
	if added.Version != 2 {
		t.Errorf("wider %+v", added)
	}
	f.answered(call{method: "POST", path: "/v1/schemas?name=wheel", token: "admin", body: wheel}, 201, &added)
	if added.Format != "json-schema" {
		t.Errorf("wheel %+v", added)
	}

	var shown schemaDocument
	f.answered(call{method: "GET", path: "/v1/schemas/tyre", token: "admin"}, 200, &shown)
	if shown.Version != 2 || !shown.Current || shown.Text != wider {
		t.Errorf("current %+v", shown)
	}
	f.answered(call{method: "GET", path: "/v1/schemas/tyre?version=1", token: "admin"}, 200, &shown)
	if shown.Version != 1 || shown.Current || shown.Text != tyre {
		t.Errorf("version 1 %+v", shown)
	}
	p := f.refused(call{method: "GET", path: "/v1/schemas/tyre?version=3", token: "admin"}, problem.SchemaNotFound)
	if p.Details["current"] != float64(2) {
		t.Errorf("details %v", p.Details)
	}

	two := `syntax = "proto3"; message A { int32 x = 1; } message B { int32 y = 1; }`
	f.refused(call{method: "POST", path: "/v1/schemas?name=pair", token: "admin", body: two}, problem.InvalidSchema)
	f.answered(call{method: "POST", path: "/v1/schemas?name=pair&root=B", token: "admin", body: two}, 201, &added)
	if added.Root != "B" {
		t.Errorf("pair %+v", added)
	}
}

func TestSchemaRefusals(t *testing.T) {
	f := newFixture(t)
	f.answered(call{method: "POST", path: "/v1/schemas?name=tyre", token: "admin", body: tyre}, 201, nil)
	p := f.refused(call{method: "POST", path: "/v1/schemas?name=tyre&dry_run=1", token: "admin", body: strings.Replace(tyre, "double", "string", 1)}, problem.IncompatibleSchema)
	if reasons, ok := p.Details["reasons"].([]any); !ok || len(reasons) == 0 {
		t.Errorf("details %v", p.Details)
	}
	p = f.refused(call{method: "POST", path: "/v1/schemas?name=broken", token: "admin", body: "syntax = \"proto3\";\nmessage {"}, problem.InvalidSchema)
	if p.Details["line"] != float64(2) {
		t.Errorf("details %v", p.Details)
	}
	for _, text := range []string{
		`syntax = "proto3"; import "elsewhere.proto"; message A { int32 x = 1; }`,
		`syntax = "proto3"; message A { A a = 1; }`,
		`{"type":"nonsense"}`, `{"$ref":"http://127.0.0.1/x"}`, `{`, "\xff", "nothing",
	} {
		f.refused(call{method: "POST", path: "/v1/schemas?name=bad", token: "admin", body: text}, problem.InvalidSchema)
	}
	for _, name := range []string{"events", "Tyre", "1x", "a-b", "a.b", "ä", strings.Repeat("x", 64), ""} {
		f.refused(call{method: "POST", path: "/v1/schemas?name=" + url.QueryEscape(name), token: "admin", body: tyre}, problem.InvalidMessageType)
	}
	for _, query := range []string{"name=x&format=xml", "root=A", "format=proto", "name=x&dry_run=maybe", "name=x&dry_run="} {
		f.refused(call{method: "POST", path: "/v1/schemas?" + query, token: "admin", body: tyre}, problem.InvalidRequest)
	}
	for _, body := range []string{"", "[]", `{"name":"x"}`, `{"text":"x"}`, `{"name":"x","text":"y","extra":"z"}`, `{"name":"x","name":"y","text":"z"}`} {
		f.refused(call{method: "POST", path: "/v1/schemas", token: "admin", body: body}, problem.InvalidBody)
	}
	f.refused(call{method: "POST", path: "/v1/schemas?name=x", token: "admin", body: " \n"}, problem.InvalidBody)
	for _, query := range []string{"version=0", "version=-1", "version=x", "version=99999999999"} {
		f.refused(call{method: "GET", path: "/v1/schemas/tyre?" + query, token: "admin"}, problem.InvalidRequest)
	}
}

func TestSchemaPages(t *testing.T) {
	f := newFixture(t)
	for i := range 4 {
		f.answered(call{method: "POST", path: fmt.Sprintf("/v1/schemas?name=extra_%d", i), token: "admin", body: tyre}, 201, nil)
	}
	var names []string
	cursor := ""
	for {
		var page struct {
			Schemas []schemaSummary
			Next    string
		}
		f.answered(call{method: "GET", path: "/v1/schemas?limit=2" + cursor, token: "admin"}, 200, &page)
		for _, s := range page.Schemas {
			names = append(names, s.Name)
		}
		if page.Next == "" {
			break
		}
		cursor = "&cursor=" + page.Next
	}
	var want []string
	for _, s := range f.catalog.Schemas().All() {
		want = append(want, s.Name())
	}
	if !slices.Equal(names, want) {
		t.Errorf("got %v, want %v", names, want)
	}
}
