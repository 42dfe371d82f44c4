package api

import (
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/tachograph/tachograph/events"
)

var update = flag.Bool("update", false, "rewrite the answers in testdata/*.txt")

// TestTranscripts plays the conversations in testdata: after ">" a request (method, path,
// who asks), the lines of its body, and after "<" what is answered. Tokens stand as
// TOKEN, times as now. -update writes the answers anew; read the diff.
func TestTranscripts(t *testing.T) {
	files, err := filepath.Glob("testdata/*.txt")
	if err != nil || len(files) == 0 {
		t.Fatalf("%d transcripts: %v", len(files), err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txt"), func(t *testing.T) {
			want, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			got := play(t, string(want))
			if *update {
				if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
					t.Fatal(err)
				}
				return
			}
			if got != string(want) {
				t.Errorf("the answers differ (go test -run Transcripts -update, then read the diff):\n%s", got)
			}
		})
	}
}

func play(t *testing.T, script string) string {
	f := newFixture(t)
	tokens := map[string]string{"admin": "admin"}
	var out strings.Builder
	var request *call
	flush := func() {
		if request == nil {
			return
		}
		got := f.do(*request)
		var d deviceToken
		if json.Unmarshal(got.body, &d) == nil && d.Token != "" {
			tokens[d.ID] = d.Token
		}
		fmt.Fprintf(&out, "< %d %s\n%s", got.status, describeHeader(got.header), plain(got))
		request = nil
	}
	answering := false
	for line := range strings.Lines(script) {
		switch {
		case strings.HasPrefix(line, "> "):
			flush()
			answering = false
			out.WriteString(line)
			method, rest, _ := strings.Cut(strings.TrimSpace(line[2:]), " ")
			path, who, _ := strings.Cut(rest, " ")
			request = &call{method: method, path: path, token: tokens[who]}
		case strings.HasPrefix(line, "< "):
			answering = true
			flush()
		case strings.HasPrefix(line, "! "): // a message stored by the gateway: device type payload
			flush()
			answering = false
			out.WriteString(line)
			fields := strings.SplitN(strings.TrimSpace(line[2:]), " ", 3)
			f.append(fields[0], fields[1], fields[2])
			if _, err := f.kv.Put(t.Context(), events.Escape(fields[0]), []byte(stateOfCar1)); err != nil {
				t.Fatal(err)
			}
		case strings.HasPrefix(line, "#") || strings.TrimSpace(line) == "":
			flush()
			answering = false
			out.WriteString(line)
		case !answering && request != nil:
			request.body += line
			out.WriteString(line)
		}
	}
	flush()
	return out.String()
}

func describeHeader(h http.Header) string {
	var all []string
	for _, name := range []string{"Content-Type", "Location", "Allow", "Retry-After", "WWW-Authenticate"} {
		if v := h.Get(name); v != "" {
			all = append(all, name+": "+v)
		}
	}
	return strings.Join(all, "; ")
}

var (
	anyToken = regexp.MustCompile(`tacho_[A-Za-z0-9_-]{43}`)
	anyID    = regexp.MustCompile(`"id":"[A-Za-z0-9_-]{22}"`)
	anySeq   = regexp.MustCompile(`"partition":256,"seq":\d+`) // built-in schemas come and go
	anyMark  = regexp.MustCompile(`"token":"(\d+\.\d+\.\d+)[^"]*"`)
	anyTime  = regexp.MustCompile(`"(added|time|received)":( ?)"20\d\d-\d\d-\d\dT[0-9:.]+Z"`)
)

// plain is a body as the transcript has it: JSON indented unless it is a stream.
func plain(got reply) string {
	body := got.body
	var indented bytes.Buffer
	if got.header.Get("Content-Type") == "application/json" && json.Indent(&indented, body, "", "  ") == nil {
		body = indented.Bytes()
	}
	body = anyToken.ReplaceAll(body, []byte("TOKEN"))
	body = anyID.ReplaceAll(body, []byte(`"id":"ID"`))
	body = anyMark.ReplaceAll(body, []byte(`"token":"$1.ID"`))
	body = anySeq.ReplaceAll(body, []byte(`"partition":256,"seq":"n"`))
	return string(anyTime.ReplaceAll(body, []byte(`"$1":$2"now"`)))
}
