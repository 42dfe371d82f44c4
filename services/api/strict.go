package api

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"os"
	"strings"
	"unicode/utf8"

	"github.com/tachograph/tachograph/services/api/problem"
)

// readBody reads a whole body of at most limit bytes. The content type is not
// held against a client as long as it can be text: curl -d says that it sends
// a form, and what it sends is JSON.
func readBody(w http.ResponseWriter, r *http.Request, limit int64) ([]byte, error) {
	if enc := r.Header.Get("Content-Encoding"); enc != "" && !strings.EqualFold(enc, "identity") {
		return nil, problem.New(problem.UnsupportedMedia, fmt.Sprintf("read body: content encoding %q is not supported", enc), nil)
	}
	if ct := r.Header.Get("Content-Type"); ct != "" && !readable(ct) {
		return nil, problem.New(problem.UnsupportedMedia, fmt.Sprintf("read body: content type %q is not supported", ct), nil)
	}
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, limit))
	var tooLarge *http.MaxBytesError
	switch {
	case err == nil:
		return body, nil
	case errors.As(err, &tooLarge):
		return nil, problem.New(problem.PayloadTooLarge,
			fmt.Sprintf("read body: more than %d bytes", limit), map[string]any{"limit": limit})
	case errors.Is(err, os.ErrDeadlineExceeded):
		return nil, problem.New(problem.Timeout, "read body: it did not come in time", nil)
	default:
		return nil, problem.New(problem.InvalidBody, "read body: "+err.Error(), nil)
	}
}

func readable(contentType string) bool {
	media, _, err := mime.ParseMediaType(contentType)
	if err != nil {
		return false
	}
	switch media {
	case "application/json", "application/sql", "application/octet-stream", "application/x-www-form-urlencoded",
		"application/protobuf", "application/x-protobuf", "application/vnd.google.protobuf":
		return true
	}
	return strings.HasPrefix(media, "text/") || strings.HasSuffix(media, "+json")
}

// decodeObject reads a flat JSON object of strings into fields. It refuses
// what encoding/json lets pass and what is in truth a mistake: unknown fields,
// a field twice, another case of its name, text after the object, invalid
// UTF-8, half a surrogate pair.
func decodeObject(body []byte, fields map[string]*string) error {
	if len(bytes.TrimSpace(body)) == 0 {
		return invalidBody("body is empty, want a JSON object", nil)
	}
	if !utf8.Valid(body) {
		return invalidBody("body is not valid UTF-8", nil)
	}
	dec := json.NewDecoder(bytes.NewReader(body))
	dec.UseNumber()
	open, err := dec.Token()
	if err != nil {
		return syntax(dec, err)
	}
	if open != json.Delim('{') {
		return invalidBody("body is "+kindOf(open)+", want a JSON object", nil)
	}
	seen := make(map[string]bool, len(fields))
	for dec.More() {
		token, err := dec.Token()
		if err != nil {
			return syntax(dec, err)
		}
		name := token.(string) // the decoder yields nothing else where a key stands
		field, known := fields[name]
		if !known {
			return invalidBody(fmt.Sprintf("unknown field %q", name), map[string]any{"field": name})
		}
		if seen[name] {
			return invalidBody(fmt.Sprintf("field %q stands twice", name), map[string]any{"field": name})
		}
		seen[name] = true
		if token, err = dec.Token(); err != nil {
			return syntax(dec, err)
		}
		value, ok := token.(string)
		if !ok {
			return invalidBody(fmt.Sprintf("field %q is %s, want a string", name, kindOf(token)), map[string]any{"field": name})
		}
		if strings.ContainsRune(value, utf8.RuneError) && !bytes.Contains(body, []byte(string(utf8.RuneError))) {
			return invalidBody(fmt.Sprintf("field %q has half a surrogate pair", name), map[string]any{"field": name})
		}
		*field = value
	}
	if _, err := dec.Token(); err != nil { // the closing brace
		return syntax(dec, err)
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return invalidBody("there is more after the JSON object", map[string]any{"offset": dec.InputOffset()})
	}
	return nil
}

func invalidBody(message string, details map[string]any) error {
	return problem.New(problem.InvalidBody, "read body: "+message, details)
}

func syntax(dec *json.Decoder, err error) error {
	offset := dec.InputOffset()
	var at *json.SyntaxError
	if errors.As(err, &at) {
		offset = at.Offset
	}
	message := err.Error()
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		message = "it ends too early"
	}
	return invalidBody(fmt.Sprintf("not JSON at byte %d: %s", offset, message), map[string]any{"offset": offset})
}

func kindOf(token json.Token) string {
	switch token := token.(type) {
	case json.Delim:
		if token == '[' {
			return "an array"
		}
		return "an object"
	case json.Number:
		return "a number"
	case bool:
		return "a boolean"
	case string:
		return "a string"
	default:
		return "null"
	}
}
