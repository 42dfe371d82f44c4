package api

import (
	"bytes"
	"io"
	"log/slog"
	"mime"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/pb33f/libopenapi"
	validator "github.com/pb33f/libopenapi-validator"
	"github.com/pb33f/libopenapi-validator/config"
	"github.com/pb33f/libopenapi-validator/errors"
	"github.com/pb33f/libopenapi-validator/schema_validation"
	"github.com/pb33f/libopenapi/datamodel/high/base"
	v3 "github.com/pb33f/libopenapi/datamodel/high/v3"
)

// document is openapi.yaml, read once for all tests of the package.
type document struct {
	model *v3.Document
	whole validator.Validator
	lines schema_validation.SchemaValidator
	quiet *slog.Logger

	mu   sync.Mutex
	seen map[string]bool // "GET /v1/devices 200"
}

var described = sync.OnceValues(func() (*document, error) {
	quiet := slog.New(slog.NewTextHandler(io.Discard, nil))
	parsed, err := libopenapi.NewDocument(description)
	if err != nil {
		return nil, err
	}
	model, err := parsed.BuildV3Model()
	if err != nil {
		return nil, err
	}
	whole, errs := validator.NewValidator(parsed, config.WithFormatAssertions(), config.WithLogger(quiet))
	if len(errs) > 0 {
		return nil, errs[0]
	}
	return &document{
		model: &model.Model, whole: whole, quiet: quiet, seen: map[string]bool{},
		lines: schema_validation.NewSchemaValidatorWithLogger(quiet, config.WithFormatAssertions()),
	}, nil
})

func openapi(t testing.TB) *document {
	t.Helper()
	d, err := described()
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// conform holds an answer against the document: its status is documented, its
// content type too, and its body fits the schema; a stream line by line.
func conform(t testing.TB, req *http.Request, got reply) {
	t.Helper()
	d := openapi(t)
	pattern := patternOf(d, req)
	if pattern == "" { // no such path or method: the error body is all there is
		d.body(t, req, "error", &got, d.component("Error"))
		return
	}
	method, path, _ := strings.Cut(pattern, " ")
	d.mu.Lock()
	d.seen[pattern+" "+strconv.Itoa(got.status)] = true
	d.mu.Unlock()

	responses := operations(d.model.Paths.PathItems.GetOrZero(path))[method].Responses
	response, ok := responses.Codes.Get(strconv.Itoa(got.status))
	if !ok {
		response, ok = responses.Codes.Get(strconv.Itoa(got.status/100) + "XX")
	}
	if !ok && got.status >= 400 {
		response, ok = responses.Default, responses.Default != nil
	}
	if !ok {
		t.Errorf("%s: answered %d, which openapi.yaml does not have", pattern, got.status)
		return
	}
	if response.Headers != nil {
		for name, header := range response.Headers.FromOldest() {
			if header.Required && got.header.Get(name) == "" {
				t.Errorf("%s %d: no header %s", pattern, got.status, name)
			}
		}
	}
	if response.Content == nil || response.Content.Len() == 0 {
		if len(got.body) > 0 {
			t.Errorf("%s %d: a body, and none is documented: %.80s", pattern, got.status, got.body)
		}
		return
	}
	media, _, err := mime.ParseMediaType(got.header.Get("Content-Type"))
	content, ok := response.Content.Get(media)
	if err != nil || !ok {
		t.Errorf("%s %d: content type %q is not documented", pattern, got.status, got.header.Get("Content-Type"))
		return
	}
	switch media {
	case "application/json":
		d.body(t, req, pattern, &got, content.Schema.Schema())
	case "application/x-ndjson":
		for line := range bytes.Lines(got.body) {
			if bytes.HasPrefix(line, []byte(`{"error"`)) {
				d.body(t, req, pattern, &reply{body: line}, d.component("Error"))
				continue
			}
			d.body(t, req, pattern, &reply{body: line}, content.Schema.Schema())
		}
	}
}

func (d *document) component(name string) *base.Schema {
	return d.model.Components.Schemas.GetOrZero(name).Schema()
}

func (d *document) body(t testing.TB, req *http.Request, pattern string, got *reply, schema *base.Schema) {
	t.Helper()
	if req.Method == http.MethodHead {
		return
	}
	if ok, errs := d.lines.ValidateSchemaBytes(schema, got.body); !ok {
		t.Errorf("%s: %s %s: body does not fit its schema: %s\n%.400s", pattern, req.Method, req.URL, reasons(errs), got.body)
	}
}

func reasons(errs []*errors.ValidationError) string {
	var all []string
	for _, err := range errs {
		all = append(all, err.Message)
		for _, cause := range err.SchemaValidationErrors {
			all = append(all, cause.Reason+" at "+cause.KeywordLocation)
		}
	}
	return strings.Join(all, "; ")
}

// patternOf returns the documented "METHOD /path/{name}" that a request is, or "".
func patternOf(d *document, req *http.Request) string {
	segments := strings.Split(req.URL.EscapedPath(), "/")
	method := req.Method
	if method == http.MethodHead {
		method = http.MethodGet
	}
	for path, item := range d.model.Paths.PathItems.FromOldest() {
		if _, ok := operations(item)[method]; !ok {
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

func operations(item *v3.PathItem) map[string]*v3.Operation {
	all := map[string]*v3.Operation{}
	for method, operation := range item.GetOperations().FromOldest() {
		all[strings.ToUpper(method)] = operation
	}
	return all
}

// openapi.yaml is valid by OpenAPI's own schema.
func TestDescriptionIsValid(t *testing.T) {
	if ok, errs := openapi(t).whole.ValidateDocument(); !ok {
		t.Error(reasons(errs))
	}
}

// Every route is described, and every description is a route.
func TestDescriptionHasEveryRoute(t *testing.T) {
	var described, routed []string
	for path, item := range openapi(t).model.Paths.PathItems.FromOldest() {
		for method := range operations(item) {
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
