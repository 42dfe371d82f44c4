package schemas

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"strings"
)

// A doc is a JSON value of a schema document with its members in the order in
// which they were written: columns follow it.
type doc struct {
	members []member // of an object
	object  bool
	items   []*doc // of an array
	array   bool
	scalar  any // string, json.Number, bool or nil
}

type member struct {
	key   string
	value *doc
}

// parseDoc reads one JSON value. Keys that stand twice are refused.
func parseDoc(text string) (*doc, error) {
	dec := json.NewDecoder(strings.NewReader(text))
	dec.UseNumber()
	d, err := readDoc(dec, 0)
	if err == nil {
		if _, more := dec.Token(); more != io.EOF {
			err = fmt.Errorf("text after the document")
		}
	}
	if err != nil {
		line, column := position(text, int(dec.InputOffset()))
		return nil, &InvalidError{Line: line, Column: column, Detail: err.Error()}
	}
	return d, nil
}

func position(text string, offset int) (line, column int) {
	before := []byte(text[:min(offset, len(text))])
	return 1 + bytes.Count(before, []byte{'\n'}), len(before) - bytes.LastIndexByte(before, '\n')
}

func readDoc(dec *json.Decoder, depth int) (*doc, error) {
	if depth > 100 {
		return nil, fmt.Errorf("document is nested more than 100 levels deep")
	}
	token, err := dec.Token()
	if err != nil {
		return nil, err
	}
	d := &doc{}
	switch token {
	case json.Delim('{'):
		d.object = true
		for dec.More() {
			key, err := dec.Token()
			if err != nil {
				return nil, err
			}
			if d.get(key.(string)) != nil {
				return nil, fmt.Errorf("key %q stands twice", key)
			}
			value, err := readDoc(dec, depth+1)
			if err != nil {
				return nil, err
			}
			d.members = append(d.members, member{key.(string), value})
		}
		_, err = dec.Token()
	case json.Delim('['):
		d.array = true
		for dec.More() {
			value, err := readDoc(dec, depth+1)
			if err != nil {
				return nil, err
			}
			d.items = append(d.items, value)
		}
		_, err = dec.Token()
	default:
		d.scalar = token
	}
	return d, err
}

// get returns a member's value, nil if there is none.
func (d *doc) get(key string) *doc {
	for _, m := range d.members {
		if m.key == key {
			return m.value
		}
	}
	return nil
}

// text returns a member that is a string, "" if there is none.
func (d *doc) text(key string) string {
	if v := d.get(key); v != nil {
		s, _ := v.scalar.(string)
		return s
	}
	return ""
}

// number returns a member that is a number.
func (d *doc) number(key string) (v float64, ok bool) {
	if m := d.get(key); m != nil {
		if n, is := m.scalar.(json.Number); is {
			v, err := n.Float64()
			return v, err == nil
		}
	}
	return 0, false
}

// strings returns a member that is an array of strings, or one string.
func (d *doc) strings(key string) []string {
	m := d.get(key)
	if m == nil {
		return nil
	}
	if s, ok := m.scalar.(string); ok {
		return []string{s}
	}
	var all []string
	for _, item := range m.items {
		if s, ok := item.scalar.(string); ok {
			all = append(all, s)
		}
	}
	return all
}
