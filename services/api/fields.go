package api

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"unicode/utf8"
)

// decodeFields reads a JSON object into its fields' raw values, as strictly as
// decodeObject: unknown fields and a field twice are refused.
func decodeFields(body []byte, known ...string) (map[string]json.RawMessage, error) {
	if len(bytes.TrimSpace(body)) == 0 {
		return nil, invalidBody("body is empty, want a JSON object", nil)
	}
	if !utf8.Valid(body) {
		return nil, invalidBody("body is not valid UTF-8", nil)
	}
	dec := json.NewDecoder(bytes.NewReader(body))
	dec.UseNumber()
	open, err := dec.Token()
	if err != nil {
		return nil, syntax(dec, err)
	}
	if open != json.Delim('{') {
		return nil, invalidBody("body is "+kindOf(open)+", want a JSON object", nil)
	}
	fields := map[string]json.RawMessage{}
	for dec.More() {
		token, err := dec.Token()
		if err != nil {
			return nil, syntax(dec, err)
		}
		name := token.(string) // the decoder yields nothing else where a key stands
		if !slices.Contains(known, name) {
			return nil, invalidBody(fmt.Sprintf("unknown field %q", name), map[string]any{"field": name})
		}
		if _, twice := fields[name]; twice {
			return nil, invalidBody(fmt.Sprintf("field %q stands twice", name), map[string]any{"field": name})
		}
		var value json.RawMessage
		if err := dec.Decode(&value); err != nil {
			return nil, syntax(dec, err)
		}
		fields[name] = value
	}
	if _, err := dec.Token(); err != nil { // the closing brace
		return nil, syntax(dec, err)
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return nil, invalidBody("there is more after the JSON object", map[string]any{"offset": dec.InputOffset()})
	}
	return fields, nil
}

// field decodes one field, if it is there, into a value of its kind.
func field(fields map[string]json.RawMessage, name string, into any, want string) error {
	raw, ok := fields[name]
	if !ok {
		return nil
	}
	if string(raw) == "null" || json.Unmarshal(raw, into) != nil {
		return invalidBody(fmt.Sprintf("field %q: want %s", name, want), map[string]any{"field": name})
	}
	return nil
}
