package api

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/tachograph/tachograph/services/api/problem"
)

func TestDecodeObject(t *testing.T) {
	for _, c := range []struct{ body, id, text, refusal string }{
		{body: `{"id":"car-1"}`, id: "car-1"},
		{body: " {\n\"id\" : \"a\",\t\"text\":\"b\"} \n", id: "a", text: "b"},
		{body: `{}`},
		{body: `{"id":"\u00e4\ud83d\ude97"}`, id: "ä🚗"},
		{body: "{\"id\":\"\uFFFD\"}", id: "\uFFFD"},
		{body: ``, refusal: "body is empty"},
		{body: "  \n", refusal: "body is empty"},
		{body: `[]`, refusal: "body is an array"},
		{body: `"car-1"`, refusal: "body is a string"},
		{body: `null`, refusal: "body is null"},
		{body: `7`, refusal: "body is a number"},
		{body: `true`, refusal: "body is a boolean"},
		{body: `{"id":"a"`, refusal: "ends too early"},
		{body: `{"id"`, refusal: "ends too early"},
		{body: `{"id":"a",}`, refusal: "not JSON at byte"},
		{body: `{"id":"a"} x`, refusal: "more after"},
		{body: `{"id":"a"}{"id":"b"}`, refusal: "more after"},
		{body: `{"id":"a","id":"b"}`, refusal: `field "id" stands twice`},
		{body: `{"ID":"a"}`, refusal: `unknown field "ID"`},
		{body: `{"name":"a"}`, refusal: `unknown field "name"`},
		{body: `{"id":7}`, refusal: `field "id" is a number`},
		{body: `{"id":null}`, refusal: `field "id" is null`},
		{body: `{"id":["a"]}`, refusal: `field "id" is an array`},
		{body: `{"id":{"id":"a"}}`, refusal: `field "id" is an object`},
		{body: `{"id":"\ud83d"}`, refusal: "half a surrogate pair"},
		{body: "{\"id\":\"\xff\"}", refusal: "not valid UTF-8"},
		{body: "\xef\xbb\xbf{}", refusal: "not JSON at byte"},
		{body: strings.Repeat("[", 100000), refusal: "body is an array"},
	} {
		var id, text string
		err := decodeObject([]byte(c.body), map[string]*string{"id": &id, "text": &text})
		if c.refusal == "" {
			if err != nil || id != c.id || text != c.text {
				t.Errorf("%.40q: id %q, text %q, error %v", c.body, id, text, err)
			}
			continue
		}
		var p *problem.Problem
		if !errors.As(err, &p) || p.Code != problem.InvalidBody || !strings.Contains(p.Message, c.refusal) {
			t.Errorf("%.40q: error %v, want %q", c.body, err, c.refusal)
		}
	}
}

// FuzzDecodeObject: what is taken is an object that encoding/json reads the
// same way, and what comes out of it is UTF-8.
func FuzzDecodeObject(f *testing.F) {
	for _, seed := range []string{`{"id":"car-1"}`, `{"id":"a","text":"\ud83d\ude97"}`, `{"id":"a","id":"b"}`, `{"id":{}}`, `[`, `{"id":"\ud800"}`, "\xff"} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		var id, text string
		if decodeObject(body, map[string]*string{"id": &id, "text": &text}) != nil {
			return
		}
		var want map[string]string
		if err := json.Unmarshal(body, &want); err != nil {
			t.Fatalf("taken, but encoding/json says %v", err)
		}
		if id != want["id"] || text != want["text"] {
			t.Fatalf("id %q, text %q, want %v", id, text, want)
		}
		if !utf8.ValidString(id) || !utf8.ValidString(text) {
			t.Fatalf("id %q, text %q: not UTF-8", id, text)
		}
	})
}
