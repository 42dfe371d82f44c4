package api

import (
	"bytes"
	"fmt"
	"mime"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/getkin/kin-openapi/openapi3"
	"github.com/santhosh-tekuri/jsonschema/v6"
)

// document is openapi.yaml, read once for all tests of the package.
type document struct {
	model *openapi3.T
	order []string // its paths, those with the fewest parameters first

	mu       sync.Mutex
	schemas  *jsonschema.Compiler
	compiled map[string]*jsonschema.Schema // by JSON pointer
	seen     map[string]bool               // "GET /v1/devices 200"
}

// documentURL is what the document is called by the schemas that refer to it.
const documentURL = "file:///openapi.json"

var described = sync.OnceValues(func() (*document, error) {
	model, err := openapi3.NewLoader().LoadFromData(description)
	if err != nil {
		return nil, err
	}
	text, err := model.MarshalJSON()
	if err != nil {
		return nil, err
	}
	resource, err := jsonschema.UnmarshalJSON(bytes.NewReader(text))
	if err != nil {
		return nil, err
	}
	d := &document{
		model: model, order: model.Paths.InMatchingOrder(),
		schemas: jsonschema.NewCompiler(), compiled: map[string]*jsonschema.Schema{}, seen: map[string]bool{},
	}
	d.schemas.DefaultDraft(jsonschema.Draft2020) // OpenAPI 3.1, "Schema Object"
	d.schemas.AssertFormat()
	return d, d.schemas.AddResource(documentURL, resource)
})

func openapi(t testing.TB) *document {
	t.Helper()
	d, err := described()
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// pointer is the JSON pointer to a place in the document.
func pointer(steps ...string) string {
	text := ""
	for _, step := range steps {
		text += "/" + strings.NewReplacer("~", "~0", "/", "~1").Replace(step)
	}
	return text
}

var errorSchema = pointer("components", "schemas", "Error")

// conform holds an answer against the document: its status is documented, its
// content type too, and its body fits the schema; a stream line by line.
func conform(t testing.TB, req *http.Request, got reply) {
	t.Helper()
	d := openapi(t)
	pattern := patternOf(d, req)
	if pattern == "" { // no such path or method: the error body is all there is
		d.body(t, req, "error", &got, errorSchema)
		return
	}
	method, path, _ := strings.Cut(pattern, " ")
	d.mu.Lock()
	d.seen[pattern+" "+strconv.Itoa(got.status)] = true
	d.mu.Unlock()

	responses := d.model.Paths.Value(path).GetOperation(method).Responses
	status := strconv.Itoa(got.status)
	if responses.Value(status) == nil {
		status = strconv.Itoa(got.status/100) + "XX"
	}
	if responses.Value(status) == nil && got.status >= 400 {
		status = "default"
	}
	response := responses.Value(status)
	if response == nil {
		t.Errorf("%s: answered %d, which openapi.yaml does not have", pattern, got.status)
		return
	}
	for name, header := range response.Value.Headers {
		if header.Value.Required && got.header.Get(name) == "" {
			t.Errorf("%s %d: no header %s", pattern, got.status, name)
		}
	}
	if len(response.Value.Content) == 0 {
		if len(got.body) > 0 {
			t.Errorf("%s %d: a body, and none is documented: %.80s", pattern, got.status, got.body)
		}
		return
	}
	media, _, err := mime.ParseMediaType(got.header.Get("Content-Type"))
	if _, ok := response.Value.Content[media]; err != nil || !ok {
		t.Errorf("%s %d: content type %q is not documented", pattern, got.status, got.header.Get("Content-Type"))
		return
	}
	where := pointer("paths", path, strings.ToLower(method), "responses", status)
	if response.Ref != "" {
		where = strings.TrimPrefix(response.Ref, "#")
	}
	schema := where + pointer("content", media, "schema")
	switch media {
	case "application/json":
		d.body(t, req, pattern, &got, schema)
	case "application/x-ndjson":
		for line := range bytes.Lines(got.body) {
			if bytes.HasPrefix(line, []byte(`{"error"`)) {
				d.body(t, req, pattern, &reply{body: line}, errorSchema)
				continue
			}
			d.body(t, req, pattern, &reply{body: line}, schema)
		}
	}
}

// body holds a body to the schema that a JSON pointer leads to.
func (d *document) body(t testing.TB, req *http.Request, pattern string, got *reply, pointer string) {
	t.Helper()
	if req.Method == http.MethodHead {
		return
	}
	schema, err := d.schema(pointer)
	if err != nil {
		t.Errorf("%s: %v", pattern, err)
		return
	}
	value, err := jsonschema.UnmarshalJSON(bytes.NewReader(got.body))
	if err == nil {
		err = schema.Validate(value)
	}
	if err != nil {
		t.Errorf("%s: %s %s: body does not fit its schema: %v\n%.400s", pattern, req.Method, req.URL, err, got.body)
	}
}

func (d *document) schema(pointer string) (*jsonschema.Schema, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if schema, ok := d.compiled[pointer]; ok {
		return schema, nil
	}
	schema, err := d.schemas.Compile(documentURL + (&url.URL{Fragment: pointer}).String())
	if err != nil {
		return nil, fmt.Errorf("schema at %s of openapi.yaml: %w", pointer, err)
	}
	d.compiled[pointer] = schema
	return schema, nil
}

// patternOf returns the documented "METHOD /path/{name}" that a request is, or "".
func patternOf(d *document, req *http.Request) string {
	segments := strings.Split(req.URL.EscapedPath(), "/")
	method := req.Method
	if method == http.MethodHead {
		method = http.MethodGet
	}
	for _, path := range d.order {
		if d.model.Paths.Value(path).Operations()[method] == nil {
			continue
		}
		if slices.EqualFunc(strings.Split(path, "/"), segments, func(want, got string) bool {
			return want == got || strings.HasPrefix(want, "{") && got != ""
		}) {
			return method + " " + path
		}
	}
	return ""
}

// openapi.yaml is a valid OpenAPI document, and each of its schemas one of JSON Schema.
func TestDescriptionIsValid(t *testing.T) {
	d := openapi(t)
	if err := d.model.Validate(t.Context()); err != nil {
		t.Error(err)
	}
	for name := range d.model.Components.Schemas {
		if _, err := d.schema(pointer("components", "schemas", name)); err != nil {
			t.Error(err)
		}
	}
}

// Every route is described, and every description is a route.
func TestDescriptionHasEveryRoute(t *testing.T) {
	var described, routed []string
	for path, item := range openapi(t).model.Paths.Map() {
		for method := range item.Operations() {
			described = append(described, method+" "+path)
		}
	}
	a := &api{metrics: newMetrics()}
	for _, r := range a.routes(Config{}) {
		routed = append(routed, r.pattern)
	}
	slices.Sort(described)
	slices.Sort(routed)
	if !slices.Equal(described, routed) {
		t.Errorf("described %q\nrouted    %q", described, routed)
	}
}
